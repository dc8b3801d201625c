"""Two policies that learn together from the runs of one graph, from the first token to both optimisers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from langgraph.runtime import Runtime

from aipo.method.credit import group
from aipo.method.plan import independent
from aipo.method.step_rows import StepRows, step_rows
from aipo.policies import Sampling
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState
from aipo.trace import Role, StopReason, Trace, of_policy, segment
from aipo.train.coordinator import Coordinator
from aipo.train.schedule import trl_arguments
from aipo.train.trainer import AIPOTrainer
from kit import tiny
from kit.engines import chain, engine, task

QUESTION = [2, 3]
GENERATIONS, GROUP, HEARD = 2, 4, 4
METHOD = tiny.method(scale_by_std=False, distil_weight=0.0)


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

    def produce(step: int) -> dict[str, StepRows]:
        specs = independent(
            [task()], step=step, group_size=GROUP, assist_share=0.0, suppress_share=0.0, seed=0
        )
        made = rollouts.run_sync(specs, traces.append)
        mine = {name: group([t for t in made if t.policy == name], METHOD) for name in models}
        return {name: step_rows(credited, METHOD) for name, credited in mine.items()}

    coordinator = Coordinator(
        list(models), produce, updated=lambda name, version: policies[name].advance(version), timeout=60
    )
    settings = METHOD
    trainers = {
        name: AIPOTrainer(
            model,
            trl_arguments(
                tmp_path / name,
                rollout_steps=GENERATIONS,
                learning_rate=1e-2,
                max_completion_length=12,
                method=settings,
            ),
            coordinator.seat(name),
            settings,
            tokenizer=words,
        )
        for name, model in models.items()
    }
    before = {name: model.lm_head.weight.detach().clone() for name, model in models.items()}
    coordinator.train({name: trainer.train for name, trainer in trainers.items()})

    assert [t.error for t in traces] == [None] * (2 * GENERATIONS * GROUP)
    for a, b in zip(traces[::2], traces[1::2], strict=True):
        assert (a.policy, b.policy) == ("a", "b")
        assert (a.group_id, a.index, a.step) == (b.group_id, b.index, b.step)
        assert [s.role.value for s in a.segments] == ["prompt", "policy"]
        assert [s.role.value for s in b.segments] == ["prompt", "agent", "policy"]
        assert a.segments[1].token_ids[:HEARD].tolist() == b.segments[1].token_ids.tolist()
        # sampled with the weights of this generation, one optimizer step each
        assert a.policy_version == b.policy_version == a.step
    for name, model in models.items():
        assert policies[name].version == trainers[name].state.global_step == GENERATIONS
        assert not torch.equal(before[name], model.lm_head.weight)
