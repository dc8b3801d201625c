"""The local policy: exact log-probabilities, tokens that do not depend on the batch, ends and failures."""

import asyncio
import itertools
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from aipo.errors import LoadError, PolicyError
from aipo.policies import Completion, SampleRequest
from aipo.policies.local.kv_cache import KVTable
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.local.prefix_cache import PrefixCache
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.completions import estimated_entropy
from kit.tiny import text_model


@pytest.fixture
def policy(model: Qwen2ForCausalLM, tokenizer: HFTokenizer) -> LocalPolicy:
    return LocalPolicy(model, tokenizer, max_batch=64)


def context(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def ask(*ids: int, **settings) -> SampleRequest:
    return SampleRequest(context(*ids), **settings)


def prompts(count: int) -> list[np.ndarray]:
    """Contexts of 1 to 30 letters."""
    draw = np.random.default_rng(5)
    return [draw.integers(0, 26, draw.integers(1, 31)).astype(np.int32) for _ in range(count)]


def gather(*work: Coroutine) -> list:
    async def main() -> list:
        return await asyncio.gather(*work, return_exceptions=True)

    return asyncio.run(main())


def together(policy: LocalPolicy, requests: Iterable[SampleRequest]) -> list:
    """The completion, or the error, of each request."""
    return gather(*map(policy.sample, requests))


async def turns(count: int) -> None:
    """Lets the policy work for some turns of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


def assert_exact(model: Qwen2ForCausalLM, request: SampleRequest, done: Completion) -> None:
    """Log-probs and entropies are those of one plain forward pass without cache, padding or mask."""
    start = len(request.token_ids)
    ids = torch.from_numpy(np.concatenate([request.token_ids, done.token_ids]).astype(np.int64))
    with torch.no_grad():
        logits = model(ids[None]).logits[0, start - 1 : -1] / request.temperature
    logits[:, list(request.forbidden_ids)] = -torch.inf
    logprobs = torch.log_softmax(logits, -1)
    entropies = -(logprobs.exp() * logprobs.nan_to_num(neginf=0.0)).sum(-1)
    np.testing.assert_allclose(
        done.logprobs, logprobs[range(len(logprobs)), ids[start:]].numpy(), atol=1e-4, rtol=0
    )
    np.testing.assert_allclose(done.entropies, entropies.numpy(), atol=1e-4, rtol=0)


# --- what is sampled ------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_logprobs_and_entropies_are_those_of_a_plain_forward_pass(tokenizer, attention: str, kv_heads: int):
    model = text_model(len(tokenizer), num_key_value_heads=kv_heads, attn_implementation=attention)
    policy, contexts = LocalPolicy(model, tokenizer), prompts(20)
    requests = [
        SampleRequest(c, max_tokens=5 + i, temperature=temperature, forbidden_ids=forbidden, seed=i)
        for i, c in enumerate(contexts)
        for temperature, forbidden in [(1.0, ()), (0.7, (3, 4)), (3.0, tuple(range(0, 44, 2)))]
    ]
    for request, done in zip(requests, together(policy, requests), strict=True):
        assert_exact(model, request, done)


def test_logprobs_stay_exact_while_rows_join_and_leave(model, tokenizer):
    """Forty rollouts over a table of eight rows; each comes back with its own words and some feedback."""
    policy = LocalPolicy(model, tokenizer, max_batch=8)

    async def rollout(i: int, prompt: np.ndarray) -> list[tuple[SampleRequest, Completion]]:
        await turns(i)
        one = SampleRequest(prompt, max_tokens=1 + i % 7, seed=i)
        first = await policy.sample(one)
        await turns(i % 5)
        longer = np.concatenate([prompt, first.token_ids, context(*range(i % 23))])
        two = SampleRequest(longer, max_tokens=1 + i % 40, seed=i + 1)
        return [(one, first), (two, await policy.sample(two))]

    for rollouts in gather(*(rollout(i, p) for i, p in enumerate(prompts(40)))):
        for request, completion in rollouts:
            assert_exact(model, request, completion)


def test_a_long_row_is_exact_while_the_table_moves(tokenizer):
    """The columns of 700 steps do not fit the first table; short rows come and go meanwhile."""
    model = text_model(len(tokenizer), max_position_embeddings=1024)
    policy = LocalPolicy(model, tokenizer)
    eos = (tokenizer.eos_id,)

    async def late(i: int, request: SampleRequest) -> Completion:
        await turns(40 * i)
        return await policy.sample(request)

    long = ask(1, 2, 3, max_tokens=700, forbidden_ids=eos, seed=9)
    requests = [long, *(ask(i, max_tokens=9, forbidden_ids=eos, seed=i) for i in range(20))]
    done = gather(*(late(max(i - 1, 0), request) for i, request in enumerate(requests)))
    for request, completion in zip(requests, done, strict=True):
        assert_exact(model, request, completion)


@pytest.mark.parametrize("kind", [GPT2LMHeadModel, LlamaForCausalLM])
def test_other_architectures_are_served(tokenizer: HFTokenizer, kind: type[PreTrainedModel]):
    """GPT-2 has a table of positions; the row that leaves first stands at its end while the others go on."""
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"max_position_embeddings": 128} | ({"intermediate_size": 48} if kind is LlamaForCausalLM else {})
    torch.manual_seed(0)
    model = kind(kind.config_class(vocab_size=len(tokenizer), initializer_range=0.3, **size)).eval()
    eos = (tokenizer.eos_id,)
    contexts = [[3] * 120, *([i, 4] for i in range(15))]
    requests = [ask(*ids, max_tokens=100, forbidden_ids=eos, seed=i) for i, ids in enumerate(contexts)]
    done = together(LocalPolicy(model, tokenizer), requests)
    assert [len(d.token_ids) for d in done] == [8, *[100] * 15]
    for request, completion in zip(requests, done, strict=True):
        assert_exact(model, request, completion)


def test_a_request_gets_the_same_tokens_alone_and_in_company(policy: LocalPolicy):
    def request(seed: int) -> SampleRequest:
        return ask(7, 4, 11, 11, 14, max_tokens=30, seed=seed)

    def others(count: int) -> list[SampleRequest]:
        return [SampleRequest(p, max_tokens=30, seed=i) for i, p in enumerate(prompts(count))]

    async def late(seed: int) -> Completion:
        await turns(50)
        return await policy.sample(request(seed))

    (alone,) = together(policy, [request(11)])
    company = together(policy, [*others(25), request(11), *others(50)[25:]])[25]
    joined, other_seed = gather(*map(policy.sample, others(20)), late(11), late(12))[-2:]
    assert alone.token_ids.tolist() == company.token_ids.tolist() == joined.token_ids.tolist()
    assert alone.token_ids.tolist() != other_seed.token_ids.tolist()


def test_frequencies_follow_the_probabilities(model, policy: LocalPolicy):
    count = 3000
    done = together(policy, (ask(5, 6, max_tokens=1, temperature=2.0, seed=i) for i in range(count)))
    with torch.no_grad():
        probs = torch.softmax(model(torch.tensor([[5, 6]])).logits[0, -1] / 2.0, -1).numpy()
    seen = np.bincount([d.token_ids[0] for d in done], minlength=len(probs)) / count
    # Five standard errors, sqrt(p (1 - p) / n), for each of the 44 ids.
    assert (np.abs(seen - probs) < 5 * np.sqrt(probs * (1 - probs) / count)).all()


def test_equal_prompts_are_prefilled_once(model, policy: LocalPolicy):
    widths = []
    hook = model.register_forward_pre_hook(
        lambda _, __, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    together(policy, (ask(1, 2, 3, 4, max_tokens=2, seed=i) for i in range(50)))
    hook.remove()
    assert widths[:2] == [(1, 3), (50, 1)]


async def consult(policy: LocalPolicy, i: int) -> list[tuple[SampleRequest, Completion]]:
    """Rollout `i` of groups of eight: 40 tokens of prompt, 10 of its own, 17 from an agent, 5 of its own."""
    eos = (policy.tokenizer.eos_id,)
    prompt = np.random.default_rng(i // 8).integers(0, 26, 40).astype(np.int32)
    one = SampleRequest(prompt, max_tokens=10, seed=i, forbidden_ids=eos)
    first = await policy.sample(one)
    await turns(i)
    feedback = np.random.default_rng(100 + i).integers(0, 26, 17).astype(np.int32)
    longer = np.concatenate([prompt, first.token_ids, feedback])
    two = SampleRequest(longer, max_tokens=5, seed=i, forbidden_ids=eos)
    return [(one, first), (two, await policy.sample(two))]


@pytest.fixture
def prefilled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens of each context were computed, and not known from before."""
    tokens: list[int] = []
    prefill = KVTable._prefill

    def counted(table: KVTable, prompts: list, rows: np.ndarray, missing: np.ndarray) -> None:
        tokens.extend(missing.tolist())
        prefill(table, prompts, rows, missing)

    monkeypatch.setattr(KVTable, "_prefill", counted)
    return tokens


def test_what_contexts_share_is_computed_once(model, policy: LocalPolicy, prefilled: list[int]):
    """Of the 16 contexts that come back, 66 tokens each, three blocks of 16 tokens are known."""
    policy.remember()
    rollouts = gather(*(consult(policy, i) for i in range(16)))
    assert prefilled == [39] * 2 + [66 - 48] * 16
    for request, completion in itertools.chain(*rollouts):
        assert_exact(model, request, completion)


def test_contexts_are_remembered_as_long_as_the_weights_stay(
    model, policy: LocalPolicy, prefilled: list[int]
):
    request = SampleRequest(np.arange(20, dtype=np.int32), max_tokens=3)

    def ask_with_other_weights() -> None:
        with torch.no_grad():
            model.lm_head.weight.mul_(1.1)
            model.model.embed_tokens.weight.mul_(1.1)
        (done,) = together(policy, [request])
        assert_exact(model, request, done)

    for _ in range(2):
        ask_with_other_weights()
    policy.remember()
    for version in (1, 2):
        policy.advance(version)
        ask_with_other_weights()
    together(policy, [request])
    policy.forget()
    ask_with_other_weights()
    assert prefilled == [19, 19, 19, 19, 3, 19]


@pytest.mark.parametrize(("name", "told"), [("_room", False), ("match", True)])
def test_a_cache_that_fails_is_emptied(model, policy: LocalPolicy, monkeypatch, name: str, told: bool):
    """Without memory for it rollouts go on; another failure ends the requests, and the next ones are exact."""
    policy.remember()
    request = SampleRequest(np.arange(40, dtype=np.int32), max_tokens=3)
    together(policy, [request])

    def fail(*_: object) -> None:
        raise RuntimeError("broken") if told else torch.OutOfMemoryError("none left")

    with monkeypatch.context() as patch:
        patch.setattr(PrefixCache, name, fail)
        longer = SampleRequest(np.arange(44, dtype=np.int32) % 26, max_tokens=20)
        (result,) = together(policy, [longer])
        assert isinstance(result, PolicyError if told else Completion)
    for again in (request, longer):
        (done,) = together(policy, [again])
        assert_exact(model, again, done)


# --- how it ends ----------------------------------------------------------------------------------


def scripted(tokenizer: HFTokenizer, text: str) -> LocalPolicy:
    """A policy whose model says `text` after one token, whatever it is, token by token."""
    ids = tokenizer.encode(text, control=True)
    model = text_model(len(tokenizer))

    def say(_module, _arguments, kwargs, output):
        at = kwargs["position_ids"][:, -1]
        output.logits = torch.full_like(output.logits, -50.0)
        for row, position in enumerate(at.tolist()):
            output.logits[row, -1, ids[min(position, len(ids) - 1)]] = 50.0
        return output

    model.register_forward_hook(say, with_kwargs=True)
    return LocalPolicy(model, tokenizer)


@pytest.mark.parametrize(
    "text, stop, written, finish",
    [
        ("ab</consult>cd", ("</consult>",), "ab</consult>", "stop"),
        ("abok>!cd", ("k>",), "abok>!", "stop"),  # one token, `ok>!`, kept whole
        ("ab<tool>cd", ("l>c",), "ab<tool>c", "stop"),  # across tokens
        ("ab<eos>cd", ("</consult>",), "ab<eos>", "eos"),
        ("abcdef", ("x", "</consult>"), "abcd", "length"),
        ("abcdef", ("d",), "abcd", "stop"),  # on the last token allowed
        ("abcd", (), "abcd", "length"),
    ],
)
def test_ends(tokenizer: HFTokenizer, text: str, stop: tuple[str, ...], written: str, finish: str):
    (done,) = together(scripted(tokenizer, text), [ask(0, max_tokens=4, stop=stop)])
    assert (tokenizer.decode(done.token_ids), done.finish) == (written, finish)


def test_a_stop_string_in_the_context_does_not_count(tokenizer: HFTokenizer):
    start = tokenizer.encode("ab</consult>", control=True)
    request = ask(*start, max_tokens=9, stop=("</consult>",))
    (done,) = together(scripted(tokenizer, "aaaacd<eos>"), [request])
    assert tokenizer.decode(done.token_ids) == "aacd<eos>"


def test_a_continuation_ends_with_the_models_positions(policy: LocalPolicy):
    eos = (policy.tokenizer.eos_id,)
    (done,) = together(policy, [ask(*[1] * 120, max_tokens=50, forbidden_ids=eos)])
    assert (len(done.token_ids), done.finish) == (8, "length")


# --- failures and cancellation --------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids, changes, message",
    [
        ((), {}, "got 0 tokens, allowed 1 to 127"),
        ((1,) * 128, {}, "got 128 tokens, allowed 1 to 127"),
        ((1, 44), {}, "token ids: got 44, allowed 0 to 43"),
        ((1,), {"forbidden_ids": (-1,)}, "forbidden ids: got -1"),
        ((1,), {"forbidden_ids": tuple(range(44))}, "log-probability: got"),
        ((1,), {"max_tokens": 0}, "max_tokens: got 0"),
        ((1,), {"temperature": 0.0}, "temperature: got 0.0, allowed > 0"),
        ((1,), {"stop": ("",)}, "stop: got"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(policy: LocalPolicy, ids, changes, message: str):
    (error,) = together(policy, [ask(*ids, **{"max_tokens": 4, **changes})])
    assert isinstance(error, PolicyError) and message in str(error)


def test_nan_ends_the_requests_that_see_it_and_no_other(tokenizer: HFTokenizer):
    model = text_model(len(tokenizer))
    with torch.no_grad():
        model.get_input_embeddings().weight[25] = torch.nan
    policy = LocalPolicy(model, tokenizer, max_batch=4)
    never = (25, tokenizer.eos_id)
    contexts = [(25, 1) if i % 3 == 0 else (i, 2) for i in range(20)]
    requests = [ask(*ids, max_tokens=9, forbidden_ids=never, seed=i) for i, ids in enumerate(contexts)]
    for i, (request, result) in enumerate(zip(requests, together(policy, requests), strict=True)):
        if i % 3 == 0:
            assert isinstance(result, PolicyError)
            assert "got nan" in str(result) and "token 0 after a context of 2 tokens" in str(result)
        else:
            assert_exact(model, request, result)


def test_cancelled_requests_leave_and_others_are_not_disturbed(model, tokenizer):
    policy = LocalPolicy(model, tokenizer, max_batch=4)
    eos = (tokenizer.eos_id,)

    async def main() -> list[Completion]:
        endless = [
            asyncio.create_task(policy.sample(ask(i, max_tokens=100, forbidden_ids=eos, seed=i)))
            for i in range(12)
        ]
        others = asyncio.gather(*map(policy.sample, requests))
        await turns(60)
        for task in endless:
            task.cancel()
        return await others

    requests = [ask(9, i, max_tokens=30, forbidden_ids=eos, seed=i) for i in range(4)]
    for request, completion in zip(requests, asyncio.run(main()), strict=True):
        assert_exact(model, request, completion)


def test_a_model_that_fails_ends_its_requests_and_serves_the_next(model, policy: LocalPolicy):
    def fail(*_):
        raise RuntimeError("out of memory")

    hook = model.register_forward_pre_hook(fail)
    for ids in ((1,), (1, 2, 3)):  # while stepping, while prefilling
        errors = together(policy, [ask(*ids, max_tokens=4)] * 2)
        assert [str(e) for e in errors] == ["the model failed with RuntimeError: out of memory"] * 2
    hook.remove()
    (done,) = together(policy, [ask(1, max_tokens=4)])
    assert len(done.token_ids)


def test_a_loop_that_ends_in_the_middle_leaves_nothing_behind(policy: LocalPolicy):
    async def leave() -> None:
        task = asyncio.create_task(policy.sample(ask(1, max_tokens=100)))
        await turns(20)
        assert not task.done()

    asyncio.run(leave())
    first, second = (together(policy, [ask(1, max_tokens=9, seed=1)])[0] for _ in range(2))
    assert first.token_ids.tolist() == second.token_ids.tolist()


# --- the model's state ----------------------------------------------------------------------------


def test_dropout_is_off_while_sampling_and_every_mode_is_restored(tokenizer: HFTokenizer):
    model = text_model(len(tokenizer), attention_dropout=0.5).train()
    model.model.layers[0].eval()
    modes = [m.training for m in model.modules()]
    (done,) = together(LocalPolicy(model, tokenizer), [ask(1, 2, 3, max_tokens=9)])
    assert [m.training for m in model.modules()] == modes
    assert_exact(model.eval(), ask(1, 2, 3, max_tokens=9), done)


def test_the_model_can_be_trained_after_it_has_sampled(tokenizer: HFTokenizer):
    model = text_model(len(tokenizer))
    together(LocalPolicy(model, tokenizer), [ask(1, 2, 3, max_tokens=9)])
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_version_is_recorded_and_does_not_change_under_way(policy: LocalPolicy):
    policy.advance(3)

    async def main() -> Completion:
        task = asyncio.create_task(policy.sample(ask(1, max_tokens=20)))
        await asyncio.sleep(0)
        with pytest.raises(PolicyError, match="got 4 while sampling"):
            policy.advance(4)
        return await task

    assert asyncio.run(main()).policy_version == policy.version == 3
    policy.advance(4)
    assert policy.version == 4


def test_models_that_cannot_be_served_are_refused(tokenizer: HFTokenizer):
    sliding = text_model(
        len(tokenizer), use_sliding_window=True, sliding_window=8, layer_types=["sliding_attention"] * 2
    )
    with pytest.raises(LoadError, match="DynamicSlidingWindowLayer"):
        LocalPolicy(sliding, tokenizer)
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    long_rope = {"rope_type": "longrope", "original_max_position_embeddings": 64, **factors}
    with pytest.raises(LoadError, match="longrope"):
        LocalPolicy(text_model(len(tokenizer), rope_parameters={"rope_theta": 1e4, **long_rope}), tokenizer)
    with pytest.raises(LoadError, match="'flex_attention', allowed 'sdpa' or 'eager'"):
        LocalPolicy(text_model(len(tokenizer), attn_implementation="flex_attention"), tokenizer)
    with pytest.raises(LoadError, match="got 44, the policy model has 43"):
        LocalPolicy(text_model(43), tokenizer)


def test_a_second_event_loop_at_the_same_time_is_refused(policy: LocalPolicy):
    async def main() -> None:
        task = asyncio.create_task(policy.sample(ask(1, max_tokens=20)))
        await asyncio.sleep(0)
        with ThreadPoolExecutor() as pool, pytest.raises(PolicyError, match="second one"):
            pool.submit(asyncio.run, policy.sample(ask(2, max_tokens=2))).result()
        await task

    asyncio.run(main())


@pytest.mark.parametrize(("k", "bias"), [(5, 1.5), (20, 0.2), (64, 1e-4)])
def test_the_bias_of_entropies_of_which_only_the_likely_tokens_are_known(
    model, policy: LocalPolicy, k: int, bias: float
):
    """As of a server, which gives the k most likely: below the exact ones by at most so many nats, and never above."""
    (done,) = together(policy, [ask(3, 4, 5, max_tokens=32, temperature=0.7)])
    ids = torch.tensor(np.concatenate([[3, 4, 5], done.token_ids])[None].astype(np.int64))
    with torch.no_grad():
        logprobs = (model(ids).logits[0, 2:-1] / 0.7).log_softmax(-1)
    top = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1).values.numpy()
    assert done.entropies is not None
    gaps = done.entropies - [estimated_entropy(row) for row in top]
    assert gaps.min() >= -1e-4 and gaps.max() <= bias


def test_the_share_of_contexts_that_was_in_the_cache_is_known(policy: LocalPolicy):
    assert policy.cached_share is None
    policy.remember()
    first, longer = (
        list(range(3, 19)),
        [*range(3, 19), *[5] * 16],
    )  # a block of 16 tokens, and another one behind it
    for ids in (first, longer):
        together(policy, [ask(*ids, max_tokens=1)])
    assert policy.cached_share is not None and 0 < policy.cached_share <= 16 / 46
    policy.forget()
    assert policy.cached_share is None
