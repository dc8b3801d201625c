"""Trainers that learn together: rows once for everybody, nobody waits for ever, and two policies of one graph."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from langgraph.runtime import Runtime

from aipo.errors import TrainError
from aipo.method.batch import TokenTotals
from aipo.method.credit import group
from aipo.method.plan import plan_rollouts
from aipo.method.step_rows import StepRows, step_rows
from aipo.policies import Sampling
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState
from aipo.trace import Role, StopReason, Trace, of_policy, segment
from aipo.train.peers.coordinator import Coordinator
from aipo.train.schedule import trl_arguments
from aipo.train.trainer import AIPOTrainer
from aipo.util.termination import Terminated
from kit import tiny
from kit.engines import chain, engine, task


def marked(marker: float) -> StepRows:
    return StepRows(rows=(), totals=TokenTotals(0, 0, 0), active_share=marker)


def meeting(produce: Callable[[int], Any] = lambda step: {"a": marked(0), "b": marked(0)}) -> Coordinator:
    return Coordinator(["a", "b"], produce)


def ask(coordinator: Coordinator, policy: str, *steps: int) -> Callable[[], list[float]]:
    """A trainer that asks for the rows of these steps, and for nothing else."""
    return lambda: [coordinator.seat(policy).rows(step).active_share for step in steps]


def no_space(step: int) -> dict[str, StepRows]:
    raise OSError("disk full")


def test_everybody_gets_the_rows_of_its_policy_and_they_are_made_once():
    produced: list[int] = []

    def produce(step: int) -> dict[str, StepRows]:
        produced.append(step)
        return {"a": marked(step), "b": marked(10 + step), "c": marked(20 + step)}

    coordinator = Coordinator(["a", "b", "c"], produce)
    seen: dict[str, list[float]] = {}

    def train(name: str) -> None:
        seen[name] = ask(coordinator, name, *range(20))()

    coordinator.train({name: lambda name=name: train(name) for name in "abc"})
    assert produced == list(range(20))
    assert seen == {name: [10 * i + step for step in range(20)] for i, name in enumerate("abc")}


@pytest.mark.parametrize("error", [ValueError("out of memory"), Terminated("SIGTERM")])
def test_a_trainer_that_dies_does_not_leave_the_others_waiting(error: BaseException):
    """They get the same error, so that after a signal each of them keeps what it has."""
    coordinator = meeting()
    seen: list[float] = []
    errors: list[BaseException] = []

    def dies() -> None:
        coordinator.seat("a").rows(0)
        raise error

    def lives() -> None:
        seen.extend(ask(coordinator, "b", 0)())
        try:
            coordinator.seat("b").rows(1)
        except BaseException as caught:
            errors.append(caught)
            raise

    with pytest.raises(type(error), match=str(error)):
        coordinator.train({"a": dies, "b": lives})
    assert seen == [0.0] and errors == [error]


@pytest.mark.parametrize(
    ("produce", "steps_of_b", "error", "says"),
    [
        (meeting, (0, 1), TrainError, r"rollout steps \{'b': 1\}: trainers \['a'\] are done"),
        (meeting, (1,), TrainError, "allowed the same one for every trainer"),
        (lambda: meeting(no_space), (0,), OSError, r"^disk full$"),
    ],
)
def test_what_ends_one_trainer_ends_the_other(
    produce: Callable[[], Coordinator], steps_of_b: tuple[int, ...], error: type[Exception], says: str
):
    coordinator = produce()
    with pytest.raises(error, match=says):
        coordinator.train({"a": ask(coordinator, "a", 0), "b": ask(coordinator, "b", *steps_of_b)})


def test_rows_are_made_by_the_thread_that_called_and_trainers_take_turns():
    """Signals come to the main thread; and only one trainer computes at a time."""
    makers: list[threading.Thread] = []
    inside: list[int] = []
    most = 0

    def produce(step: int) -> dict[str, StepRows]:
        makers.append(threading.current_thread())
        return {"a": marked(0), "b": marked(0)}

    coordinator = meeting(produce)

    def train(name: str) -> None:
        nonlocal most
        for step in range(5):
            coordinator.seat(name).rows(step)
            inside.append(step)
            most = max(most, len(inside))
            inside.pop()

    coordinator.train({name: lambda name=name: train(name) for name in "ab"})
    assert makers == [threading.current_thread()] * 5 and most == 1


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["a", "c"]])
def test_there_is_one_trainer_for_each_policy(names: list[str]):
    with pytest.raises(TrainError, match="trainers: got"):
        meeting().train({name: lambda: None for name in names})
    with pytest.raises(TrainError, match="policy of a seat: got 'c', allowed"):
        meeting().seat("c")


# -- two policies of one graph, from the first token to both optimizers -----------------------------------

QUESTION = [2, 3]
STEPS, GROUP, HEARD = 2, 4, 4
METHOD = tiny.method(assist_share=0.0, scale_by_std=False, distil_weight=0.0)


def speaks(name: str, heard: str | None = None) -> Any:
    """A node in which `name` answers, after having read how `heard` began."""

    async def node(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        said = [s for s in of_policy(state["segments"], heard or "") if s.role is Role.POLICY]
        asked = [
            segment(Role.PROMPT, "task", QUESTION, policy=name),
            *(segment(Role.AGENT, s.source, s.token_ids[:HEARD], policy=name) for s in said),
        ]
        piece, finish = await runtime.context.sample(asked, policy=name, source=name)
        low = {"low": float(np.mean(piece.token_ids < 8))}
        return {
            "segments": [*asked, piece],
            "stops": {name: StopReason(finish)},
            "reward_parts": {name: low},
        }

    return node


def test_two_policies_learn_from_the_same_runs_of_a_graph(tmp_path: Path):
    """`a` answers, `b` reads the answer and answers, too; both are rewarded for low ids."""
    models = {"a": tiny.model(0), "b": tiny.model(1)}
    words = tiny.tokenizer()
    policies = {name: LocalPolicy(model, HFTokenizer(words)) for name, model in models.items()}
    rollouts = engine(
        chain(first=speaks("a"), second=speaks("b", heard="a")),
        policies=policies,
        sampling=Sampling(max_tokens=12),
        reward_weights={"low": 1.0},
    )
    traces: list[Trace] = []
    steps_done: list[list[int]] = []

    def produce(step: int) -> dict[str, StepRows]:
        steps_done.append([trainer.state.global_step for trainer in trainers.values()])
        specs = plan_rollouts([task()], METHOD, step=step, steps=STEPS, group_size=GROUP, seed=0)
        of_step = rollouts.run_sync(specs, traces.append)
        by_policy = {name: [trace for trace in of_step if trace.policy == name] for name in models}
        return {name: step_rows(group(own, METHOD), METHOD) for name, own in by_policy.items()}

    coordinator = Coordinator(
        list(models), produce, updated=lambda name, version: policies[name].advance(version)
    )
    size = {"rollout_steps": STEPS, "learning_rate": 1e-2, "max_completion_length": 12}
    arguments = {name: trl_arguments(tmp_path / name, METHOD, **size) for name in models}
    trainers = {
        name: AIPOTrainer(model, arguments[name], coordinator.seat(name), METHOD, tokenizer=words)
        for name, model in models.items()
    }
    before = {name: model.lm_head.weight.detach().clone() for name, model in models.items()}
    coordinator.train({name: trainer.train for name, trainer in trainers.items()})

    assert steps_done == [[0, 0], [1, 1]]
    assert [t.error for t in traces] == [None] * (2 * STEPS * GROUP)
    for a, b in zip(traces[::2], traces[1::2], strict=True):
        assert (a.policy, b.policy) == ("a", "b")
        assert (a.group_id, a.index, a.step) == (b.group_id, b.index, b.step)
        assert [s.role.value for s in a.segments] == ["prompt", "policy"]
        assert [s.role.value for s in b.segments] == ["prompt", "agent", "policy"]
        assert a.segments[1].token_ids[:HEARD].tolist() == b.segments[1].token_ids.tolist()
        # sampled with the weights of this rollout step, one optimizer step each
        assert a.policy_version == b.policy_version == a.step
    for name, model in models.items():
        assert policies[name].version == trainers[name].state.global_step == STEPS
        assert not torch.equal(before[name], model.lm_head.weight)
