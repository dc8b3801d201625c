"""Worker processes: the same traces as in one process, and none is lost whatever becomes of a worker."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, LoadError, RunError
from aipo.method.plan import plan_rollouts
from aipo.method.settings import MethodSettings
from aipo.policies.vllm.client import Server
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.spec import Fork, RolloutSpec
from aipo.rollout.workers import pool
from aipo.rollout.workers.pool import open_workers
from aipo.trace import Mode, StopReason, Trace, turns_behind_replies
from aipo.util.event_loop import LOOP
from kit.servers import free_port, serving
from kit.vllm import WORDS, SeededVLLM
from kit.workers import both, configured, engine, policy_of, specs, untimed

TESTS = Path(__file__).parents[2]


@dataclass
class House:
    """A server that can be started again, and an engine with two workers before it."""

    here: RolloutEngine
    there: RolloutEngine
    port: int
    fake: SeededVLLM = field(default_factory=SeededVLLM)
    stack: ExitStack = field(default_factory=ExitStack)

    def serve(self, fake: SeededVLLM) -> None:
        """Ends the server and starts `fake` in its place."""
        self.stack.close()
        self.fake = fake
        self.url = self.stack.enter_context(serving(fake.app, self.port))

    def pids(self) -> list[int]:
        """Of the workers that are ready."""
        pool: Any = self.there.elsewhere.__self__  # type: ignore[union-attr]
        return [worker.process.pid for worker in pool._workers]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    WORDS.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def _house(words: Path) -> Iterator[House]:
    port = free_port()
    with both(words, configured(f"http://127.0.0.1:{port}", "rollout.concurrency=12")) as (here, there):
        house = House(here, there, port)
        with house.stack:
            yield house


@pytest.fixture
def house(_house: House) -> House:
    """Workers take seconds to start: all tests have the same two, and a server each."""
    _house.serve(SeededVLLM())
    return _house


def until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.02)


# --- what is the same -------------------------------------------------------------------------------------


def test_the_same_traces_as_in_one_process(house: House) -> None:
    asked, ended = specs(house.here, 6), list[Trace]()
    mine = house.here.run_sync(asked, lambda trace: None)
    theirs = house.there.run_sync(asked, ended.append)
    assert [untimed(trace) for trace in theirs] == [untimed(trace) for trace in mine]
    assert [(t.group_id, t.index) for t in theirs] == [(s.group_id, s.index) for s in asked]
    assert sorted(t.trace_id for t in ended) == sorted(t.trace_id for t in theirs)
    # Some consulted, and none failed, or equality would say little.
    assert {len(trace.consults) for trace in theirs} >= {0, 1, 2}
    assert not any(trace.failed for trace in theirs)


def test_a_demonstration_needs_no_policy_in_a_worker_either(house: House) -> None:
    tasks = house.here.env.tasks("hard")[:3]
    method = MethodSettings(plan="expert", assist_share=0.0)
    asked = plan_rollouts(tasks, method, step=0, steps=1, group_size=2, seed=0)
    mine, theirs = (one.run_sync(asked, lambda _: None) for one in (house.here, house.there))
    assert [untimed(trace) for trace in theirs] == [untimed(trace) for trace in mine]
    assert [t.reward for t in theirs if t.mode is Mode.EXPERT] == [1.0] * 3


# --- what goes wrong --------------------------------------------------------------------------------------


def full(*_: object) -> None:
    raise RunError("the disk is full")


@pytest.mark.parametrize(
    ("stop", "raised"), [(full, RunError), (partial(signal.raise_signal, signal.SIGINT), KeyboardInterrupt)]
)
def test_a_run_that_is_stopped_hands_over_what_is_in_flight_and_the_workers_live_on(
    house: House, stop: Callable[[], None], raised: type[BaseException]
) -> None:
    house.fake.hangs = lambda asked: len(house.fake.asked) > 12
    ended: list[Trace] = []

    def third(trace: Trace) -> None:
        ended.append(trace)
        if len(ended) == 3:
            stop()

    before = house.pids()
    with pytest.raises(raised):
        house.there.run_sync(specs(house.here, 6), third)
    assert any(trace.stop_reason is StopReason.CANCELLED for trace in ended)
    assert len({trace.trace_id for trace in ended}) == len(ended) < 48
    house.fake.hangs = lambda asked: False
    assert not any(trace.failed for trace in house.there.run_sync(specs(house.here, 2), lambda trace: None))
    assert house.pids() == before


def test_a_worker_that_is_killed_fails_its_rollouts_and_is_replaced(house: House) -> None:
    killed = house.pids()[0]
    house.fake.hangs = lambda asked: len(house.fake.asked) > 12
    ended: list[Trace] = []

    def kill(trace: Trace) -> None:
        ended.append(trace)
        if len(ended) == 3:
            house.fake.hangs = lambda asked: False
            os.kill(killed, signal.SIGKILL)

    traces = house.there.run_sync(specs(house.here, 6), kill)
    failed = [trace for trace in traces if trace.failed]
    assert 1 <= len(failed) <= 12
    said = f"worker process {killed}: got exit code -9 (SIGKILL), allowed none while rollouts run"
    assert {trace.error for trace in failed} == {said}
    assert {trace.reward for trace in failed} == {None}
    assert sorted(t.trace_id for t in ended) == sorted(t.trace_id for t in traces)
    assert len({trace.trace_id for trace in traces}) == 48

    async def replaced() -> None:
        while len(house.pids()) < 2:
            await asyncio.sleep(0.05)

    LOOP.run(replaced())
    assert killed not in house.pids()
    assert not any(trace.failed for trace in house.there.run_sync(specs(house.here, 2), lambda trace: None))


def test_a_server_that_was_away_serves_workers_only_with_its_weights(house: House) -> None:
    """It is restarted while rollouts hang in it, and has no weights until this process brings them."""
    old, new = house.fake, SeededVLLM(loaded=False)
    old.hangs = lambda asked: len(old.asked) > 6
    restored: list[int] = []

    async def restore(url: str) -> None:
        await asyncio.sleep(1.0)  # time for a worker that does not wait
        restored.append(len(new.asked))
        await pool.server(url).ask("load", b"{}")

    async def known() -> Server:
        return pool.server(house.url)

    def restart() -> None:
        until(lambda: len(old.asked) > 12)
        house.stack.close()
        until(lambda: not server.up)  # a real one takes longer to load its model than anyone to miss it
        house.serve(new)

    pool = policy_of(house.here).pool
    server = LOOP.run(known())
    pool.restore = restore
    thread = threading.Thread(target=restart)
    thread.start()
    traces = house.there.run_sync(specs(house.here, 6), lambda trace: None)
    thread.join()
    pool.restore = None
    assert restored and set(restored[:1]) == {0}
    assert new.early == 0 and new.asked
    assert len(traces) == 48 and not any(trace.failed for trace in traces)


def test_a_worker_that_cannot_be_made_says_why(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured("http://127.0.0.1:1")
    here = engine(config)

    def opening(parent: RolloutEngine) -> None:
        with open_workers(config.worker_builds(words, parent.policies["policy"], "run"), parent):
            raise AssertionError("it was opened")

    with pytest.raises(LoadError, match=r"\['graph'\] edited"):
        opening(replace(here, fingerprints={**here.fingerprints, "graph": "another"}))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="got exit code 1, allowed none"):
        opening(here)
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(FileNotFoundError, match="/no/python"):
        opening(here)


def test_workers_do_not_outlive_a_process_that_is_killed(words: Path) -> None:
    script = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(TESTS)!r})
        from pathlib import Path
        from kit.workers import both, configured
        with both(Path({str(words)!r}), configured("http://127.0.0.1:1")) as (here, there):
            print(*[w.process.pid for w in there.elsewhere.__self__._workers], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# --- what cannot be ---------------------------------------------------------------------------------------


def test_a_policy_in_this_process_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.workers: got 2 with policy\.engine=local, allowed 1"):
        load_experiment("aipo_distil", ["rollout.workers=2"])


def test_workers_share_what_a_server_may_have_in_flight() -> None:
    servers = "policy.vllm.servers=[http://a, http://b]"
    config = load_experiment(
        "aipo_distil", ["policy.engine=vllm", servers, "policy.vllm.requests=8", "rollout.workers=3"]
    )
    shares = [config.share_of(number).policy.vllm for number in range(3)]
    assert [one.requests for one in shares] == [3, 3, 2]
    # Each begins with another server.
    a, b = "http://a", "http://b"
    assert [one.servers for one in shares] == [(a, b), (b, a), (a, b)]
    load_experiment("aipo_distil", ["policy.engine=vllm", "policy.vllm.requests=3", "rollout.workers=3"])
    with pytest.raises(ConfigError, match=r"got 4, allowed at most policy\.vllm\.requests=3"):
        load_experiment("aipo_distil", ["policy.engine=vllm", "policy.vllm.requests=3", "rollout.workers=4"])


STOPPING = """
from langgraph.graph import END, START, StateGraph

from aipo.rollout import AgentSpec, AgentState, RolloutContext


def stopping(spec: AgentSpec):
    async def stop(state: AgentState) -> dict:
        spec.message("stop", **state)
        raise {"verify": SystemExit(3), "knowledge": KeyboardInterrupt()}[spec.name]

    graph = StateGraph(AgentState, context_schema=RolloutContext)
    graph.add_node("stop", stop, **spec.node)
    graph.add_edge(START, "stop")
    graph.add_edge("stop", END)
    return graph.compile()
"""


def test_an_agent_that_stops_its_process_fails_its_rollouts_alone(words: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STOPPING)
    (tmp_path / "mine.md").write_text("## stop\n{{ request }}\n")
    agents = [f"agents.{name}.graph={tmp_path / 'mine.py'}:stopping" for name in ("verify", "knowledge")]
    agents += [f"agents.{name}.prompt={tmp_path / 'mine.md'}" for name in ("verify", "knowledge")]
    port = free_port()
    with (
        serving(SeededVLLM().app, port),
        both(words, configured(f"http://127.0.0.1:{port}", *agents)) as (here, there),
    ):
        house = House(here, there, port)
        before = house.pids()
        traces = there.run_sync(specs(here, 6), lambda trace: None)
        assert house.pids() == before
    errors = {(trace.error or "").partition(", allowed")[0] for trace in traces if trace.failed}
    named = "GraphError: code of a rollout: got "
    assert errors == {f"{named}sys.exit(3)", f"{named}KeyboardInterrupt"}
    assert any(not trace.failed for trace in traces)


BLOCKING = STOPPING.replace(
    'raise {"verify": SystemExit(3), "knowledge": KeyboardInterrupt()}[spec.name]',
    'os._exit(3) if spec.name == "verify" else time.sleep(600)',
).replace("from langgraph.graph", "import os, time\nfrom langgraph.graph", 1)


def test_a_worker_that_an_agent_ends_or_blocks_is_replaced(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "GRACE_S", 1.0)
    (tmp_path / "mine.py").write_text(BLOCKING)
    (tmp_path / "mine.md").write_text("## stop\n{{ request }}\n")
    agents = [f"agents.{name}.graph={tmp_path / 'mine.py'}:stopping" for name in ("verify", "knowledge")]
    agents += [f"agents.{name}.prompt={tmp_path / 'mine.md'}" for name in ("verify", "knowledge")]
    settings = [*agents, "rollout.deadline=2", "rollout.concurrency=4"]
    port = free_port()
    with (
        serving(SeededVLLM().app, port),
        both(words, configured(f"http://127.0.0.1:{port}", *settings)) as (here, there),
    ):
        traces = there.run_sync(specs(here, 2), lambda trace: None)
    errors = [trace.error or "" for trace in traces if trace.failed]
    assert len(traces) == 16 and len(errors) < 16
    assert any("code of a rollout: got os._exit(3), allowed an Exception" in error for error in errors)
    said = r"worker process \d+: got no rollout at its deadline \(rollout\.deadline\), nor 1 s after it, allowed code that awaits"
    assert any(re.search(said, error) for error in errors)


def test_forks_run_in_worker_processes_as_in_one(house: House) -> None:
    """A fork's state travels: it need not run in its parent's process."""

    def grow(so_far: Sequence[RolloutSpec], traces: Sequence[Trace]) -> list[RolloutSpec]:
        if any(spec.fork for spec in so_far):
            return []
        places = [
            (spec, trace, place) for spec, trace in zip(so_far, traces, strict=True) for place in turns(trace)
        ]
        return [
            replace(spec, index=len(so_far) + n, seed=n, fork=Fork(trace.trace_id, place))
            for n, (spec, trace, place) in enumerate(places[:3])
        ]

    def turns(trace: Trace) -> list[int]:
        return [sum(map(len, trace.segments[:place])) for place in turns_behind_replies(trace.segments)]

    asked = [replace(spec, forkable=spec.mode is Mode.ASSISTED) for spec in specs(house.here, 3)]
    runs = [one.run_sync(asked, lambda trace: None, grow=grow) for one in (house.here, house.there)]
    assert [*map(untimed, runs[0])] == [*map(untimed, runs[1])]
    forks = [trace for trace in runs[1] if trace.forked]
    assert len(forks) >= 3 and not any(trace.failed for trace in forks)
