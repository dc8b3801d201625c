"""CostLimit: costs by hand, what counts twice and what does not, and where it stops."""

import json
from pathlib import Path

import pytest

from aipo.errors import LimitError
from aipo.rollout.spending import CostLimit, Prices
from aipo.trace import Call, Trace, Visit
from kit.handmade import policy, prompt, trace


def call(agent: str = "verify", cost: float | None = None, error: str | None = None) -> Call:
    return Call(
        agent=agent,
        visit=agent,
        model="m",
        messages=(),
        reply="x",
        started=0,
        seconds=1,
        cost=cost,
        error=error,
    )


def rollout(index: int, *calls: Call, **changes: object) -> Trace:
    visit = Visit(path="verify", started=0, seconds=1, outcome="ok", calls=calls)
    return trace(prompt(2), policy(3), trace_id=f"r/{index}", index=index, visits=(visit,), **changes)


def test_prices_are_per_million_tokens() -> None:
    prices = Prices(input=0.5, output=2.0)
    assert prices.cost(1_000_000, 0) == 0.5
    assert prices.cost(3000, 500) == pytest.approx(0.0015 + 0.001)
    assert prices.cost(None, 500) is None
    assert prices.cost(3000, None) is None


def test_every_rollout_counts_once_and_is_written_down(tmp_path: Path) -> None:
    file = tmp_path / "spending.jsonl"
    spending = CostLimit(file, None, ["verify"])
    spending.add(rollout(0, call(cost=0.25), call(cost=0.5)))
    spending.add(
        rollout(0, call(cost=0.25), call(cost=0.5), policy="other")
    )  # the same calls, of another policy
    spending.add(rollout(1))
    spending.add(rollout(0, call(cost=1.0), step=1))
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
    spending.add(rollout(0, call(cost=0.5)))
    assert CostLimit(file, None, []).total == 2.5


def test_the_limit_stops_after_it_was_written_down_and_at_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "spending.jsonl"
    spending = CostLimit(file, 1.0, ["verify"])
    spending.add(rollout(0, call(cost=0.75)))
    with pytest.raises(
        LimitError, match=r"spending on agents: got 1\.5, allowed less than 1 .*'r/1'.*--resume"
    ):
        spending.add(rollout(1, call(cost=0.75)))
    with pytest.raises(LimitError, match=r"got 1\.5, allowed less than 1"):
        CostLimit(file, 1.0, ["verify"])
    assert CostLimit(file, 2.0, ["verify"]).total == 1.5


def test_an_unknown_cost_is_refused_only_where_there_is_a_limit(tmp_path: Path) -> None:
    unknown = rollout(0, call(cost=0.5), call(cost=None))
    file = tmp_path / "spending.jsonl"
    with pytest.raises(LimitError, match=r"cost of a call of agent 'verify' .*: got no count of its tokens"):
        CostLimit(file, 9.0, ["verify"]).add(unknown)
    assert CostLimit(file, None, []).total == 0.5  # what is known was written down
    CostLimit(file, None, ["verify"]).add(unknown)
    CostLimit(file, 9.0, []).add(unknown)  # an agent that costs nothing
    CostLimit(file, 9.0, ["verify"]).add(rollout(0, call(cost=None, error="TimeoutError: ")))
