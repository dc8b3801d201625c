"""The policy on servers: what it sends, what it makes of answers."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from aipo.errors import PolicyError
from aipo.policies import Completion, SampleRequest
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.completions import AbortedError
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.policies.vllm.pool import ServerPool
from kit.servers import serving
from kit.tiny_vllm import TinyVLLM
from kit.vllm import FakeVLLM, until, used


@contextmanager
def policy(fake: FakeVLLM, tokenizer: HFTokenizer, **options: Any) -> Iterator[VLLMPolicy]:
    with serving(fake.app) as url:
        yield VLLMPolicy(ServerPool([url]), tokenizer, vocabulary=44, **options)


def ask(policy: VLLMPolicy, *context: int, **options: Any) -> Awaitable[Completion]:
    return policy.sample(SampleRequest(np.array(context, np.int32), **{"max_tokens": 4, **options}))


def run(policy: VLLMPolicy, work: Awaitable[Any]) -> Any:
    """What `work` gives, in an event loop of its own."""
    return used(policy.pool, lambda _: work)


def sample(policy: VLLMPolicy, *context: int, **options: Any) -> Completion:
    return run(policy, ask(policy, *context, **options))


def test_ids_and_their_logprobs_come_back(tokenizer: HFTokenizer) -> None:
    with policy(FakeVLLM(), tokenizer) as served:
        served.advance(5)
        made = sample(served, 1, 2)
    assert made.token_ids.tolist() == [3, 4, 5, 6]
    assert made.logprobs == pytest.approx([-0.3, -0.4, -0.5, -0.6])
    assert (made.entropies, made.finish, made.policy_version) == (None, "length", 5)


def test_entropies_are_estimated_from_what_a_server_computes(
    model: Qwen2ForCausalLM, tokenizer: HFTokenizer
) -> None:
    with policy(TinyVLLM(model, tokenizer), tokenizer, top_logprobs=5) as served:
        made = sample(served, 1, 2, temperature=0.5)
    ids = torch.tensor([[1, 2, *made.token_ids]])
    with torch.no_grad():
        logprobs = (model(ids).logits[0, 1:-1].float() / 0.5).log_softmax(-1)
    exact = -(logprobs.exp() * logprobs).sum(-1)
    assert made.entropies is not None and len(made.entropies) == 4
    gaps = exact.numpy() - made.entropies
    assert gaps.min() > -1e-4 and gaps.max() < 1.5  # never too large, see the test of the local policy


def test_the_share_of_contexts_in_the_servers_cache_is_since_the_weights_last_moved(
    tokenizer: HFTokenizer,
) -> None:
    fake = FakeVLLM()
    with policy(fake, tokenizer) as served:

        async def main() -> list[float | None]:
            shares = [served.cached_share]
            for cached, context in ((None, (1, 2)), (2, (1, 2, 3, 4)), (0, (1, 2))):
                fake.cached = cached
                await ask(served, *context)
                shares.append(served.cached_share)
            served.advance(1)
            return [*shares, served.cached_share]

        assert run(served, main()) == [None, None, 2 / 6, 2 / 8, None]


def test_the_version_is_that_of_the_weights_that_were_asked(tokenizer: HFTokenizer) -> None:
    fake = FakeVLLM()

    async def main(served: VLLMPolicy) -> Completion:
        waiting = asyncio.ensure_future(ask(served, 1))
        await until(lambda: fake.asked)
        served.advance(7)
        return await waiting

    with policy(fake, tokenizer) as served:
        assert run(served, main(served)).policy_version == 0


@pytest.mark.parametrize("seeded", [True, False])
def test_what_is_asked(tokenizer: HFTokenizer, seeded: bool) -> None:
    fake = FakeVLLM(name="served")
    with policy(fake, tokenizer, seeded=seeded) as served:
        sample(served, 1, temperature=0.5, stop=("!",), forbidden_ids=(8,), seed=9)
    (asked,) = fake.asked
    assert (asked["model"], asked["prompt"], asked["max_tokens"]) == ("served", [1], 4)
    assert (asked["temperature"], asked["stop"], asked.get("seed")) == (0.5, ["!"], 9 if seeded else None)
    assert asked["logit_bias"] == {"8": -100.0}


def test_a_context_does_not_grow_beyond_the_servers(tokenizer: HFTokenizer) -> None:
    with policy(FakeVLLM(positions=6), tokenizer) as served:
        assert sample(served, 1, 2, 3, 0, max_tokens=20).token_ids.tolist() == [1, 2]
        with pytest.raises(PolicyError, match=r"got 6 context tokens.*allowed 1 to 5 .*--max-model-len is 6"):
            sample(served, *[1] * 6)
        with pytest.raises(PolicyError, match="got 0 context tokens"):
            sample(served)


def test_another_model_than_the_one_that_is_wanted(tokenizer: HFTokenizer) -> None:
    says = r"policy\.vllm\.model: got 'mine'.*other"
    with (
        policy(FakeVLLM(name="other"), tokenizer, model="mine") as served,
        pytest.raises(PolicyError, match=says),
    ):
        sample(served, 1)


def test_it_serves_one_event_loop_after_another(tokenizer: HFTokenizer) -> None:
    fake = FakeVLLM()

    async def main(served: VLLMPolicy) -> tuple[str, int]:
        await asyncio.gather(*(ask(served, i) for i in range(5)))
        return await served.served()

    with policy(fake, tokenizer) as served:
        for _ in range(2):  # in another event loop
            assert run(served, main(served)) == ("fake", 64)
    assert len(fake.asked) == 10


def test_what_a_server_gives_up_is_asked_again(
    tokenizer: HFTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aipo.policies.vllm.policy._WAITS", (0.0, 0.0))
    fake = FakeVLLM()
    fake.faults.extend(["abort"] * 2)
    with policy(fake, tokenizer) as served:
        assert sample(served, 1).token_ids.tolist() == [2, 3, 4, 5]
        fake.faults.extend(["abort"] * 3)
        with pytest.raises(AbortedError, match="got one that was given up"):
            sample(served, 1)
    assert len(fake.asked) == 6


def test_an_answer_that_could_not_be_trained_on_fails_its_rollout_alone(tokenizer: HFTokenizer) -> None:
    fake = FakeVLLM()
    fake.faults.append(b'{"choices": []}')
    with policy(fake, tokenizer) as served:
        with pytest.raises(PolicyError, match="completion with token ids"):
            sample(served, 1)
        assert sample(served, 1).token_ids.tolist() == [2, 3, 4, 5]
