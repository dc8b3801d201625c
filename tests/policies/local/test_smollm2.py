"""A real language model through the product: what the embedded engine samples is what transformers would."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from aipo.config.build import load_experiment
from aipo.policies import SampleRequest
from aipo.policies.local.policy import LocalPolicy

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def policy(smollm2: Path) -> LocalPolicy:
    experiment = load_experiment("small", [f"policy.model={smollm2}", "policy.device=cpu"])
    return experiment.local_policy(experiment.build_model())


def test_a_greedy_sentence_is_that_of_transformers(policy: LocalPolicy) -> None:
    context = np.array(policy.tokenizer.encode_prompt(QUESTION), np.int32)
    request = SampleRequest(context, max_tokens=24, temperature=1e-6)
    done = asyncio.run(policy.sample(request))
    ids = torch.from_numpy(context.astype(np.int64))[None]
    generated = policy.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24
    )
    assert done.token_ids.tolist() == generated[0, len(context) :].tolist()
    text = policy.tokenizer.decode(done.token_ids)
    assert text == "The capital of France is Paris.<|im_end|>"
    assert done.finish == "eos"


def test_logprobs_of_a_group_are_those_of_a_plain_forward_pass(policy: LocalPolicy) -> None:
    context = np.array(policy.tokenizer.encode_prompt(QUESTION), np.int32)

    async def sample() -> list:
        requests = (SampleRequest(context, max_tokens=12, seed=seed) for seed in range(4))
        return await asyncio.gather(*map(policy.sample, requests))

    completions = asyncio.run(sample())
    assert len({done.token_ids.tobytes() for done in completions}) > 1
    for done in completions:
        ids = torch.from_numpy(np.concatenate([context, done.token_ids]).astype(np.int64))
        with torch.no_grad():
            logprobs = torch.log_softmax(policy.model(ids[None]).logits[0, len(context) - 1 : -1], -1)
        expected = logprobs.gather(1, ids[len(context) :, None])[:, 0].numpy()
        np.testing.assert_allclose(done.logprobs, expected, atol=1e-4, rtol=0)
