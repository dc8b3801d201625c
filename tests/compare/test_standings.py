"""Standings: every arm against the reference, and what summary.json says."""

import json
from typing import Any

import pytest

from aipo.compare.matrix import Matrix, Measure
from aipo.compare.results import read_results
from aipo.compare.standings import Standings, compute_standings, summary
from kit.matrices import finish


def standings_of(matrix: Matrix) -> tuple[Standings, Any]:
    """The standings, and summary.json as it is read."""
    results = read_results(matrix)
    standings = compute_standings(matrix, results)
    return standings, json.loads(json.dumps(summary(matrix, results, standings), allow_nan=False))


def test_every_arm_stands_against_the_reference(finished: Matrix) -> None:
    standings, plain = standings_of(finished)
    of = {arm: standings.of[finished.measure, arm] for arm in standings.arms}
    verdicts = {"before": "worse", "grpo": None, "twice": "better", "aipo": "better"}
    assert {arm: one.verdict for arm, one in of.items()} == verdicts
    easy = Measure(split="easy", setting="solo", k=1)
    assert standings.of[easy, "aipo"].verdict == "tie"
    assert of["grpo"].difference is None and of["aipo"].difference is not None
    values = {arm: one.estimate.mean for arm, one in of.items() if one.estimate}
    assert of["aipo"].difference.mean == pytest.approx(values["aipo"] - values["grpo"])
    assert set(standings.costs) == {"grpo", "twice", "aipo"}
    assert plain["winner"] == {"name": "twice", "best": "twice", "tied": ["twice", "aipo"]}
    assert plain["incomplete"] == plain["missing"] == []


def test_where_a_seed_is_missing_arms_are_compared_and_none_wins(matrix: Matrix) -> None:
    for arm, seed in (("grpo", 10), ("twice", 10), ("twice", 11), ("aipo", 10)):
        finish(matrix.cell(arm, seed), 0.1)
    standings, plain = standings_of(matrix)
    assert standings.arms == ("grpo", "twice", "aipo")
    paired = standings.of[matrix.measure, "twice"].difference
    assert paired is not None and list(paired.by_seed) == [10]
    assert standings.of[matrix.measure, "twice"].verdict is None  # one seed
    assert standings.winner is None and plain["winner"] is None
    assert plain["incomplete"] == ["grpo", "aipo"]
    missing = [(one["arm"], one["seed"]) for one in plain["missing"]]
    assert missing == [("before", 10), ("before", 11), ("grpo", 11), ("aipo", 11)]


def test_nothing_there_has_no_standings(matrix: Matrix) -> None:
    standings, plain = standings_of(matrix)
    assert (standings.arms, standings.winner, standings.costs) == ((), None, {})
    assert len(plain["missing"]) == 8


def test_the_summary_says_all_of_an_arm(finished: Matrix) -> None:
    finished.cell("twice", 11).folder.evaluation("after").unlink()
    _, plain = standings_of(finished)
    assert plain["measure"] == {"split": "heldout", "setting": "solo", "k": 1}
    twice = plain["arms"]["twice"]
    assert twice["seeds"] == [10] and twice["cost"]["agent_calls"] == 160.0
    first = twice["measures"][0]
    assert first["verdict"] is None and first["paired_seeds"] == [10] and set(first["by_seed"]) == {"10"}
    assert first["least"] <= first["median"] <= first["most"]
    assert plain["arms"]["before"]["cost"] is None
    assert plain["arms"]["grpo"]["measures"][0]["difference"] is None
