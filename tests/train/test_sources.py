"""Row sources: what a rollout step gives, live rollouts, and trainers that learn together."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aipo.errors import TrainError
from aipo.method.batch import TokenTotals
from aipo.method.credit import group
from aipo.method.metrics import METRICS, check_declared, rollout_metrics
from aipo.method.step_rows import StepRows, step_rows
from aipo.trace import Call, Fault, Mode, StopReason, Trace, Visit
from aipo.train.coordinator import Coordinator
from aipo.train.schedule import trl_arguments
from aipo.train.sources import TraceSource
from aipo.train.trainer import AIPOTrainer
from kit import tiny
from kit.handmade import agent, consult, policy, prompt, trace

OPEN = 13
METHOD = tiny.method(scale_by_std=False)


def helped(reward: float, **changes: Any) -> Trace:
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


def test_a_generations_rows():
    made = step_rows(group([helped(1.0), alone(0.0), alone(None)], METHOD), METHOD, tag_ids=(OPEN,))
    assert [(row.kind, row.advantage) for row in made.rows] == [
        ("sampled", 0.5),
        ("sampled", -0.5),
        ("distilled", 0.5),
    ]
    assert made.totals == TokenTotals(rows=2, policy_tokens=5 + 1, agent_tokens=1)
    assert made.active_share == 1.0
    # the distilled row is asked as solo rollouts of its group are
    assert made.rows[2].token_ids_T.tolist() == [9, 9, 4, 7, 8]
    assert {k: v for k, v in made.metrics.items() if k.startswith("rows/")} == {
        "rows/sampled": 2,
        "rows/distilled": 1,
        "rows/uncut": 0,
    }


def test_what_cannot_be_cut_is_counted():
    uncut = helped(1.0, consults=(consult(1, None, 2),))
    made = step_rows(group([uncut, alone(0.0)], METHOD), METHOD, tag_ids=(OPEN,))
    assert [row.kind for row in made.rows] == ["sampled", "sampled"]
    assert (made.metrics["rows/distilled"], made.metrics["rows/uncut"]) == (0, 1)


def test_distilled_rows_are_an_option():
    made = step_rows(group([helped(1.0), alone(0.0)], METHOD), tiny.method(distil_weight=0.0))
    assert [row.kind for row in made.rows] == ["sampled", "sampled"]


def test_a_generation_in_which_everything_failed_is_a_generation():
    made = step_rows(group([alone(None), alone(None)], METHOD), METHOD)
    assert (made.rows, made.totals, made.active_share) == ((), TokenTotals(0, 0, 0), 0.0)


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
        "length/prompt": 2.0,
        "length/policy": (3 * 5 + 4 * 1) / 7,
        "length/agent": 3 / 7,
        "length/env": 0.0,
    }
    assert metrics == pytest.approx(expected)
    check_declared(metrics)
    assert [t.kind for t in traces[2:5]] == ["assisted", "solo", "suppressed"]


def said(seconds: float, **changes: Any) -> Call:
    made: dict[str, Any] = {"agent": "knowledge", "visit": "v", "model": "m", "messages": (), "reply": "582"}
    return Call(**(made | {"started": 0.0, "seconds": seconds} | changes))


def test_an_agents_calls_in_numbers():
    down = consult(1, 1, 2, reply=None, error="late", fault=Fault.UNAVAILABLE)
    empty = consult(1, 1, 2, reply=None, error="empty", fault=Fault.EMPTY)
    calls = (
        said(1.0, tokens_in=10, tokens_out=4, cost=0.5),
        said(3.0, tokens_in=20, tokens_out=6, cost=0.25),
        said(2.0),
        said(60.0, reply=None, error="TimeoutError: "),
        said(9.0, agent="verify"),
    )
    visit = Visit(path="knowledge", started=0, seconds=1, outcome="ok", calls=calls)
    metrics = rollout_metrics(
        [helped(1.0, consults=(consult(1, 1, 2), down, empty), visits=(visit,))], ["knowledge"]
    )
    names = ("agent_failures", "call", "tokens", "latency", "cost")
    assert {k: v for k, v in metrics.items() if k.startswith(names)} == pytest.approx(
        {
            "agent_failures/knowledge": 1 / 2,
            "calls/knowledge": 4.0,
            "call_errors/knowledge": 1 / 4,
            "tokens_in/knowledge": 30.0,
            "tokens_out/knowledge": 10.0,
            "latency/p50/knowledge": 2.0,
            "latency/p95/knowledge": 2.9,
            "latency/p99/knowledge": 2.98,
            "cost/knowledge": 0.75,
        }
    )
    check_declared(metrics)


def test_consults_per_assisted_rollout_are_known_where_there_is_one():
    assert rollout_metrics([helped(1.0, consults=())], ["verify"])["consults/verify"] == 0.0
    assert not [name for name in rollout_metrics([alone(1.0)], ["verify"]) if name.startswith("consults/")]


def test_no_rollouts_in_numbers():
    assert rollout_metrics([]) == {
        "rollouts/assisted": 0,
        "rollouts/solo": 0,
        "rollouts/suppressed": 0,
        "rollouts/expert": 0,
        "rollouts/failed": 0,
    }


@pytest.mark.parametrize("name", ["rewards/solo", "reward/solo/x", "reward", "KL"])
def test_names_that_are_not_declared(name: str):
    with pytest.raises(TrainError, match=f"metric: got {name!r}"):
        check_declared(["reward/solo", name])


def test_every_metric_has_a_formula_and_a_line_of_text():
    assert all(m.formula and m.text.endswith((".", ".)")) and "\n" not in m.text for m in METRICS.values())


def test_a_source_of_traces_makes_the_rows_of_one_step():
    said: list[Any] = []

    def roll_out(step: int) -> list[Trace]:
        traces = [alone(1.0), alone(0.0)]
        said.append(("ran", step, [trace.advantage for trace in traces]))
        return traces

    source = TraceSource(
        traces=roll_out,
        credit=lambda traces: group(traces, METHOD),
        make=lambda credited, metrics: step_rows(credited, METHOD, agents=("verify",), metrics=metrics),
        keep=lambda step, traces: said.append(("kept", step, [t.advantage for t in traces])),
        advance=lambda version: said.append(("version", version)),
    )
    made = source.rows(3)
    source.updated(7)
    assert said == [
        ("ran", 3, [None, None]),
        ("kept", 3, [0.5, -0.5]),
        ("version", 7),
    ]
    assert len(made.rows) == 2
    assert made.metrics["seconds/rows"] >= 0
    assert made.metrics["calls/verify"] == 0
    check_declared(made.metrics)
    assert not source.shared


# -- trainers that learn together ----------------------------------------------------------------------


def rows(marker: float) -> StepRows:
    return StepRows(rows=(), totals=TokenTotals(0, 0, 0), active_share=marker)


def meet(coordinator: Coordinator, steps: int, seen: dict[str, list[float]], policy: str) -> None:
    seat = coordinator.seat(policy)
    for step in range(steps):
        seen[policy].append(seat.rows(step).active_share)


def test_everybody_gets_the_rows_of_its_policy_and_they_are_made_once():
    made: list[int] = []

    def produce(step: int) -> dict[str, StepRows]:
        made.append(step)
        return {"a": rows(step), "b": rows(10 + step), "c": rows(20 + step)}

    coordinator = Coordinator(["a", "b", "c"], produce)
    seen: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    coordinator.train({name: lambda name=name: meet(coordinator, 20, seen, name) for name in seen})
    assert made == list(range(20))
    assert seen == {name: [10 * i + step for step in range(20)] for i, name in enumerate("abc")}


def test_the_first_one_waits_for_the_last():
    order: list[str] = []
    gate = threading.Event()
    coordinator = Coordinator(["a", "b"], lambda step: order.append("made") or {"a": rows(0), "b": rows(0)})

    def late() -> None:
        gate.wait()
        order.append("b asks")
        coordinator.seat("b").rows(0)

    def early() -> None:
        gate.set()
        coordinator.seat("a").rows(0)

    coordinator.train({"a": early, "b": late})
    assert order == ["b asks", "made"]


def test_a_trainer_that_dies_does_not_leave_the_others_waiting():
    coordinator = Coordinator(["a", "b"], lambda step: {"a": rows(0), "b": rows(0)})
    seen: dict[str, list[float]] = {"b": []}
    died: list[BaseException] = []

    def dies() -> None:
        coordinator.seat("a").rows(0)
        raise ValueError("out of memory")

    def lives() -> None:
        try:
            meet(coordinator, 5, seen, "b")
        except TrainError as error:
            died.append(error)
            raise

    with pytest.raises(ValueError, match="out of memory"):
        coordinator.train({"a": dies, "b": lives})
    assert seen["b"] == [0.0]
    assert "trainer 'a' died: ValueError('out of memory')" in str(died[0])


def test_a_trainer_that_is_done_early_does_not_either():
    coordinator = Coordinator(["a", "b"], lambda step: {"a": rows(0), "b": rows(0)})
    seen: dict[str, list[float]] = {"a": [], "b": []}
    with pytest.raises(TrainError, match="rollout step 1 of policy 'b': trainer 'a' is done"):
        coordinator.train(
            {"a": lambda: meet(coordinator, 1, seen, "a"), "b": lambda: meet(coordinator, 2, seen, "b")}
        )


def test_a_run_that_fails_ends_everybody():
    def produce(step: int) -> dict[str, StepRows]:
        raise OSError("disk full")

    coordinator = Coordinator(["a", "b"], produce)
    seen: dict[str, list[float]] = {"a": [], "b": []}
    with pytest.raises(OSError, match=r"^disk full$"):
        coordinator.train({name: lambda name=name: meet(coordinator, 1, seen, name) for name in "ab"})
    assert seen == {"a": [], "b": []}


def test_the_error_that_ended_the_run_is_raised_whoever_ends_first():
    def produce(step: int) -> dict[str, StepRows]:
        raise OSError("disk full")

    coordinator = Coordinator(["a", "b"], produce)
    threads: dict[str, threading.Thread] = {}
    both = threading.Barrier(2)

    def ends_last(name: str) -> None:
        threads[name] = threading.current_thread()
        both.wait()
        try:
            coordinator.seat(name).rows(0)
        except OSError:
            threads["b" if name == "a" else "a"].join()
            raise

    with pytest.raises(OSError, match=r"^disk full$"):
        coordinator.train({name: lambda name=name: ends_last(name) for name in "ab"})


def test_trainers_have_to_be_in_the_same_generation():
    coordinator = Coordinator(["a", "b"], lambda step: {"a": rows(0), "b": rows(0)})
    with pytest.raises(TrainError, match="allowed the same one for every trainer"):
        coordinator.train(
            {"a": lambda: coordinator.seat("a").rows(0), "b": lambda: coordinator.seat("b").rows(1)}
        )


def test_nobody_waits_longer_than_the_timeout():
    coordinator = Coordinator(["a", "b"], lambda step: {}, timeout=0.01)
    with pytest.raises(TrainError, match=r"rollout step 0 of policy 'a': got no \['b'\] within 0.01 s"):
        coordinator.seat("a").rows(0)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["a", "c"]])
def test_there_is_one_trainer_for_each_policy(names: list[str]):
    coordinator = Coordinator(["a", "b"], lambda step: {})
    with pytest.raises(TrainError, match="trainers: got"):
        coordinator.train({name: lambda: None for name in names})
    with pytest.raises(TrainError, match="policy of a seat: got 'c', allowed"):
        coordinator.seat("c")


def test_two_policies_learn_from_one_run(tmp_path: Path):
    """One run of a graph yields a trace for each policy; both trainers step, in step, on their own."""
    models = {"a": tiny.model(0), "b": tiny.model(1)}
    versions: list[tuple[str, int]] = []
    seen: list[tuple[int, tuple[int, ...]]] = []
    trainers: dict[str, AIPOTrainer] = {}

    def discuss(step: int) -> list[Trace]:
        rng = np.random.default_rng(step)
        return [
            trace(
                prompt(2, 3),
                policy(*rng.integers(2, tiny.VOCABULARY, 4).tolist()),
                policy=name,
                trace_id=f"{name}{i}",
                reward=float(i % 2),
                advantage=None,
            )
            for i in range(4)
            for name in models
        ]

    def produce(step: int) -> dict[str, StepRows]:
        seen.append((step, tuple(t.state.global_step for t in trainers.values())))
        traces = discuss(step)
        return {
            name: step_rows(group([t for t in traces if t.policy == name], METHOD), METHOD) for name in models
        }

    coordinator = Coordinator(
        list(models), produce, updated=lambda name, version: versions.append((name, version)), timeout=60
    )
    before = {name: model.lm_head.weight.detach().clone() for name, model in models.items()}
    settings = tiny.method()
    for name, model in models.items():
        args = trl_arguments(
            tmp_path / name,
            rollout_steps=3,
            minibatches=2,
            learning_rate=1e-2,
            max_completion_length=16,
            method=settings,
        )
        trainers[name] = AIPOTrainer(
            model, args, coordinator.seat(name), settings, tokenizer=tiny.tokenizer()
        )
    coordinator.train({name: trainer.train for name, trainer in trainers.items()})
    assert seen == [(0, (0, 0)), (1, (2, 2)), (2, (4, 4))]
    for name, model in models.items():
        assert [v for who, v in versions if who == name] == list(range(7))
        assert not torch.equal(before[name], model.lm_head.weight)
    assert not torch.equal(models["a"].lm_head.weight, models["b"].lm_head.weight)
