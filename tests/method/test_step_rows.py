"""The rows of a rollout step, and the metrics of its rollouts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aipo.errors import TrainError
from aipo.method.batch import TokenTotals
from aipo.method.credit import group
from aipo.method.metrics import METRICS, check_declared, rollout_metrics
from aipo.method.step_rows import StepRows, step_rows
from aipo.policies.tags import Tags
from aipo.trace import Call, Fault, Mode, Role, StopReason, Trace, Visit, segment
from kit import tiny
from kit.handmade import agent, consult, policy, prompt, trace

OPEN = 13


def helped(reward: float | None, **changes: Any) -> Trace:
    return trace(
        prompt(2, 3),
        policy(4, OPEN, 5),
        agent(6),
        policy(7, 8),
        **(
            {"mode": Mode.ASSISTED, "consults": (consult(1, 1, 2),), "reward": reward, "advantage": None}
            | changes
        ),
    )


def alone(reward: float | None, **changes: Any) -> Trace:
    stop = StopReason.EOS if reward is not None else StopReason.ERROR
    made = {"reward": reward, "advantage": None, "stop_reason": stop}
    return trace(prompt(9, 9), policy(7), **(made | changes))


def rows_of_step(*traces: Trace, **settings: Any) -> StepRows:
    method = tiny.method(scale_by_std=False, **settings)
    return step_rows(
        group(traces, method), method, tags=Tags((OPEN,)), agents=("verify",), metrics={"epoch": 1.0}
    )


def test_the_rows_of_a_rollout_step():
    made = rows_of_step(helped(1.0), alone(0.0), alone(None))
    assert [(row.kind, row.advantage) for row in made.rows] == [
        ("sampled", 0.5),
        ("sampled", -0.5),
        ("distilled", 0.5),
    ]
    assert made.totals == TokenTotals(rows=2, policy_tokens=5 + 1, agent_tokens=1)
    assert made.active_share == 1.0
    # the distilled row is asked as solo rollouts of its group are
    assert made.rows[2].token_ids_T.tolist() == [9, 9, 4, 7, 8]
    assert (made.metrics["epoch"], made.metrics["calls/verify"], made.metrics["zero_variance"]) == (1, 0, 0)
    check_declared(made.metrics)


@pytest.mark.parametrize(
    ("traces", "settings", "counts"),
    [
        ([helped(1.0), alone(0.0)], {}, (2, 1, 0)),
        ([helped(1.0, consults=(consult(1, None, 2),)), alone(0.0)], {}, (2, 0, 1)),  # cannot be cut
        ([helped(1.0), alone(0.0)], {"distil_weight": 0.0}, (2, 0, 0)),
        ([alone(None), alone(None)], {}, (0, 0, 0)),
    ],
)
def test_rows_are_counted_by_kind(
    traces: list[Trace], settings: dict[str, float], counts: tuple[int, int, int]
):
    made = rows_of_step(*traces, **settings)
    assert tuple(made.metrics[f"rows/{kind}"] for kind in ("sampled", "distilled", "uncut")) == counts
    kinds = [row.kind for row in made.rows]
    assert (kinds.count("sampled"), kinds.count("distilled")) == counts[:2]


UNSIGNED = {"coefficient": "echo", "negative": "same"}


@pytest.mark.parametrize(
    ("traces", "settings", "kinds", "unexchanged"),
    [
        ([helped(1.0), alone(0.0)], {}, ["sampled", "exchanged", "sampled"], 0),
        ([helped(1.0), helped(0.0, group_id="g2")], {}, ["sampled", "sampled"], 0),  # no advantage
        ([helped(1.0), helped(0.0)], {}, ["sampled", "sampled"], 1),  # no solo prompt
        (
            [helped(0.0), alone(1.0)],
            {},
            ["sampled", "sampled"],
            0,
        ),  # A < 0, where agents' tokens weigh nothing
        ([helped(0.0), alone(1.0)], {"negative": "pi"}, ["sampled", "exchanged", "sampled"], 0),
        ([helped(1.0), alone(1.0)], {}, ["sampled", "sampled"], 0),  # A = 0
        ([helped(1.0), alone(1.0)], UNSIGNED, ["sampled", "exchanged", "sampled"], 0),
        ([helped(None, stop_reason=StopReason.ERROR), alone(1.0)], UNSIGNED, ["sampled"], 0),
        ([alone(1.0), alone(0.0)], {}, ["sampled", "sampled"], 0),
    ],
    ids=str,
)
def test_a_row_for_agents_tokens_behind_the_solo_prompt(
    traces: list[Trace], settings: dict[str, Any], kinds: list[str], unexchanged: int
):
    made = rows_of_step(
        *traces, **({"coefficient": "constant", "agent_prompt": "solo", "distil_weight": 0.0} | settings)
    )
    assert [row.kind for row in made.rows] == kinds
    assert [r.token_ids_T[:2].tolist() for r in made.rows if r.kind == "exchanged"] == [[9, 9]] * kinds.count(
        "exchanged"
    )
    counted = {name: made.metrics[f"rows/{name}"] for name in ("sampled", "exchanged", "unexchanged")}
    assert counted == {
        "sampled": kinds.count("sampled"),
        "exchanged": kinds.count("exchanged"),
        "unexchanged": unexchanged,
    }
    assert made.totals.rows == kinds.count("sampled")  # a trace counts once
    check_declared(made.metrics)


def test_rollouts_in_numbers():
    traces = [
        helped(1.0, reward_parts={"correct": 1.0}),
        helped(0.0, consults=(consult(1, 1, 2), consult(1, 1, 2, reply=None, error="busy"))),
        helped(0.0, consults=(consult(1, 1, 2, agent="mother", reply=None, error="no such agent"),)),
        alone(0.5, reward_parts={"correct": 0.5, "form": 1.0}),
        alone(0.0, forbidden_ids=(OPEN,), task={"split": "hard/a"}),
        alone(1.0, task={"split": "easy"}),
        alone(None, task={"split": "easy"}),
    ]
    metrics = rollout_metrics(traces, ["knowledge", "verify"])
    expected = {
        "rollouts/assisted": 3,
        "rollouts/solo": 3,
        "rollouts/suppressed": 1,
        "rollouts/expert": 0,
        "rollouts/failed": 1,
        "reward/assisted": 1 / 3,
        "reward/solo": 0.75,
        "reward/suppressed": 0.0,
        "reward_part/correct/assisted": 1.0,
        "reward_part/correct/solo": 0.5,
        "reward_part/form/solo": 1.0,
        "solo/hard_a": 0.0,
        "solo/easy": 1.0,
        "consults/knowledge": 3 / 3,
        "consults/verify": 0.0,
        "consults/unknown": 1 / 3,
        "consult_errors/knowledge": 1 / 3,
        "consult_errors/unknown": 1.0,
        "agent_failures/knowledge": 0.0,
        "calls/knowledge": 0.0,
        "calls/verify": 0.0,
        "call_seconds/knowledge": 0.0,
        "call_seconds/verify": 0.0,
        "length/prompt": 2.0,
        "length/policy": (3 * 5 + 4 * 1) / 7,
        "length/agent": 3 / 7,
        "length/env": 0.0,
    }
    assert metrics == pytest.approx(expected)
    check_declared(metrics)
    assert [t.kind for t in traces[2:5]] == ["assisted", "solo", "suppressed"]


def call(seconds: float, **changes: Any) -> Call:
    made: dict[str, Any] = {"agent": "knowledge", "visit": "v", "model": "m", "messages": (), "reply": "582"}
    return Call(**(made | {"started": 0.0, "seconds": seconds} | changes))


def test_an_agents_calls_in_numbers():
    down = consult(1, 1, 2, reply=None, error="late", fault=Fault.UNAVAILABLE)
    empty = consult(1, 1, 2, reply=None, error="empty", fault=Fault.EMPTY)
    calls = (
        call(1.0, tokens_in=10, tokens_out=4, cost=0.5),
        call(3.0, tokens_in=20, tokens_out=6, cost=0.25),
        call(2.0, finish="length"),
        call(2.0, reply="", thinking="hm", finish="stop"),
        call(60.0, reply=None, error="TimeoutError: "),
        call(9.0, agent="verify"),
    )
    visit = Visit(path="knowledge", started=0, seconds=1, outcome="ok", calls=calls)
    known = segment(Role.AGENT, "knowledge", [5, 6, 7, 8], logprobs=[np.nan, -0.5, -1.0, -0.5])
    told = trace(prompt(2), known, consults=(consult(1, 1, 2), down, empty), visits=(visit,))
    metrics = rollout_metrics([told], ["knowledge"])
    names = ("agent_failures", "call", "cut", "silent", "tokens", "latency", "cost", "known")
    assert {k: v for k, v in metrics.items() if k.startswith(names)} == pytest.approx(
        {
            "agent_failures/knowledge": 1 / 2,
            "calls/knowledge": 5.0,
            "call_seconds/knowledge": 68.0,
            "call_errors/knowledge": 1 / 5,
            "cut/knowledge": 1 / 4,
            "silent/knowledge": 1 / 4,
            "tokens_in/knowledge": 30.0,
            "tokens_out/knowledge": 10.0,
            "latency/p50/knowledge": 2.0,
            "latency/p95/knowledge": 2.85,
            "latency/p99/knowledge": 2.97,
            "cost/knowledge": 0.75,
            "known/knowledge": 0.75,
        }
    )
    check_declared(metrics)


def test_declined_requests_are_counted():
    declined = consult(1, 1, 2, agent="knowledge", reply=None, error="declined", fault=Fault.DECLINED)
    traces = [
        helped(0.0, consults=(declined, consult(1, 1, 2)), sampling={"grant": 0.25}),
        helped(0.0, consults=(declined, declined), sampling={"grant": 0.25}),
        alone(0.0),
    ]
    metrics = rollout_metrics(traces, ["knowledge", "verify"])
    assert (metrics["grant"], metrics["declined/knowledge"]) == (0.25, 0.75)
    assert (metrics["consults/knowledge"], metrics["agent_failures/knowledge"]) == (2.0, 0.0)
    assert "declined/verify" not in metrics and not {"grant"} & rollout_metrics([alone(0.0)]).keys()
    check_declared(metrics)


def test_consults_per_assisted_rollout_are_known_where_there_is_one():
    assert rollout_metrics([helped(1.0, consults=())], ["verify"])["consults/verify"] == 0.0
    assert not [name for name in rollout_metrics([alone(1.0)], ["verify"]) if name.startswith("consults/")]
    names = ("assisted", "solo", "suppressed", "expert", "failed")
    assert rollout_metrics([]) == {f"rollouts/{name}": 0 for name in names}


@pytest.mark.parametrize("name", ["rewards/solo", "reward/solo/x", "reward", "KL"])
def test_names_that_are_not_declared(name: str):
    with pytest.raises(TrainError, match=f"metric: got {name!r}"):
        check_declared(["reward/solo", name])


def test_every_metric_has_a_formula_and_a_line_of_text():
    assert all(m.formula and m.text.endswith((".", ".)")) and "\n" not in m.text for m in METRICS.values())


def uncertain(trace_id: str, reward: float, *entropies: float) -> Trace:
    told = replace(policy(7, OPEN, 5), entropies=np.array(entropies, np.float32))
    return trace(
        *(prompt(9, 9), told, agent(6), replace(policy(8), entropies=np.array([2], np.float32))),
        **{"trace_id": trace_id, "mode": Mode.ASSISTED, "consults": (consult(1, 1, 2),), "reward": reward},
    )


@pytest.mark.parametrize(("weight", "low", "high"), [(0.2, 0.735425, 1.264575), (1.0, 0.0, 2.322876)])
def test_what_the_policy_was_less_sure_of_has_a_larger_advantage(weight: float, low: float, high: float):
    """Entropies 1, 2, 3 and 2, twice: mean 2, deviation √(4/7), 1 over it is 1.322876; no factor is below 0."""
    rollouts = uncertain("a", 1.0, 1, 2, 3), uncertain("b", 0.0, 1, 2, 3)
    a, b, distilled = rows_of_step(*rollouts, entropy_weight=weight).rows
    factors = [1, 1, low, 1, high, 1, 1]
    assert a.advantages_T.tolist() == pytest.approx([0.5 * factor for factor in factors], abs=1e-5)
    assert b.advantages_T.tolist() == pytest.approx([-0.5 * factor for factor in factors], abs=1e-5)
    assert distilled.advantages_T.tolist() == [0.5] * len(distilled)
    assert [row.factors_T for row in rows_of_step(*rollouts).rows] == [None] * 3


def test_equal_entropies_change_nothing_and_unknown_ones_are_refused():
    (row,) = rows_of_step(uncertain("a", 1.0, 2, 2, 2), entropy_weight=0.5, distil_weight=0).rows
    assert row.factors_T is not None and row.factors_T.tolist() == [1.0] * len(row)
    with pytest.raises(TrainError, match=r"entropies of trace .*: got none, allowed those of every token"):
        rows_of_step(helped(1.0), alone(0.0), entropy_weight=0.5)
