"""Limits: costs by hand and what counts twice; what counts as an agent's own failure; and where a run stops."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from aipo.errors import LimitError
from aipo.render.consults import UNASKED
from aipo.rollout.agent import Prices
from aipo.rollout.run_limits import ENOUGH, WINDOW, AskWatch, CostLimit, FailureRateLimit
from aipo.trace import Call, Consult, Fault, Mode, StopReason, Trace
from kit import handmade
from kit.handmade import consult, policy, prompt, trace, visit

OK = consult(1, 0, 2)
OTHER = consult(1, 0, 2, agent="verify")
DOWN = consult(1, 0, 2, reply=None, error="ConnectionError: refused", fault=Fault.UNAVAILABLE)
WRONG = consult(1, 0, 2, reply=None, error="unknown: No agent", fault=Fault.UNKNOWN)


def rollout(*consults: Consult) -> Trace:
    return trace(prompt(2), policy(3), policy(4), consults=consults)


@pytest.mark.parametrize(
    ("limit", "before", "last", "says"),
    [
        (
            0.5,  # as soon as enough have been seen
            [rollout(DOWN)] * (ENOUGH - 1),
            rollout(DOWN),
            r"got 32 of the last 32 \(knowledge 32 of 32\), allowed a share of 0\.5 \(rollout\.failure_limit\).*"
            r"The last one: knowledge: ConnectionError: refused.*--resume",
        ),
        # One good and one bad consult leave the window.
        (0.5, [rollout(OK, DOWN)] * WINDOW, rollout(DOWN, DOWN), "got 33 of the last 64"),
        # What the policy asked wrongly does not count.
        (
            0.0,
            [rollout(WRONG)] * WINDOW + [rollout(OK)] * (ENOUGH - 1),
            rollout(DOWN),
            "got 1 of the last 32",
        ),
        (0.25, [], rollout(*[DOWN, OTHER] * 16), r"got 16 of the last 32 \(knowledge 16 of 16\)"),
    ],
)
def test_it_stops_when_agents_fail_too_often(
    limit: float, before: list[Trace], last: Trace, says: str
) -> None:
    failures = FailureRateLimit(limit)
    for each in before:
        failures.add(each)
    with pytest.raises(LimitError, match=says):
        failures.add(last)


SILENT, ASSISTED = trace(prompt(2), policy(3)), {"mode": Mode.ASSISTED}
NOBODY = consult(1, 0, 2, agent="", reply=None, error="malformed", fault=Fault.MALFORMED)


@pytest.mark.parametrize(
    ("rollouts", "warnings"),
    [
        ([replace(SILENT, **ASSISTED)] * (UNASKED - 1), 0),
        ([replace(SILENT, **ASSISTED)] * UNASKED * 3, 1),  # once
        ([replace(rollout(OK), **ASSISTED), *[replace(SILENT, **ASSISTED)] * UNASKED], 0),
        (
            [replace(rollout(NOBODY), **ASSISTED), *[replace(SILENT, **ASSISTED)] * UNASKED],
            0,
        ),  # a wrong request
        ([SILENT] * UNASKED, 0),  # solo
        ([trace(stop_reason=StopReason.ERROR, reward=None, **ASSISTED)] * UNASKED, 0),
    ],
)
def test_a_policy_that_never_asks_is_noticed_once(rollouts: list[Trace], warnings: int) -> None:
    said: list[str] = []
    watch = AskWatch(said.append)
    for each in rollouts:
        watch.add(each)
    assert len(said) == warnings
    if said:
        assert (
            said[0].startswith("no agent was asked in 64 assisted rollouts; ") and "`aipo warmup`" in said[0]
        )


def test_without_a_limit_nothing_stops() -> None:
    FailureRateLimit(None).add(rollout(*[DOWN] * WINDOW))


def call(cost: float | None = None, error: str | None = None) -> Call:
    return replace(handmade.call(0, 1, cost=cost, error=error), agent="verify")


def paid_rollout(index: int, *calls: Call, **changes: object) -> Trace:
    visits = (visit("verify", 0, 1, "ok", *calls),)
    return trace(prompt(2), policy(3), trace_id=f"r/{index}", index=index, visits=visits, **changes)


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [((1_000_000, 0), 0.5), ((3000, 500), 0.0025), ((None, 500), None), ((3000, None), None)],
)
def test_prices_are_per_million_tokens(tokens: tuple[int, int], cost: float | None) -> None:
    assert Prices(input=0.5, output=2.0).cost(*tokens) == (cost and pytest.approx(cost))


def test_every_rollout_counts_once_and_is_written_down(tmp_path: Path) -> None:
    file = tmp_path / "spending.jsonl"
    spending = CostLimit(file, None, ["verify"])
    calls = (call(0.25), call(0.5))
    spending.add(paid_rollout(0, *calls))
    spending.add(paid_rollout(0, *calls, policy="other"))  # the same calls, of another policy
    spending.add(paid_rollout(1))
    spending.add(paid_rollout(0, call(1.0), step=1))
    assert spending.total == 1.75
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"trace_id": "r/0", "cost": 0.75},
        {"trace_id": "r/0", "cost": 1.0},
    ]


def test_what_was_spent_before_counts_and_a_torn_line_does_not(tmp_path: Path) -> None:
    file = tmp_path / "spending.jsonl"
    file.write_bytes(b'{"trace_id":"a","cost":2.0}\n{"trace_id":"b","co')
    spending = CostLimit(file, None, [])
    assert spending.total == 2.0
    spending.add(paid_rollout(0, call(0.5)))
    assert CostLimit(file, None, []).total == 2.5


def test_the_limit_stops_after_it_was_written_down_and_at_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "spending.jsonl"
    spending = CostLimit(file, 1.0, ["verify"])
    spending.add(paid_rollout(0, call(0.75)))
    with pytest.raises(
        LimitError, match=r"spending on agents: got 1\.5, allowed less than 1 .*'r/1'.*--resume"
    ):
        spending.add(paid_rollout(1, call(0.75)))
    with pytest.raises(LimitError, match=r"got 1\.5, allowed less than 1"):
        CostLimit(file, 1.0, ["verify"])
    assert CostLimit(file, 2.0, ["verify"]).total == 1.5


def test_an_unknown_cost_is_refused_only_where_there_is_a_limit(tmp_path: Path) -> None:
    unknown = paid_rollout(0, call(0.5), call(None))
    file = tmp_path / "spending.jsonl"
    with pytest.raises(LimitError, match=r"cost of a call of agent 'verify' .*: got no count of its tokens"):
        CostLimit(file, 9.0, ["verify"]).add(unknown)
    assert CostLimit(file, None, []).total == 0.5  # what is known was written down
    CostLimit(file, None, ["verify"]).add(unknown)
    CostLimit(file, 9.0, []).add(unknown)  # an agent that costs nothing
    CostLimit(file, 9.0, ["verify"]).add(paid_rollout(0, call(None, error="TimeoutError: ")))
