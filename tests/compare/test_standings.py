"""Standings: every arm against the reference, and what summary.json says."""

import json
from pathlib import Path
from typing import Any

import pytest

from aipo.compare.matrix import Matrix
from aipo.compare.results import read_results
from aipo.compare.standings import Standings, compute_standings, summary
from kit.matrices import finish, finish_all, make_matrix

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
    return make_matrix(tmp_path, TEXT)


def standings_of(matrix: Matrix) -> tuple[Standings, Any]:
    """The standings, and summary.json as it is read."""
    results = read_results(matrix)
    standings = compute_standings(matrix, results)
    return standings, json.loads(json.dumps(summary(matrix, results, standings), allow_nan=False))


def test_every_arm_stands_against_the_reference(matrix: Matrix) -> None:
    finish_all(matrix, RATES)
    standings, plain = standings_of(matrix)
    of = {arm: standings.of[matrix.measure, arm] for arm in standings.arms}
    assert {arm: one.verdict for arm, one in of.items()} == {
        "before": "worse",
        "grpo": None,
        "mask": "tie",
        "aipo": "better",
    }
    assert of["grpo"].difference is None and of["aipo"].difference is not None
    values = {arm: one.estimate.mean for arm, one in of.items() if one.estimate}
    assert of["aipo"].difference.mean == pytest.approx(values["aipo"] - values["grpo"])
    assert set(standings.costs) == {"grpo", "mask", "aipo"}
    assert plain["winner"] == {"name": "aipo", "best": "aipo", "tied": ["aipo"]}
    assert plain["incomplete"] == plain["missing"] == []


def test_where_a_seed_is_missing_arms_are_compared_and_none_wins(matrix: Matrix) -> None:
    for seed in matrix.seeds:
        finish(matrix.cell("mask", seed), 0.1)
    for arm, seed in (("grpo", 10), ("grpo", 11), ("aipo", 11), ("aipo", 12)):
        finish(matrix.cell(arm, seed), RATES[arm])
    standings, plain = standings_of(matrix)
    assert standings.arms == ("grpo", "mask", "aipo")
    paired = standings.of[matrix.measure, "aipo"].difference
    assert paired is not None and list(paired.by_seed) == [11]
    assert standings.of[matrix.measure, "aipo"].verdict is None  # one seed
    assert standings.winner is None and plain["winner"] is None
    assert plain["incomplete"] == ["grpo", "aipo"]
    missing = [(one["arm"], one["seed"]) for one in plain["missing"]]
    assert missing == [("before", 10), ("before", 11), ("before", 12), ("aipo", 10), ("grpo", 12)]


def test_nothing_there_has_no_standings(matrix: Matrix) -> None:
    standings, plain = standings_of(matrix)
    assert (standings.arms, standings.winner, standings.costs) == ((), None, {})
    assert len(plain["missing"]) == 12


def test_the_summary_says_all_of_an_arm(matrix: Matrix) -> None:
    finish_all(matrix, RATES)
    matrix.cell("mask", 12).folder.evaluation("after").unlink()
    _, plain = standings_of(matrix)
    assert plain["measure"] == {"split": "heldout", "setting": "solo", "k": 1}
    mask = plain["arms"]["mask"]
    assert mask["seeds"] == [10, 11] and mask["cost"]["agent_calls"] == 160.0
    first = mask["measures"][0]
    assert first["verdict"] == "tie" and first["paired_seeds"] == [10, 11]
    assert first["least"] <= first["median"] <= first["most"] and set(first["by_seed"]) == {"10", "11"}
    assert plain["arms"]["before"]["cost"] is None
    assert plain["arms"]["grpo"]["measures"][0]["difference"] is None
