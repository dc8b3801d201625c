"""Weights on their way to servers: when they are pushed, and what a probe notices."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from transformers import PreTrainedModel, Qwen2ForCausalLM

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, PolicyError
from aipo.policies import SampleRequest
from aipo.policies.logprobs import score
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.transport import NCCLTransport
from aipo.policies.vllm.weight_sync import perturbed, tolerance_of
from aipo.util.event_loop import LOOP
from kit.servers import free_port, serving
from kit.tiny_vllm import Reloading, Synced, copy_of, learn, pushing
from kit.vllm import until


def test_weights_are_pushed_once_before_rollouts(
    synced: Synced, network: PreTrainedModel, tmp_path: Path
) -> None:
    server, weight_sync, policy = synced()
    weight_sync.push()
    assert server.loads == ["version-000000", "version-000000"]  # perturbed, then as they are
    for version in (1, 2, 3):
        learn(network)
        weight_sync.advance(version)
    assert policy.version == 0
    weight_sync.push()
    weight_sync.push()
    assert server.loads[2:] == ["version-000003"] and policy.version == 3
    assert server.resets == 3
    assert len(list((tmp_path / "weights").iterdir())) == 1
    theirs, ours = dict(server.network.named_parameters()), dict(network.named_parameters())
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_server_that_pretends_is_found_out_at_once(synced: Synced, network: PreTrainedModel) -> None:
    # It has the right weights already: only perturbed ones can tell.
    _, weight_sync, _ = synced(deaf=True)
    before = {name: p.clone() for name, p in network.named_parameters()}
    with pytest.raises(PolicyError, match=r"perturbed, to see whether it follows.*policy\.vllm\.tolerance"):
        weight_sync.push()
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())


@pytest.mark.parametrize(
    "keeps", ["lm_head.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"]
)
def test_one_tensor_that_stays_behind_is_found_out(synced: Synced, keeps: str) -> None:
    _, weight_sync, _ = synced(keeps=keeps)
    with pytest.raises(PolicyError, match="tied embeddings"):
        weight_sync.push()


def test_a_drift_later_on_stops_the_run(synced: Synced, network: PreTrainedModel) -> None:
    server, weight_sync, _ = synced()
    weight_sync.push()
    server.deaf = True
    learn(network)
    weight_sync.advance(1)
    with pytest.raises(PolicyError, match="after the push of version 1: got log-probs that differ"):
        weight_sync.push()


def test_the_tolerance_can_be_set(synced: Synced) -> None:
    _, weight_sync, policy = synced(deaf=True, tolerance=100.0)
    weight_sync.advance(4)
    weight_sync.push()
    assert policy.version == 4


def test_the_coarser_type_of_numbers_decides_what_is_tolerated() -> None:
    assert tolerance_of("torch.float32") == tolerance_of("float32", None) == 1e-3
    assert tolerance_of("bfloat16") == tolerance_of("float32", "bfloat16") == 0.1
    plain = ["policy.engine=vllm"]
    assert load_experiment("aipo_distil", plain).tolerance == 1e-3
    assert load_experiment("aipo_distil", [*plain, "policy.vllm.serve.dtype=bfloat16"]).tolerance == 0.1
    assert load_experiment("aipo_distil", [*plain, "policy.vllm.tolerance=0.02"]).tolerance == 0.02


def test_a_cache_that_is_in_use_is_asked_again(synced: Synced) -> None:
    server, weight_sync, _ = synced()
    server.refusals = 2
    weight_sync.push()
    assert server.resets == 4


def test_a_server_that_comes_back_gets_the_weights_before_it_serves(
    stack: ExitStack,
    network: PreTrainedModel,
    tokenizer: HFTokenizer,
    model: Qwen2ForCausalLM,
    tmp_path: Path,
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    weight_sync, policy = pushing(stack, network, tokenizer, tmp_path, url)
    with serving(Reloading(copy_of(model, tmp_path / "one")).app, port):
        weight_sync.push()
        learn(network)
        weight_sync.advance(1)
        weight_sync.push()
    again, context = Reloading(copy_of(model, tmp_path / "two")), np.array([1], np.int32)

    async def go_on() -> None:
        asking = asyncio.create_task(policy.sample(SampleRequest(context, max_tokens=2)))
        await until(lambda: not policy.pool.servers[0].up)
        with serving(again.app, port):
            made = await asking
            assert made.policy_version == 1
            assert made.logprobs == pytest.approx(score(network, context, made.token_ids), abs=1e-4)

    LOOP.run(go_on())
    assert again.loads == ["version-000001"]


def test_no_server_is_said_before_weights_are_written(
    stack: ExitStack, network: PreTrainedModel, tokenizer: HFTokenizer, tmp_path: Path
) -> None:
    weight_sync, _ = pushing(stack, network, tokenizer, tmp_path, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(PolicyError, match=r"policy\.vllm\.servers: got no answer from"):
        weight_sync.push()
    assert not (tmp_path / "weights").exists()


def test_a_server_without_its_development_routes(
    stack: ExitStack, network: PreTrainedModel, tokenizer: HFTokenizer, tmp_path: Path
) -> None:
    bare = Starlette(routes=[Route("/health", lambda request: Response())])
    weight_sync, _ = pushing(stack, network, tokenizer, tmp_path, stack.enter_context(serving(bare)))
    with pytest.raises(PolicyError, match=r"collective_rpc: got status 404.*VLLM_SERVER_DEV_MODE=1"):
        weight_sync.push()


def test_perturbing_moves_every_weight_and_leaves_none_moved(network: PreTrainedModel) -> None:
    before = {name: p.clone() for name, p in network.named_parameters()}
    with perturbed(network):
        for name, parameter in network.named_parameters():
            assert not torch.equal(parameter, before[name]) or not before[name].any()
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())


def test_a_score_is_transformers_own(network: PreTrainedModel) -> None:
    context, ids = np.array([3, 4], np.int32), np.array([5, 6], np.int32)
    with torch.no_grad():
        logits = network(torch.tensor([[3, 4, 5, 6]])).logits[0]
    logits[:, 7] = -torch.inf
    expected = torch.log_softmax(logits, -1)[[1, 2], [5, 6]]
    assert score(network, context, ids, (7,)) == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_weights_cannot_travel_from_gpu_to_gpu_without_one() -> None:
    with pytest.raises(ConfigError, match=r"policy\.vllm\.sync: got nccl and no CUDA device, allowed disk"):
        NCCLTransport("http://127.0.0.1:1")
