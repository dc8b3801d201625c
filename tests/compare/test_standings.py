"""Standings: every arm against the reference, and what summary.json says."""

import json
from pathlib import Path
from typing import Any

import pytest

from aipo.compare.matrix import Matrix, read_matrix
from aipo.compare.results import read_results
from aipo.compare.standings import compute_standings, summary
from aipo.util.files import write_json
from kit.matrices import finish, finish_all, matrix_file

TEXT = """
seeds: [10, 11, 12]
set: [evaluate.samples=4, "evaluate.ks=[1, 4]"]
reference: grpo
arms:
  grpo: {config: grpo}
  mask: {config: mask}
  aipo: {config: aipo}
"""
RATES = {"grpo": 0.05, "mask": 0.06, "aipo": 0.9}


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    return read_matrix(matrix_file(tmp_path, TEXT))


def test_every_arm_stands_against_the_reference(matrix: Matrix) -> None:
    finish_all(matrix, RATES)
    standings = compute_standings(matrix, read_results(matrix))
    assert standings.arms == ("before", "grpo", "mask", "aipo")
    of = {arm: standings.of[matrix.measure, arm] for arm in standings.arms}
    assert {arm: one.verdict for arm, one in of.items()} == {
        "before": "worse",
        "grpo": None,
        "mask": "tie",
        "aipo": "better",
    }
    assert of["grpo"].difference is None
    values = {arm: one.estimate.mean for arm, one in of.items() if one.estimate}
    assert of["aipo"].difference is not None
    assert of["aipo"].difference.mean == pytest.approx(values["aipo"] - values["grpo"])
    assert standings.winner is not None and standings.winner.name == "aipo"
    assert standings.incomplete == ()
    assert set(standings.costs) == {"grpo", "mask", "aipo"}


def test_where_a_seed_is_missing_arms_are_compared_and_none_wins(matrix: Matrix) -> None:
    for seed in matrix.seeds:
        finish(matrix.cell("mask", seed), 0.1)
    for arm, seed in (("grpo", 10), ("grpo", 11), ("aipo", 11), ("aipo", 12)):
        finish(matrix.cell(arm, seed), RATES[arm])
    standings = compute_standings(matrix, read_results(matrix))
    assert standings.arms == ("grpo", "mask", "aipo")
    paired = standings.of[matrix.measure, "aipo"].difference
    assert paired is not None and list(paired.by_seed) == [11]
    assert standings.of[matrix.measure, "aipo"].verdict is None  # one seed
    assert standings.winner is None
    assert standings.incomplete == ("grpo", "aipo")


def test_nothing_there_has_no_standings(matrix: Matrix) -> None:
    standings = compute_standings(matrix, read_results(matrix))
    assert (standings.arms, standings.winner, standings.costs) == ((), None, {})
    assert len(summary(matrix, read_results(matrix), standings)["missing"]) == 12


def test_the_summary_is_plain_and_says_all(matrix: Matrix, tmp_path: Path) -> None:
    finish_all(matrix, RATES)

    def say() -> Any:
        results = read_results(matrix)
        write_json(tmp_path / "summary.json", summary(matrix, results, compute_standings(matrix, results)))
        return json.loads((tmp_path / "summary.json").read_text())

    said = say()
    assert said["winner"] == {"name": "aipo", "best": "aipo", "tied": ["aipo"]} and said["incomplete"] == []
    matrix.cell("mask", 12).folder.evaluation("after").unlink()
    said = say()
    assert said["winner"] is None and said["incomplete"] == ["mask"]
    assert [(one["arm"], one["seed"]) for one in said["missing"]] == [("mask", 12)]
    assert said["measure"] == {"split": "heldout", "setting": "solo", "k": 1}
    mask = said["arms"]["mask"]
    assert mask["seeds"] == [10, 11] and mask["cost"]["agent_calls"] == 160.0
    first = mask["measures"][0]
    assert first["verdict"] == "tie" and first["paired_seeds"] == [10, 11]
    assert first["least"] <= first["median"] <= first["most"] and set(first["by_seed"]) == {"10", "11"}
    assert said["arms"]["before"]["cost"] is None
    assert said["arms"]["grpo"]["measures"][0]["difference"] is None
