"""Requests to vLLM's /v1/completions and its answers, as bytes.

Token ids go in and token ids come out; no text is ever encoded again. Every sampling setting is spelled
out, since a server may have defaults of its own (a model's generation_config.json).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from aipo.errors import PolicyError
from aipo.policies.base import Completion, SampleRequest
from aipo.trace.segment import HIGHEST_LOGPROB

# The largest bias that the API takes. e^-100 is no probability that float32 could tell from 0.
FORBIDDEN = -100.0
# vLLM writes this for −inf, which JSON does not have.
IMPOSSIBLE = -9999.0


class AbortedError(PolicyError):
    """The server aborted the request, as it does when it is shut down."""


def request_body(model: str, request: SampleRequest, *, seeded: bool = True, top: int = 0) -> bytes:
    """The body that asks for `request`; without its seed unless `seeded`.

    Args:
        top: how many of the most likely tokens are to come with each one.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": np.ascontiguousarray(request.token_ids, np.int32),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "n": 1,
        "stream": False,
        "logprobs": top,
        "return_token_ids": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "include_stop_str_in_output": True,
        "stop": list(request.stop),
    }
    if top:
        body["return_tokens_as_token_ids"] = True  # or tokens of one text are one entry
    if seeded:
        body["seed"] = request.seed
    if request.forbidden_ids:
        body["logit_bias"] = {str(i): FORBIDDEN for i in request.forbidden_ids}
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def answer_of(
    body: bytes, request: SampleRequest, *, vocabulary: int, where: str, version: int = 0, top: int = 0
) -> Completion:
    """Reads an answer, and refuses one that could not be trained on.

    Args:
        request: what was asked; where the server repeats its context, it has to be the same.
        vocabulary: ids are below it.
        version: of the weights, for the completion.
        top: how many of the most likely tokens were asked for with each; entropies are estimated from them
            (`estimated_entropy`), and not known without.

    Raises:
        AbortedError: the server gave it up.
        PolicyError: not such JSON, another context, no or too many tokens, ids that are no whole numbers, forbidden
            or out of the vocabulary, or not one possible log-probability for each.
    """
    try:
        raw = orjson.loads(body)
        (choice,) = raw["choices"]
        listed, given = [*choice["token_ids"]], [*choice["logprobs"]["token_logprobs"]]
        likely = [[*entry.values()] for entry in choice["logprobs"]["top_logprobs"]] if top else []
        reason, stopped = choice["finish_reason"], choice.get("stop_reason")
        echoed = choice.get("prompt_token_ids")
        cached = ((raw.get("usage") or {}).get("prompt_tokens_details") or {}).get("cached_tokens")
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise PolicyError(
            f"answer of {where}: got {body[:200]!r} ({type(error).__name__}: {error}), allowed a completion with "
            "token ids and log-probs (vLLM 0.22 or newer, return_token_ids)"
        ) from error
    if cached is not None and not (type(cached) is int and 0 <= cached <= len(request.token_ids)):
        raise PolicyError(
            f"cached_tokens from {where}: got {cached!r}, allowed a number of the {len(request.token_ids)} tokens that were sent"
        )
    if reason == "abort":
        raise AbortedError(f"answer of {where}: got one that was given up, allowed a whole one")
    if echoed is not None and not np.array_equal(echoed, request.token_ids):
        raise PolicyError(
            f"context that {where} saw: got {np.size(echoed)} ids, allowed the {len(request.token_ids)} that were sent"
        )
    if not 1 <= len(listed) <= request.max_tokens:
        raise PolicyError(f"tokens from {where}: got {len(listed)}, allowed 1 to {request.max_tokens}")
    if {*map(type, listed)} != {int}:
        raise PolicyError(f"token ids from {where}: got {listed[:5]}, allowed whole numbers")
    ids = np.array(listed)
    strange = ids[(ids < 0) | (ids >= vocabulary)]
    if strange.size:
        raise PolicyError(f"token ids from {where}: got {strange[0]}, allowed 0 to {vocabulary - 1}")
    banned = ids[np.isin(ids, request.forbidden_ids)]
    if banned.size:
        raise PolicyError(f"token ids from {where}: got {banned[0]}, which is forbidden; allowed any other")
    logprobs = _logprobs(given, len(ids), where)
    if reason not in ("stop", "length"):
        raise PolicyError(f"finish_reason from {where}: got {reason!r}, allowed stop, length")
    # A stop string is named by its text; an end token by nothing or, if it is not the usual one, by its id.
    ended = "stop" if isinstance(stopped, str) else "eos"
    return Completion(
        token_ids=ids.astype(np.int32),
        logprobs=logprobs,
        entropies=_entropies(likely, len(ids), where) if top else None,
        finish=ended if reason == "stop" else "length",
        policy_version=version,
        cached=cached,
    )


def estimated_entropy(logprobs: Sequence[float]) -> float:
    """Entropy (nats) of a distribution of which only some log-probs are known. What is left counts as one token more, so the
    estimate is never above the entropy."""
    known = np.exp(np.asarray(logprobs, np.float64))
    rest = max(1.0 - float(known.sum()), 0.0)
    probabilities = np.append(known, rest)
    return float(-np.sum(probabilities * np.log(np.where(probabilities > 0, probabilities, 1.0))))


def _entropies(likely: list[list[Any]], tokens: int, where: str) -> npt.NDArray[np.float32]:
    numbers = [value for entry in likely for value in entry]
    wrong = [x for x in numbers if type(x) not in (int, float) or not x <= HIGHEST_LOGPROB]
    if len(likely) != tokens or wrong or not all(likely):
        got = repr(wrong[0]) if wrong else f"{len(likely)} lists"
        raise PolicyError(
            f"likely tokens from {where}: got {got}, allowed log-probs, at most 0, for each of {tokens} tokens "
            "(policy.vllm.top_logprobs)"
        )
    return np.array([estimated_entropy(entry) for entry in likely], np.float32)


def _logprobs(given: list[object], tokens: int, where: str) -> npt.NDArray[np.float32]:
    allowed = f"one for each of {tokens} tokens, finite, above {IMPOSSIBLE:g} and at most 0"
    if len(given) != tokens:
        raise PolicyError(f"log-probabilities from {where}: got {len(given)}, allowed {allowed}")
    strange = [value for value in given if type(value) not in (int, float)]  # false and "-0.5" are no numbers
    logprobs = np.array([] if strange else given, np.float32)
    wrong = [*strange, *logprobs[~((logprobs > IMPOSSIBLE) & (logprobs <= HIGHEST_LOGPROB))].tolist()]
    if wrong:
        raise PolicyError(f"log-probabilities from {where}: got {wrong[0]!r}, allowed {allowed}")
    return logprobs
