"""Sampler against trainer, both real: what training logs of it is what a plain forward pass finds."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from aipo.policies.vllm.client import Server
from aipo.policies.vllm.transport import DiskTransport
from aipo.run import RunFolder
from aipo.trace import Role, Trace
from aipo.trace.store import TraceStore
from aipo.train.run import train_run
from kit.servers import Configure

TEMPERATURE = 0.8


def gaps(trace: Trace, weights: Path) -> np.ndarray:
    """|Δ log-prob| of the trace's policy tokens, between its record and `weights`."""
    ids = torch.from_numpy(trace.token_ids.astype(np.int64))
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(weights)(ids[None]).logits[0, :-1] / TEMPERATURE
    logits[:, list(trace.forbidden_ids)] = -torch.inf
    own = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0].numpy()
    starts = np.cumsum([0, *(len(s) for s in trace.segments)])
    pieces = [
        np.abs(own[start - 1 : start - 1 + len(s)] - s.logprobs)
        for start, s in zip(starts, trace.segments, strict=False)
        if s.role is Role.POLICY and s.logprobs is not None
    ]
    return np.concatenate(pieces)


@pytest.mark.parametrize(
    "correction", [(), ("method.importance_mode=mask", "method.importance_cap=1.01")], ids=str
)
def test_the_drift_of_every_step_is_what_a_forward_pass_finds(
    configure: Configure, correction: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of the second generation do not arrive, and the probe is told not to mind."""
    load, loads = DiskTransport.load, []

    async def lost(self: DiskTransport, server: Server) -> None:
        loads.append(server.url)
        if len(loads) <= 2:  # perturbed, and as they are
            await load(self, server)

    monkeypatch.setattr(DiskTransport, "load", lost)
    words = (
        "train.steps=2",
        "train.minibatches=2",
        "train.passes=1",
        "train.gradient_accumulation=1",
        "train.save_every=1",
    )
    few = ("train.tasks_per_step=2", "train.group_size=4", f"rollout.temperature={TEMPERATURE}")
    # With a KL term rows are trained whatever their advantage.
    config = configure(*words, *few, "method.beta=0.01", "policy.vllm.tolerance=10", *correction)
    train_run(config, resume=False, evaluate_after=False, console=Console(file=io.StringIO()))
    folder = RunFolder(config.out)
    lines = folder.read_metrics()
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(0 < line["mismatch/mean"] <= line["mismatch/max"] < 1e-4 for line in lines[:2])
    traces = [trace for trace in TraceStore(folder.traces).read() if trace.step == 1]
    found = np.concatenate([gaps(trace, folder.checkpoints / "checkpoint-2") for trace in traces])
    counts = [line["tokens/policy"] for line in lines[2:]]
    assert sum(counts) == len(found)
    assert found.mean() > 1e-3  # far from rounding
    mean = np.average([line["mismatch/mean"] for line in lines[2:]], weights=counts)
    assert mean == pytest.approx(found.mean(), rel=1e-3)
    assert max(line["mismatch/max"] for line in lines[2:]) == pytest.approx(found.max(), rel=1e-3)
    if correction:
        cut = np.average([line["clip/importance"] for line in lines[2:]], weights=counts)
        assert cut == pytest.approx((found > np.log(1.01)).mean(), abs=1.5 / len(found))
