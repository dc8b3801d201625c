"""Caveats: an arm whose seeds, first policy or verdicts are not what a comparison takes for granted is named."""

import json
from pathlib import Path

import pytest

from aipo.compare.caveats import Caveat, caveats
from aipo.compare.matrix import Matrix, read_matrix
from aipo.compare.results import read_outcomes
from aipo.util.files import write_json
from kit.matrices import TWO_ARMS, finish, finish_all, matrix_file


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    return read_matrix(matrix_file(tmp_path, TWO_ARMS))


def told(matrix: Matrix) -> tuple[Caveat, ...]:
    return caveats(matrix, read_outcomes(matrix))


def test_seeds_that_were_made_of_other_things_are_told(matrix: Matrix) -> None:
    finish_all(matrix, {"grpo": 0.1, "twice": 0.8}, facts=2)
    assert told(matrix) == ()
    folder = matrix.cell("twice", 11).folder
    edited = {"packages": {"torch": "3"}, "files": {"env": {"file": "e.py", "fingerprint": "2"}}}
    write_json(folder.manifest, edited)
    said = (Caveat(kind="mixed", arm="twice", text="its seeds differ in env, torch"),)
    assert told(matrix) == said
    folder.manifest.unlink()  # a run of somebody who keeps none
    assert told(matrix) == said


def test_an_arm_that_begins_from_another_policy_is_told(tmp_path: Path) -> None:
    text = TWO_ARMS + "  other: {config: aipo, set: ['policy.options={course: distractors}']}\n"
    matrix = read_matrix(matrix_file(tmp_path, text))
    assert [(one.kind, one.arm) for one in told(matrix)] == [("apart", "other")]


def test_rollouts_without_a_verdict_are_counted(matrix: Matrix) -> None:
    finish(matrix.cell("twice", 10), 0.8, facts=2)  # 2 splits x 3 settings x 4 tasks x 4 samples
    file = matrix.cell("twice", 10).folder.evaluation("after")
    found = json.loads(file.read_text())
    found["heldout"]["solo"]["per_task"][0] |= {"verdicts": 1, "correct": 1, "failed": 3}
    write_json(file, found)
    (one,) = told(matrix)
    assert (one.kind, one.arm) == ("unscored", "twice")
    assert one.text.startswith("3 of 96 evaluated rollouts have no verdict")
