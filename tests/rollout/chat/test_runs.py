"""A whole run of an agent that knows nothing of rollouts: training, the same traces again, and the checks."""

from pathlib import Path

import numpy as np
import pytest

from aipo.errors import ConfigError
from aipo.run import RunFolder
from aipo.trace import Role, histories
from aipo.trace.store import TraceStore
from kit.chat_runs import config
from kit.commands import invoke
from kit.tiny_run import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(tmp_path_factory.mktemp("chat"), "evaluate.splits=[]"))


def test_two_steps_train_on_a_row_for_each_history(run: Path):
    metrics = [line for line in RunFolder.open(run).read_metrics() if "rows/sampled" in line]
    assert [line["rows/sampled"] for line in metrics] == [16.0, 16.0]  # 8 rollouts with two histories
    assert [line["note/chat_clean"] for line in metrics] == [1.0, 1.0]
    assert [line["note/chat_began"] for line in metrics] == [2.0, 2.0]


def test_what_is_stored_is_what_was_sampled(run: Path):
    traces = list(TraceStore(RunFolder.open(run).traces).read())
    assert len(traces) == 16
    for trace in traces:
        first, second = histories(trace.segments)
        assert [s.source for s in first] == ["chat", "think", "human", "again"]
        assert [s.source for s in second] == ["chat", "critic/judge"]
        assert all(
            np.isfinite(s.logprobs).all()
            for s in trace.segments
            if s.role is Role.POLICY and s.logprobs is not None
        )


def test_a_replay_is_identical(run: Path):
    code = run.parent / "my.py"
    done = invoke("replay", "check", run, f"graph.name={code}:my_agent", f"env.name={code}:Parity")
    assert "16 traces: 16 identical, 0 diverged" in done.output


def test_such_rollouts_cannot_be_forked(tmp_path: Path):
    made = config(tmp_path, "method.plan=branching", "method.assist_share=1.0", "train.group_size=16")
    with pytest.raises(
        ConfigError,
        match=r"method\.plan: got branching with graph\.name=.*which calls the policy as a chat model",
    ):
        _ = made.graphs
