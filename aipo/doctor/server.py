"""Is the policy's server there, is it the right one, and is it started as training needs it?"""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
import orjson

from aipo.config.build import Experiment
from aipo.doctor.check import Check
from aipo.doctor.versions import check_vllm
from aipo.policies.base import SampleRequest
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.client import Server
from aipo.policies.vllm.completions import request_body

PATIENCE = 60.0
"""Seconds for one answer. A server takes some of them to describe its machine."""

_TEXT = "Caf\u00e9 \u2260 17*23=391?\n<consult:verify>x</consult> \U0001f642 \\boxed{7}"
_COLD = 0.5
_RESTART = "start it with `aipo serve --config ...`, which sets this"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The expected values that a server is compared with.

    Args:
        experiment: the run to be.
        tokenizer: the policy's.
        prompt: ids of the longest prompt that was seen.
        tied: do the network's embedding and head share their weights?
    """

    experiment: Experiment
    tokenizer: HFTokenizer
    prompt: list[int]
    tied: bool


@dataclass(frozen=True, slots=True)
class Served:
    """The served model as the server reports it: name and maximum context."""

    model: str
    positions: int


async def meet(server: Server, wanted: Wanted) -> tuple[list[Check], Served | None]:
    """Checks whether there is such a server at all; what it serves, if there is."""
    config = wanted.experiment.policy
    try:
        await _get(server, "health")
    except (httpx2.HTTPError, TimeoutError) as error:
        return [Check("fail", "server", f"{server.url} does not answer ({_in_words(error)})", _UP)], None
    try:
        version = str((await _get(server, "version"))["version"])
        cards = {str(card["id"]): card for card in (await _get(server, "v1/models"))["data"]}
    except httpx2.HTTPStatusError as error:
        key = (
            "the key in the variable that policy.vllm.secret names"
            if error.response.status_code == 401
            else _RESTART
        )
        return [Check("fail", "server", f"{server.url} answers {_in_words(error)}", key)], None
    except (httpx2.HTTPError, TimeoutError, KeyError, TypeError, orjson.JSONDecodeError) as error:
        return [Check("fail", "server", f"{server.url} is no vLLM server ({error!r})", _UP)], None
    checks = [check_vllm("server", version)]
    checks[0] = Check(
        checks[0].status, "server", f"{server.url} answers, {checks[0].found}", checks[0].advice
    )
    name = config.vllm.model or next(iter(cards), "")
    if name not in cards:
        found = f"serves {', '.join(cards) or 'nothing'}, not {name!r}"
        return [
            *checks,
            Check("fail", "served model", found, "policy.vllm.model, or `aipo serve --name`"),
        ], None
    checks.append(Check("ok", "served model", name))
    return checks, Served(name, int(cards[name]["max_model_len"]))


async def examine(server: Server, served: Served, wanted: Wanted) -> AsyncIterator[Check]:
    """Checks context, tokenizer, routes, flags, log-probs and ids of a server that is there."""
    yield check_context(served.positions, len(wanted.prompt), wanted.experiment.rollout.max_tokens)
    yield await _tokenizer(server, served, wanted.tokenizer)
    routes = await _routes(server, wanted.experiment)
    yield routes
    if routes.status == "ok":
        for check in flags(await _get(server, "server_info?config_format=json"), wanted):
            yield check
    yield await _processed(server, served, wanted)
    yield await _echoed(server, served, wanted)


def check_context(positions: int, prompt: int, room: int) -> Check:
    """Is there room for a whole rollout?"""
    said = f"{positions} tokens, for a prompt of {prompt} and rollout.max_tokens={room}"
    if positions >= prompt + room:
        return Check("ok", "context", said)
    advice = f"aipo serve --context {prompt + room}, or rollout.max_tokens={max(1, positions - prompt)}"
    if positions <= prompt:
        return Check("fail", "context", f"{said}: no room for an answer", advice)
    return Check("warn", "context", f"{said}: long rollouts end early", advice)


def flags(info: dict[str, Any], wanted: Wanted) -> list[Check]:
    """Checks what the server says of how it was started."""
    config = wanted.experiment.policy
    vllm = info["vllm_config"]
    model, cache = vllm["model_config"], vllm["cache_config"]
    device = str(vllm["device_config"]["device"])
    dtype = str(model["dtype"]).removeprefix("torch.")
    meant = config.vllm.serve.dtype or config.dtype
    found = f"{dtype} on {device}, {vllm['scheduler_config']['max_num_seqs']} requests at once"
    if cache.get("kv_cache_size_tokens"):
        found += f", cache for {cache['kv_cache_size_tokens']} tokens"
    checks = [Check("ok", "flags", found)]
    if dtype != meant:
        checks.append(
            Check(
                "warn",
                "flags",
                f"the server computes in {dtype}, meant is {meant}",
                "policy.vllm.serve.dtype",
            )
        )
    if model.get("quantization"):
        found = f"weights are quantised ({model['quantization']}), the trainer's are not"
        checks.append(Check("fail", "flags", found, "serve the policy's own weights"))
    if vllm.get("speculative_config"):
        checks.append(
            Check("warn", "flags", "speculative decoding is on", "log-probs may not be exact: leave it out")
        )
    if not cache.get("enable_prefix_caching"):
        found = "prefix caching is off: every turn of a rollout reads its whole context again"
        checks.append(Check("warn", "flags", found, _RESTART))
    if config.vllm.sync == "nccl" and not vllm.get("weight_transfer_config"):
        checks.append(Check("fail", "flags", "no weight transfer, and policy.vllm.sync is nccl", _RESTART))
    if wanted.tied and device == "cpu":
        found = "the CPU build reloads tied embeddings wrongly, without a word, and this model ties them"
        checks.append(Check("fail", "flags", found, "a GPU, or a model with tie_word_embeddings=false"))
    return checks


def scaled(warm: dict[str, float], cold: dict[str, float], temperature: float) -> bool | None:
    """Whether the log-probs `cold` are those at `temperature`, where `warm` are those at 1; None if all are alike.

    At a temperature, differences between tokens are 1/temperature of those at 1.
    """
    both = sorted(warm.keys() & cold.keys(), key=lambda token: -warm[token])
    if len(both) < 2:
        return None
    before, after = (some[both[0]] - some[both[-1]] for some in (warm, cold))
    if before < 1e-3:
        return None
    return math.isclose(after * temperature, before, rel_tol=0.2)


_UP = "start one: `aipo serve --config ...` (it takes a minute to load a model); policy.vllm.servers"


async def _tokenizer(server: Server, served: Served, tokenizer: HFTokenizer) -> Check:
    asked = {"model": served.model, "prompt": _TEXT, "add_special_tokens": False}
    ids = tokenizer.encode(_TEXT, control=True)
    try:
        theirs = orjson.loads(await _post(server, "tokenize", json.dumps(asked).encode()))["tokens"]
    except (httpx2.HTTPError, TimeoutError) as error:
        return Check(
            "warn", "served tokenizer", f"cannot be asked for ({_in_words(error)})", "the probe still tells"
        )
    if theirs == ids:
        return Check("ok", "served tokenizer", f"cuts a text into the same {len(ids)} ids")
    found = f"cuts a text into {len(theirs)} other ids than the policy's ({len(ids)})"
    return Check("fail", "served tokenizer", found, "serve policy.model itself, with its tokenizer files")


async def _routes(server: Server, experiment: Experiment) -> Check:
    """Whether weights can be pushed. A GET gets status 405 from an open POST route, and 404 from a closed one."""
    nccl = experiment.policy.vllm.sync == "nccl"
    needed = ["reset_prefix_cache", "init_weight_transfer_engine" if nccl else "collective_rpc"]
    missing = [route for route in needed if not await _is_there(server, route)]
    if missing:
        found = f"{', '.join(missing)} not open: new weights could not be loaded"
        return Check("fail", "weight routes", found, "VLLM_SERVER_DEV_MODE=1, as `aipo serve` sets it")
    return Check("ok", "weight routes", f"open ({', '.join(needed)})")


async def _is_there(server: Server, route: str) -> bool:
    try:
        await _get(server, route)
    except httpx2.HTTPStatusError as error:
        return error.response.status_code == 405
    except TimeoutError:
        return False
    return True


async def _processed(server: Server, served: Served, wanted: Wanted) -> Check:
    """At a low temperature raw log-probs differ from those of what was sampled from."""
    warm, cold = [await _top(server, served, wanted, temperature) for temperature in (1.0, _COLD)]
    fits = scaled(warm, cold, _COLD)
    if fits is None:
        return Check("warn", "log-probs", "all tokens are alike: temperature cannot be told", "another model")
    if not fits:
        found = f"are not those of temperature {_COLD:g}, which was sampled at"
        return Check(
            "fail", "log-probs", found, "--logprobs-mode processed_logprobs, as `aipo serve` sets it"
        )
    return Check("ok", "log-probs", "are those of the distribution that was sampled from")


async def _top(server: Server, served: Served, wanted: Wanted, temperature: float) -> dict[str, float]:
    body = orjson.loads(_request(served, wanted, temperature))
    body |= {"max_tokens": 1, "logprobs": 5, "return_tokens_as_token_ids": True}
    answer = orjson.loads(await _post(server, "v1/completions", orjson.dumps(body)))
    return answer["choices"][0]["logprobs"]["top_logprobs"][0]


async def _echoed(server: Server, served: Served, wanted: Wanted) -> Check:
    """Does the server say which ids it read and wrote?"""
    asked = orjson.loads(_request(served, wanted, 1.0))
    (choice,) = orjson.loads(await _post(server, "v1/completions", orjson.dumps(asked)))["choices"]
    read, written = choice.get("prompt_token_ids"), choice.get("token_ids")
    if read != asked["prompt"] or not written:
        found = "the server does not say which token ids it read and wrote"
        return Check("fail", "token ids", found, "a newer vLLM (return_token_ids)")
    return Check(
        "ok", "token ids", f"{len(read)} ids went in and came back the same, {len(written)} came out"
    )


def _request(served: Served, wanted: Wanted, temperature: float) -> bytes:
    context = np.array(wanted.prompt[-(served.positions - 4) :], np.int32)
    return request_body(served.model, SampleRequest(context, max_tokens=4, temperature=temperature))


async def _get(server: Server, path: str) -> Any:
    async with asyncio.timeout(PATIENCE):
        body = await server.ask(path)
    return orjson.loads(body) if body else None


async def _post(server: Server, path: str, body: bytes) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await server.ask(path, body)


def _in_words(error: Exception) -> str:
    if isinstance(error, httpx2.HTTPStatusError):
        return f"status {error.response.status_code}"
    return f"nothing within {PATIENCE:g} s" if isinstance(error, TimeoutError) else str(error)
