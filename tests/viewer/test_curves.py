"""Curves: the lines of a rollout step become one, and the charts say what the numbers say."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.render.charts import Chart
from aipo.viewer.pages.curves import Curves, StepWindow, by_step, curves, windows

# Two optimizer steps in each of two rollout steps; the rollouts' metrics come with the first of them.
ROWS: list[dict[str, Any]] = [
    {"step": 1, "epoch": 0.5, "reward/solo": 0.0, "reward/assisted": 1.0, "rollouts/solo": 3.0,
     "rollouts/assisted": 1.0, "consults/verify": 0.5, "consult_errors/verify": 0.5, "consults/unknown": 0.0,
     "clip/policy": 0.0, "mismatch/max": 0.1},
    {"step": 2, "epoch": 1.0, "clip/policy": 0.2, "mismatch/max": 0.3},
    {"step": 3, "epoch": 1.5, "reward/solo": 0.5, "rollouts/solo": 4.0, "consults/verify": 0.0,
     "clip/policy": None, "mismatch/max": 0.2},
    {"step": 4, "epoch": 2.0, "clip/policy": 0.4, "mismatch/max": None},
]  # fmt: skip


def chart(of: Curves, title: str) -> Chart:
    (one,) = [chart for chart in of.charts if chart.title == title]
    return one


def values(of: Curves, title: str) -> Mapping[str, Any]:
    """What hovering over a chart shows."""
    return {line["name"]: line.get("raw", line["y"]) for line in chart(of, title).data()["lines"]}


def test_a_rollout_step_is_the_mean_of_its_optimizer_steps() -> None:
    first, second = by_step(ROWS)
    assert (first.first, first.last, second.first) == (0, 0, 1)
    assert first.values["clip/policy"] == pytest.approx(0.1)
    assert first.values["mismatch/max"] == 0.3  # the worst of the worst
    assert second.values["clip/policy"] == 0.4  # what was not finite counts nowhere
    assert "epoch" not in first.values and "step" not in first.values
    # Kinds count by their rollouts; failing consults are none where nobody asks.
    means = [(w.values["reward/mean"], w.values["failing/verify"]) for w in (first, second)]
    assert means == [(0.25, 0.25), (0.5, 0.0)]
    assert [w.first for w in by_step([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}])] == [0, 1]


def test_a_point_stands_for_neighbours() -> None:
    steps = [StepWindow(i, i, {"loss": float(i), "mismatch/max": float(i)}) for i in range(5)]
    assert windows(steps, 3) == [
        StepWindow(0, 1, {"loss": 0.5, "mismatch/max": 1.0}),
        StepWindow(2, 3, {"loss": 2.5, "mismatch/max": 3.0}),
        StepWindow(4, 4, {"loss": 4.0, "mismatch/max": 4.0}),
    ]


@given(st.integers(0, 300), st.integers(1, 50))
def test_no_step_is_lost_and_there_are_not_too_many_points(count: int, most: int) -> None:
    found = windows(by_step([{"step": i + 1, "loss": 1.0} for i in range(count)]), most)
    assert len(found) <= most
    assert [step for w in found for step in range(w.first, w.last + 1)] == list(range(count))


def test_charts_hold_the_numbers_under_the_pointer() -> None:
    found = curves(ROWS, ["verify", "unknown"])
    assert values(found, "Reward") == {"solo": [0.0, 0.5], "assisted": [1.0, None], "mean": [0.25, 0.5]}
    assert values(found, "Clip") == {"policy": [0.1, 0.4]}
    assert '"spans":[[0,0],[1,1]]' in found.data
    titles = [chart.title for chart in found.charts]
    assert titles == ["Reward", "Consults", "Consults that fail", "Clip", "Mismatch"]
    assert found.data.count('"title"') == len(found.figures) == found.shown


def test_axes_and_colours() -> None:
    found = curves(
        [*ROWS, {"step": 5, "epoch": 2.5, "loss": -3.0, "active_share": 0.5}], ["knowledge", "verify"]
    )
    assert {one.x_range for one in found.charts} == {(0.0, 2.0)}
    assert chart(found, "What teaches").y_range == (0.0, 1.0)  # a share has the whole axis, a loss its own
    assert chart(found, "Loss").y_range is None
    # An agent has the colour of its place.
    assert [(line.name, line.colour) for line in chart(found, "Consults").lines] == [("verify", "k1")]


@pytest.mark.parametrize(
    ("row", "charts", "shown"),
    [
        ({"reward_part/brief/solo": 0.5, "reward_part/correct/solo": 1.0},
         {"Accuracy": ["solo"], "Reward part brief": ["solo"]}, 1),
        ({"solo/easy": 0.5, "solo/hard": 0.0}, {"Solo, by split": ["easy", "hard"]}, 1),
        ({"solo/easy": 0.5}, {}, 0),  # one split is all that there is
        ({"loss": None}, {}, 0),
    ],
)  # fmt: skip
def test_which_charts_there_are(row: dict[str, Any], charts: dict[str, list[str]], shown: int) -> None:
    found = curves([{"step": 1, **row}], [])
    assert {one.title: [line.name for line in one.lines] for one in found.charts} == charts
    assert found.shown == shown


def test_without_metrics_there_is_no_chart() -> None:
    assert curves([], ["verify"]) == Curves()
