"""Worker processes: the same traces as in one process, and none is lost whatever becomes of a worker."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asgi import serving
from seeded_vllm import WORDS, SeededVLLM

from aipo.compose import build_engine, build_graphs
from aipo.config import load_config
from aipo.errors import ConfigError
from aipo.loop import LOOP
from aipo.models import build_served
from aipo.plan import RolloutSpec, draw_tasks, independent
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm import VLLMPolicy
from aipo.rollout import RolloutEngine
from aipo.trace import Call, Trace, Visit
from aipo.workers import open_workers

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    WORDS.save_pretrained(folder)
    return folder


@contextmanager
def rollouts(words: Path, url: str, *settings: str) -> Iterator[tuple[RolloutEngine, RolloutEngine]]:
    """An engine in this process, and the same with worker processes."""
    wanted = [f"policy.vllm.servers=[{url}]", "policy.engine=vllm", "rollout.workers=2", *settings]
    config = load_config("aipo", wanted)
    policy = build_served(config, HFTokenizer(WORDS), len(WORDS))
    here = build_engine(config, build_graphs(config), policy, run_id="run")
    try:
        with open_workers(config, here, words) as there:
            yield here, there
    finally:
        LOOP.run(policy.aclose())


def specs(engine: RolloutEngine, groups: int, step: int = 0) -> list[RolloutSpec]:
    tasks = draw_tasks(engine.env, {"easy_train": 0.5, "hard": 0.5}, groups, step=step, seed=0)
    return independent(tasks, step=step, group_size=8, assist_share=0.5, forbid_share=0.25, seed=0)


def untimed(trace: Trace) -> Trace:
    def call(made: Call) -> Call:
        return replace(made, started=0.0, seconds=0.0)

    def visit(made: Visit) -> Visit:
        return replace(made, started=0.0, seconds=None, calls=tuple(map(call, made.calls)))

    return replace(trace, started=0.0, seconds=0.0, visits=tuple(map(visit, trace.visits)))


def policy_of(engine: RolloutEngine) -> VLLMPolicy:
    policy = engine.policies["policy"]
    assert isinstance(policy, VLLMPolicy)
    return policy


def workers_of(engine: RolloutEngine) -> list[int]:
    """Process ids of the workers that are ready."""
    assert engine.elsewhere is not None
    pool: Any = engine.elsewhere.__self__  # type: ignore[attr-defined]
    return [worker.process.pid for worker in pool._workers]


def until(true: Callable[[], bool]) -> None:
    """Waits; the tests' own time limit is the limit."""
    while not true():
        time.sleep(0.02)


# --- what is the same -------------------------------------------------------------------------------------


def test_the_same_traces_as_in_one_process(words: Path) -> None:
    with serving(SeededVLLM().app) as url, rollouts(words, url, "rollout.concurrency=12") as (here, there):
        asked = specs(here, 6)
        mine = here.run_sync(asked, lambda trace: None)
        ended: list[Trace] = []
        theirs = there.run_sync(asked, ended.append)
        assert [untimed(trace) for trace in theirs] == [untimed(trace) for trace in mine]
        assert [(t.group_id, t.index) for t in theirs] == [(s.group_id, s.index) for s in asked]
        assert sorted(t.trace_id for t in ended) == sorted(t.trace_id for t in theirs)
        # Some consulted, and none failed, or equality would say little.
        assert {len(trace.consults) for trace in theirs} > {0, 1}
        assert not any(trace.failed for trace in theirs)
        assert not theirs[0].segments[1].token_ids.flags.writeable


def test_each_step_is_rolled_out_with_the_policy_of_that_step(words: Path) -> None:
    with serving(SeededVLLM().app) as url, rollouts(words, url) as (here, there):
        for version in (3, 4):
            policy_of(here).advance(version)
            traces = there.run_sync(specs(here, 2, step=version), lambda trace: None)
            assert {trace.policy_version for trace in traces} == {version}


# --- what cannot be ---------------------------------------------------------------------------------------


def test_a_policy_in_this_process_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.workers: got 2 with policy\.engine=local, allowed 1"):
        load_config("aipo", ["rollout.workers=2"])


def test_workers_share_what_a_server_may_have_in_flight() -> None:
    load_config("aipo", ["policy.engine=vllm", "policy.vllm.requests=3", "rollout.workers=3"])
    with pytest.raises(ConfigError, match=r"got 4, allowed at most policy\.vllm\.requests=3"):
        load_config("aipo", ["policy.engine=vllm", "policy.vllm.requests=3", "rollout.workers=4"])
