"""Notebooks run from top to bottom, and show what they show when they are run."""

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MACHINE = re.compile(r"(/home/|/root|/tmp|/work|/Users/|\b[A-Z]:\\)")


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
