"""Bytes to vLLM and back, checked by eye."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import PolicyError
from aipo.policies import SampleRequest
from aipo.policies.vllm.completions import answer_of, estimated_entropy, request_body

CONTEXT = np.array([7, 8], np.int32)


def answer(**changes: Any) -> bytes:
    choice = {
        "token_ids": [4, 5],
        "logprobs": {"token_logprobs": [-0.5, -1.5]},
        "finish_reason": "length",
        "stop_reason": None,
        "prompt_token_ids": [7, 8],
    }
    return json.dumps({"choices": [{**choice, **changes}]}).encode()


def read(raw: bytes, vocabulary: int = 10, max_tokens: int = 5, forbidden_ids: tuple[int, ...] = ()):
    request = SampleRequest(CONTEXT, max_tokens=max_tokens, forbidden_ids=forbidden_ids)
    return answer_of(raw, request, vocabulary=vocabulary, where="there")


def test_a_request_spells_out_every_sampling_setting() -> None:
    """With the values that change nothing, whatever the server's own are."""
    neutral = {"top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1}
    neutral |= {"presence_penalty": 0, "frequency_penalty": 0, "n": 1, "stream": False}
    exact = {"logprobs": 0, "return_token_ids": True, "include_stop_str_in_output": True}
    exact |= {"skip_special_tokens": False, "spaces_between_special_tokens": False}
    request = SampleRequest(CONTEXT, max_tokens=5, temperature=0.7, stop=("</consult>",), seed=3)
    asked = {"prompt": [7, 8], "max_tokens": 5, "temperature": 0.7, "stop": ["</consult>"], "seed": 3}
    assert json.loads(request_body("m", request)) == {"model": "m"} | asked | neutral | exact


def test_likely_tokens_are_asked_for_by_id() -> None:
    body = json.loads(request_body("m", SampleRequest(CONTEXT, max_tokens=5), top=7))
    assert (body["logprobs"], body["return_tokens_as_token_ids"]) == (7, True)


def used(details: Any) -> bytes:
    return answer()[:-1] + b', "usage": ' + json.dumps({"prompt_tokens_details": details}).encode() + b"}"


def test_cached_tokens_are_read_where_the_server_says_them() -> None:
    assert read(answer()).cached is None and read(used(None)).cached is None
    assert read(used({"cached_tokens": 1})).cached == 1


@pytest.mark.parametrize("cached", [3, -1, 1.0, "1", True])
def test_cached_tokens_that_cannot_be_are_refused(cached: Any) -> None:
    with pytest.raises(
        PolicyError, match=r"cached_tokens from there: got .* allowed a number of the 2 tokens"
    ):
        read(used({"cached_tokens": cached}))


def with_likely(*entries: Any) -> bytes:
    return answer(logprobs={"token_logprobs": [-0.5, -1.5], "top_logprobs": [*entries]})


def test_entropies_are_estimated_from_likely_tokens() -> None:
    half, quarter = math.log(0.5), math.log(0.25)
    raw = with_likely(
        {"token_id:4": half, "token_id:6": half}, {"token_id:5": quarter, "token_id:6": quarter}
    )
    request = SampleRequest(CONTEXT, max_tokens=5)
    made = answer_of(raw, request, vocabulary=10, where="there", top=2)
    assert made.entropies is not None
    # all is known of the first: ln 2; half is left of the second, as if it were one token: 1.5 ln 2
    assert made.entropies.tolist() == pytest.approx([math.log(2), 1.5 * math.log(2)])
    assert read(raw).entropies is None


@pytest.mark.parametrize(
    "entries",
    [({"a": -1.0},), ({"a": -1.0}, {}), ({"a": -1.0}, {"a": 0.5}), ({"a": -1.0}, {"a": "x"}), (None, None)],
)
def test_likely_tokens_that_are_none_are_refused(entries: tuple[Any, ...]) -> None:
    with pytest.raises(PolicyError, match="there"):
        answer_of(
            with_likely(*entries), SampleRequest(CONTEXT, max_tokens=5), vocabulary=10, where="there", top=2
        )


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=40), st.integers(1, 40))
def test_an_estimated_entropy_is_never_too_large_and_is_exact_where_all_is_known(
    logits: list[float], k: int
) -> None:
    logprobs = np.sort(np.array(logits) - np.logaddexp.reduce(logits))[::-1]
    exact = float(-(np.exp(logprobs) * logprobs).sum())
    estimate, better = estimated_entropy(logprobs[:k]), estimated_entropy(logprobs[: k + 1])
    assert estimate <= better + 1e-9 and better <= exact + 1e-9
    assert estimated_entropy(logprobs) == pytest.approx(exact, abs=1e-9)


def test_an_id_that_was_forbidden_and_came_all_the_same_is_refused() -> None:
    assert read(answer(), forbidden_ids=(3, 6)).token_ids.tolist() == [4, 5]
    with pytest.raises(PolicyError, match="got 5, which is forbidden"):
        read(answer(), forbidden_ids=(3, 5))


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=50))
def test_ids_arrive_as_they_were_sent(ids: list[int]) -> None:
    # A view with a stride, as a slice of a larger context is.
    context = np.array([[i, 0] for i in ids], np.int32)[:, 0]
    raw = request_body("m", SampleRequest(context, max_tokens=1))
    assert json.loads(raw)["prompt"] == ids


def test_an_answer_is_read() -> None:
    made = read(answer())
    assert made.token_ids.tolist() == [4, 5] and made.token_ids.dtype == np.int32
    assert made.logprobs.tolist() == [-0.5, -1.5] and made.logprobs.dtype == np.float32
    assert (made.entropies, made.finish) == (None, "length")


@pytest.mark.parametrize(
    ("reason", "stopped", "finish"),
    [
        ("stop", None, "eos"),
        ("stop", 151643, "eos"),
        ("stop", "</consult>", "stop"),
        ("length", None, "length"),
    ],
)
def test_how_a_text_ended(reason: str, stopped: object, finish: str) -> None:
    assert read(answer(finish_reason=reason, stop_reason=stopped)).finish == finish


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        *((raw, "completion with token ids") for raw in (b"", b"[]", b'"7"', b"null", b"{}", answer()[:-5])),
        *(
            (b'{"choices": %s}' % it, "completion with token ids")
            for it in (b"[]", b"null", b"[{}]", b"[null]")
        ),
        (answer(token_ids=None), "completion with token ids"),
        (answer(token_ids=["4", "5"]), r"token ids from there: got \['4', '5'\], allowed whole numbers"),
        (answer(token_ids=[6.7, 5]), r"token ids from there: got \[6.7, 5\], allowed whole numbers"),
        (answer(token_ids=[4, True]), r"got \[4, True\], allowed whole numbers"),
        (answer(token_ids=[[4], [5]]), r"got \[\[4\], \[5\]\], allowed whole numbers"),
        (answer(token_ids={"4": 1, "5": 2}), r"got \['4', '5'\], allowed whole numbers"),
        (answer(token_ids=[2**40, 1]), "token ids from there: got 1099511627776, allowed 0 to 9"),
        (answer(logprobs=None), "completion with token ids"),
        (answer(token_ids=[]), "tokens from there: got 0, allowed 1 to 5"),
        (answer(token_ids=[1] * 6), "tokens from there: got 6, allowed 1 to 5"),
        (answer(token_ids=[4, 10]), "token ids from there: got 10, allowed 0 to 9"),
        (answer(token_ids=[4, -1]), "token ids from there: got -1, allowed 0 to 9"),
        (answer(logprobs={"token_logprobs": [-0.5]}), "got 1, allowed one for each of 2 tokens"),
        (
            answer(logprobs={"token_logprobs": [-0.5, None]}),
            "log-probabilities from there: got None, allowed one",
        ),
        (answer(logprobs={"token_logprobs": ["-0.5", "-1.5"]}), "log-probabilities from there: got '-0.5'"),
        (answer(logprobs={"token_logprobs": [-0.5, False]}), "log-probabilities from there: got False"),
        (answer(logprobs={"token_logprobs": [[-0.5], [-1.5]]}), r"got \[-0.5\], allowed one"),
        (
            answer(logprobs={"token_logprobs": [0.5, -0.5]}),
            "log-probabilities from there: got 0.5, allowed one",
        ),
        (answer(logprobs={"token_logprobs": [-0.5, -9999.0]}), "got -9999.0, allowed one .* above -9999"),
        (answer(prompt_token_ids=[7, 9]), "context that there saw: got 2 ids"),
        (answer(prompt_token_ids=7), "context that there saw: got 1 ids"),
        (answer(prompt_token_ids=[7]), "context that there saw: got 1 ids, allowed the 2"),
        (answer(finish_reason="abort"), "got one that was given up"),
        (answer(finish_reason="tired"), "got 'tired', allowed stop, length"),
    ],
)
def test_what_could_not_be_trained_on_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        read(raw)
