"""Notebooks run from top to bottom, and show what they show when they are run."""

import ast
import importlib
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MACHINE = re.compile(r"(/home/|/root|/tmp|/work|/Users/|\b[A-Z]:\\)")
USED = {
    "aipo.config.build": {"load_experiment"},
    "aipo.doctor.run": {"diagnose"},
    "aipo.evaluate.run": {"evaluate_folder"},
    "aipo.evaluate.tasks": {"judge", "show_tasks"},
    "aipo.policies.scripted": {"ScriptedPolicy"},
    "aipo.policies.tokenizer": {"HFTokenizer"},
    "aipo.render": {"show"},
    "aipo.render.graph_svg": {"STYLE", "graph_svg"},
    "aipo.replay.questions.consults": {"consults_against_group"},
    "aipo.replay.questions.credit": {"replay_credit"},
    "aipo.replay.questions.loss": {"replay_loss"},
    "aipo.replay.questions.rerun": {"ReplaySource", "check_traces"},
    "aipo.replay.recordings": {"Recordings"},
    "aipo.replay.restore": {"restore"},
    "aipo.rollout": {"AgentSpec", "AgentState", "RolloutContext", "RolloutSpec", "Task"},
    "aipo.run": {"RunFolder"},
    "aipo.trace": {"Mode"},
    "aipo.trace.filters": {"EVERYTHING", "Filter"},
    "aipo.trace.index": {"TraceIndex"},
    "aipo.trace.store": {"TraceStore"},
    "aipo.trace.token_stats": {"TokenStatsStore"},
    "aipo.train.run": {"train_run"},
}
"""What is imported of AIPO, by module. A reader copies it: it is not moved without need."""


def outputs(notebook: Any) -> list[list[str]]:
    """What each cell shows: printed text, and results as text. A slow machine sends what is printed in several parts.

    Their HTML has measured times and style sheets, and pictures depend on fonts.
    """

    def text(output: Any) -> str:
        return output.get("text") or output.get("data", {}).get("text/plain", "")

    return [
        [
            "".join(map(text, group))
            for _, group in groupby(cell.get("outputs", []), lambda o: o["output_type"])
        ]
        for cell in notebook.cells
    ]


def test_they_are_opened_in_this_order() -> None:
    names = ["01_tour", "02_your_agent_and_environment", "03_your_model"]
    assert [path.stem for path in NOTEBOOKS] == names


def test_they_import_of_aipo_what_is_listed_and_there() -> None:
    used: dict[str, set[str]] = {}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        code = [cell.source.partition(".py\n") for cell in cells if cell.cell_type == "code"]
        written = [text for head, _, text in code if head.startswith("%%writefile")]
        typed = ["".join(parts) for parts in code if not parts[0].startswith("%%")]
        for text in (*written, *typed):
            tree = compile(text, path.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("aipo"):
                    used.setdefault(str(node.module), set()).update(alias.name for alias in node.names)
    assert used == USED
    assert all(
        hasattr(importlib.import_module(module), name) for module, names in USED.items() for name in names
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_the_machine_is_stored(path: Path) -> None:
    found = MACHINE.search(path.read_text(encoding="utf-8"))
    assert found is None, found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_is_stored(path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    run = nbformat.read(path, as_version=4)
    NotebookClient(run, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert outputs(run) == outputs(stored), f"run: jupyter execute --inplace notebooks/{path.name}"
