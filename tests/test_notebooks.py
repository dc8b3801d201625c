"""Notebooks run from top to bottom, and show what they show when they are run."""

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MACHINE = re.compile(r"(/home/|/root|/tmp|/work|/Users/|[A-Z]:\\)")


def outputs(notebook: Any) -> list[list[str]]:
    """What each cell shows: printed text, and results as text. A slow machine sends what is printed in several parts."""

    def text(output: Any) -> str:
        return output.get("text") or output.get("data", {}).get("text/plain", "")

    return [
        [
            "".join(map(text, group))
            for _, group in groupby(cell.get("outputs", []), lambda o: o["output_type"])
        ]
        for cell in notebook.cells
    ]


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS][:2] == ["01_one_rollout.ipynb", "02_traces.ipynb"]


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
