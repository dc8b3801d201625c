"""What the tests of worker processes share: an engine whose policy is on a stand-in for a vLLM server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from aipo.config.build import Experiment, load_experiment
from aipo.method.plan import plan_rollouts
from aipo.method.settings import MethodSettings
from aipo.method.task_order import draw_tasks
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.spec import RolloutSpec
from aipo.rollout.workers.pool import open_workers
from aipo.trace import Call, Trace, Visit
from aipo.util.event_loop import LOOP
from kit.vllm import WORDS


def configured(url: str, *settings: str) -> Experiment:
    wanted = [f"policy.vllm.servers=[{url}]", "policy.engine=vllm", "rollout.workers=2", *settings]
    return load_experiment("aipo_distil", wanted)


def engine(experiment: Experiment) -> RolloutEngine:
    policy = experiment.served_policy(HFTokenizer(WORDS), len(WORDS))
    return experiment.engine(policy, run_id="run")


@contextmanager
def both(words: Path, experiment: Experiment) -> Iterator[tuple[RolloutEngine, RolloutEngine]]:
    """An engine in this process, and the same with worker processes."""
    here = engine(experiment)
    try:
        with open_workers(experiment.worker_builds(words, policy_of(here), "run"), here) as there:
            yield here, there
    finally:
        LOOP.run(policy_of(here).aclose())


def policy_of(engine: RolloutEngine) -> VLLMPolicy:
    policy = engine.policies["policy"]
    assert isinstance(policy, VLLMPolicy)
    return policy


def specs(engine: RolloutEngine, groups: int, step: int = 0) -> list[RolloutSpec]:
    tasks = draw_tasks(engine.env, {"easy_train": 0.5, "hard": 0.5}, groups, step=step, seed=0)
    method = MethodSettings(assist_share=0.5, suppress_share=0.25)
    return plan_rollouts(tasks, method, step=step, steps=1, group_size=8, seed=0)


def untimed(trace: Trace) -> Trace:
    def call(made: Call) -> Call:
        return replace(made, started=0.0, seconds=0.0)

    def visit(made: Visit) -> Visit:
        return replace(made, started=0.0, seconds=None, calls=tuple(map(call, made.calls)))

    return replace(trace, started=0.0, seconds=0.0, visits=tuple(map(visit, trace.visits)))
