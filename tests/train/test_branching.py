"""Training with forks: a real run in a second, resumed, and replayed credit."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from aipo.method.credit import assign_credit
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.store import TraceStore
from aipo.train.run import train_run
from kit import tiny_run

BRANCHING = (
    "method.plan=branching",
    "method.credit=branch",
    "method.attribution=hard",
    "method.assist_share=1",
    "method.branching={rollouts: 3, alpha: 0.6, ways: 3}",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.train(tiny_run.config(tmp_path_factory.mktemp("branching") / "tiny", *BRANCHING))


def traces(run: Path) -> list[Trace]:
    return list(TraceStore(run / "traces").read())


def test_groups_have_their_size_and_forks_share_their_beginning(trained: Path):
    every = {trace.trace_id: trace for trace in traces(trained)}
    groups: dict[str, list[int]] = {}
    for trace in every.values():
        groups.setdefault(trace.group_id, []).append(trace.index)
        if trace.forked:
            parent, at = every[trace.parent_id or ""], trace.fork_token or 0
            assert trace.token_ids[:at].tolist() == parent.token_ids[:at].tolist()
            assert trace.own.segments == trace.segments[-1:]  # this graph has one turn behind its reply
    assert all(sorted(indices) == list(range(6)) for indices in groups.values()) and len(groups) == 12
    assert sum(trace.forked for trace in every.values()) > 12
    assert not any(trace.failed for trace in every.values())


def test_metrics_count_what_is_shared_once(trained: Path):
    first, *_ = RunFolder(trained).read_metrics()
    step = [trace for trace in traces(trained) if trace.step == 0]
    forked = sum(trace.forked for trace in step)
    assert first["rollouts/forked"] == forked and 0 <= first["cached"] < 1
    own = sum(len(piece) for trace in step for piece in trace.own.segments if piece.role == "policy")
    whole = sum(len(piece) for trace in step for piece in trace.segments if piece.role == "policy")
    assert first["length/policy"] == pytest.approx(own / len(step)) and own < whole
    consults = sum(first.get(f"consults/{agent}", 0.0) for agent in ("verify", "knowledge", "unknown"))
    assert consults == pytest.approx(sum(len(trace.own.consults) for trace in step) / len(step))


def test_the_advantages_of_shared_tokens_are_stored_and_come_again(trained: Path):
    made = tiny_run.config(trained.parent, *BRANCHING)
    step = [trace for trace in traces(trained) if trace.step == 1]
    again = assign_credit(step, made.method).traces
    assert list(again) == step
    assert any(piece.advantage is not None for trace in step for piece in trace.segments)


def test_a_resumed_run_comes_to_the_same_end(trained: Path, tmp_path: Path):
    folder = tmp_path / "tiny"
    shutil.copytree(trained.parent, folder)
    run = RunFolder(folder / "run")
    shutil.rmtree(run.model)
    last = max(run.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.rmtree(last)
    made = tiny_run.config(folder, *BRANCHING)
    run.config.write_text(made.to_yaml())
    train_run(made, resume=True, evaluate_after=False, console=Console(file=io.StringIO()))
    names = ("trace_id", "seed", "segments", "parent_id", "fork_token", "reward", "advantage")
    facts = [
        [{name: getattr(t, name) for name in names} for t in traces(path)] for path in (trained, run.path)
    ]
    assert facts[0] == facts[1]
    weights = [RunFolder(path).model / "model.safetensors" for path in (trained, run.path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
