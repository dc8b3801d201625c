"""What vLLM samples is what the trainer's network would have sampled: token by token, weight by weight."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from aipo.config.build import Experiment
from aipo.config.build_policy import SyncedPolicy
from aipo.errors import PolicyError
from aipo.policies import Completion, Policy, SampleRequest
from aipo.policies.logprobs import score
from aipo.policies.vllm import transport
from aipo.policies.weights import save_snapshot
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Mode, Role, Trace
from aipo.util.event_loop import LOOP
from envs.miniature.model import tokenizer as miniature_tokenizer
from kit.servers import HEAD_DIM, Configure, VLLMProcess
from kit.tiny import qwen2


class Watched:
    """A policy whose requests are written down, by the rollout that asked."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.tokenizer = policy.tokenizer
        self.seen: dict[int, list[tuple[npt.NDArray[np.int32], Completion]]] = defaultdict(list)

    async def sample(self, request: SampleRequest) -> Completion:
        made = await self._policy.sample(request)
        self.seen[request.session].append((request.token_ids.copy(), made))
        return made


@contextmanager
def sampling(config: Experiment, model: Path) -> Iterator[tuple[SyncedPolicy, Any, Any]]:
    network, tokenizer = config.network(model), config.tokenizer(model)
    with config.open_policy(network, tokenizer, config.out) as sampler:
        yield sampler, network, tokenizer


def specs(config: Experiment, count: int, mode: Mode) -> list[RolloutSpec]:
    tasks, solo = config.env.tasks("hard"), mode is Mode.SOLO
    fixed: dict[str, Any] = {"mode": mode, "index": 0, "step": 0, "suppress": solo}
    return [
        RolloutSpec(task=tasks[i % len(tasks)], group_id=f"g{i}", seed=2 * i + solo, **fixed)
        for i in range(count)
    ]


def test_200_consulting_rollouts_are_exact(configure: Configure, cold: Path) -> None:
    config = configure()
    with sampling(config, cold) as (sampler, network, _):
        watched = Watched(sampler.policy)
        engine = config.engine(watched, run_id="exact")
        sampler.refresh()
        assisted = engine.run_sync(specs(config, 200, Mode.ASSISTED), lambda trace: None)
        forbidden = engine.run_sync(specs(config, 20, Mode.SOLO), lambda trace: None)
    assert sum(len(trace.consults) for trace in assisted) > 100
    assert all(trace.error is None for trace in assisted)
    for trace in assisted:
        _no_token_was_encoded_again(trace, watched.seen[trace.seed])
    assert max(_gap(trace, network) for trace in (*assisted, *forbidden)) <= 1e-3


def _no_token_was_encoded_again(trace: Trace, seen: list[tuple[npt.NDArray[np.int32], Completion]]) -> None:
    """Every request began with exactly the ids of the trace, and exactly what came back is in it."""
    ids = np.concatenate([segment.token_ids for segment in trace.segments])
    for context, made in seen:
        whole = np.concatenate([context, made.token_ids])
        assert np.array_equal(ids[: len(whole)], whole)
    written = sum(len(s.token_ids) for s in trace.segments if s.role is Role.POLICY)
    assert written == sum(len(made.token_ids) for _, made in seen) > 0


def _gap(trace: Trace, network: Any) -> float:
    """Largest |Δ log-prob| over the policy's tokens of a trace, against transformers in one forward pass."""
    prompt, *rest = trace.segments
    ids = np.concatenate([s.token_ids for s in rest])
    theirs = score(network, prompt.token_ids, ids, trace.forbidden_ids)
    ends = np.cumsum([len(s.token_ids) for s in rest])
    gaps = [
        np.abs(theirs[end - len(s.token_ids) : end] - s.logprobs).max()
        for s, end in zip(rest, ends, strict=True)
        if s.role is Role.POLICY
    ]
    return float(max(gaps))


def test_weights_that_moved_are_sampled_with(configure: Configure, cold: Path) -> None:
    config = configure()
    with sampling(config, cold) as (sampler, network, _):
        sampler.refresh()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.1)
        sampler.advance(1)
        sampler.refresh()
        context = np.array([30, 40], np.int32)
        made = LOOP.run(sampler.policy.sample(SampleRequest(context, max_tokens=8, seed=1)))
        assert made.policy_version == 1
        assert made.logprobs == pytest.approx(score(network, context, made.token_ids), abs=1e-3)


def test_cancelling_reaches_the_engine(configure: Configure, cold: Path, vllm: VLLMProcess) -> None:
    """Of eight requests in flight some never succeed at the server; all eight would, if it went on with them."""
    config = configure()
    answered = 0
    with sampling(config, cold) as (sampler, _, tokenizer):
        sampler.refresh()
        before = vllm.metric("vllm:request_success_total")

        async def asks(first: int) -> None:
            nonlocal answered
            prompt, eos = np.array([30, first], np.int32), (tokenizer.eos_id,)
            while True:  # until the eight are seen together, however long that takes on a busy machine
                await sampler.policy.sample(SampleRequest(prompt, max_tokens=250, forbidden_ids=eos))
                answered += 1

        async def work() -> None:
            asking = [asyncio.create_task(asks(31 + i)) for i in range(8)]
            while await asyncio.to_thread(vllm.metric, "vllm:num_requests_running") < 8:
                assert not any(task.done() for task in asking)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            while await asyncio.to_thread(vllm.metric, "vllm:num_requests_running") > 0:
                await asyncio.sleep(0.05)

        LOOP.run(work())
        assert vllm.metric("vllm:request_success_total") - before - answered < 8


@pytest.mark.parametrize("with_output_layer", [True, False])
def test_tied_embeddings_are_reloaded_wrongly_without_the_output_layer_and_the_probe_sees_it(
    vllm_python: str,
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_output_layer: bool,
) -> None:
    """A push has the output layer's weights by themselves, too; without them the server goes on with those of before."""
    if not with_output_layer:
        monkeypatch.setattr(
            transport, "save_snapshot", lambda network, folder, **_: save_snapshot(network, folder)
        )
    words = miniature_tokenizer()
    heads = {"hidden_size": 2 * HEAD_DIM, "intermediate_size": 64, "num_key_value_heads": 1}
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    more = {"max_position_embeddings": 256, "tie_word_embeddings": True, "initializer_range": 0.2}
    tied = qwen2(len(words), **heads, **ends, **more)
    tied.save_pretrained(tmp_path / "tied")
    words.save_pretrained(tmp_path / "tied")
    server = VLLMProcess(vllm_python, tmp_path / "tied", tmp_path / "log.txt")
    with (
        server.running(),
        sampling(configure(f"policy.vllm.servers=[{server.url}]"), tmp_path / "tied") as (sampler, _, _),
        nullcontext()
        if with_output_layer
        else pytest.raises(PolicyError, match=r"differ from the trainer's by .*tied embeddings"),
    ):
        sampler.refresh()
