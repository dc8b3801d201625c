"""ARPO's entropies and ILR's policies through real servers."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from aipo.policies import Completion, SampleRequest
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.run import RunFolder
from aipo.trace.store import TraceStore
from aipo.util.event_loop import LOOP
from envs.miniature.model import tokenizer as miniature_tokenizer
from kit import tiny_peers
from kit.servers import HEAD_DIM, Configure, VLLMProcess
from kit.tiny import qwen2

NAMES = ("left", "right")


@pytest.mark.parametrize("top", [20, 5])
def test_entropies_of_likely_tokens_are_never_too_large_and_off_by_little(
    configure: Configure, cold: Path, top: int
) -> None:
    """Of the miniature's policy at temperature 1, where 20 of its tokens miss about a twentieth of its entropy."""
    config = configure(f"policy.vllm.top_logprobs={top}")
    network, tokenizer = config.network(cold), config.tokenizer(cold)
    context = tokenizer.encode_prompt("agents\n3@7+20=?\n")
    with config.open_policy(network, tokenizer, config.out) as sampler:
        sampler.refresh()

        def sampled(seed: int) -> Completion:
            request = SampleRequest(context, max_tokens=40, seed=seed)
            return LOOP.run(sampler.policy.sample(request))

        made = [sampled(seed) for seed in range(10)]
        assert isinstance(sampler.policy, VLLMPolicy)
        long = SampleRequest(np.tile(context, 12), max_tokens=1, seed=1)  # more than a block of the cache
        _, again = (LOOP.run(sampler.policy.sample(long)) for _ in range(2))
        assert again.cached is not None and 0 < again.cached <= 12 * len(context)
        assert sampler.policy.cached_share is not None and 0 < sampler.policy.cached_share < 1
    gaps, entropies = list[float](), list[float]()
    for one in made:
        ids = torch.tensor([[*context, *one.token_ids]])
        with torch.no_grad():
            logits = network(ids).logits[0, len(context) - 1 : -1].float()
        logprobs = logits.log_softmax(-1)
        exact = -(logprobs.exp() * logprobs).sum(-1).numpy()
        assert one.entropies is not None and one.entropies.shape == exact.shape
        gaps += (exact - one.entropies).tolist()
        entropies += exact.tolist()
    assert min(gaps) > -1e-3
    assert 0 < np.mean(gaps) < 0.2 * np.mean(entropies), (np.mean(gaps), np.mean(entropies))


def served_model(folder: Path, seed: int, layers: int) -> Path:
    """A tiny policy whose heads vLLM's CPU build has kernels for."""
    words = miniature_tokenizer()
    ends = {name: getattr(words, name) for name in ("pad_token_id", "eos_token_id")} | {"bos_token_id": None}
    size = {
        "hidden_size": 2 * HEAD_DIM,
        "intermediate_size": 64,
        "num_key_value_heads": 1,
        "num_hidden_layers": layers,
    }
    more = {"max_position_embeddings": 256, "initializer_range": 0.15}
    qwen2(len(words), seed, **size, **more, **ends).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_two_policies_that_discuss_are_each_sampled_by_their_own_server(
    vllm_python: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        settings: list[str] = []
        for seed, name in enumerate(NAMES):
            model = served_model(tmp_path / name, seed, layers=1 + seed)
            server = VLLMProcess(vllm_python, model, tmp_path / f"{name}.log")
            stack.enter_context(server.running())
            settings += [
                f"policies.{name}.engine=vllm",
                f"policies.{name}.vllm={{servers: ['{server.url}']}}",
            ]
        made = tiny_peers.config(tmp_path, *settings, "train.steps=2", "graph.options.stops=4")
        run = RunFolder(tiny_peers.train(made))
    for name in NAMES:
        folder = run.of_policy(name)
        store = TraceStore(folder.traces)
        assert [trace.error for step in range(2) for trace in store.read(step)] == [None] * 48
        assert {trace.policy_version for trace in store.read(1)} == {2}
        # Log-probs of a server with the other's weights, or with those of before, would be far off.
        assert all(line["mismatch/mean"] < 1e-4 for line in folder.read_metrics()[::2])
