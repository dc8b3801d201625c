"""Is the policy's server there, is it the right one, is it started as training needs it, and is it exact?"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import orjson

from aipo.config.build import Experiment
from aipo.doctor.check import Check, PolicyParts, attempt, in_words
from aipo.doctor.exactness import check_served
from aipo.doctor.versions import check_vllm
from aipo.errors import AipoError
from aipo.policies.base import SampleRequest
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.client import Server
from aipo.policies.vllm.completions import request_body
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.policies.vllm.weight_sync import measure_gap
from aipo.util.http.retry import status_of
from aipo.util.text import counted

PATIENCE = 60.0
"""Seconds for one answer. A server takes some of them to describe its machine."""

_TEXT = "Caf\u00e9 \u2260 17*23=391?\n<consult:verify>x</consult> \U0001f642 \\boxed{7}"
_COLD = 0.5
_RESTART = "start it with `aipo serve --config ...`, which sets this"
_UP = "start one: `aipo serve --config ...` (it takes a minute to load a model); policy.vllm.servers"


async def check_server(policy: VLLMPolicy, url: str, parts: PolicyParts, *, quick: bool) -> list[Check]:
    """The checks of one server of `policy`, up to the first that could not be done."""
    checks: list[Check] = []
    try:
        async for check in _checks(policy, policy.pool.server(url), parts, quick):
            checks.append(check)
    except Exception as error:  # whatever it is, the other checks are still worth doing
        checks.append(Check("fail", "server", f"{url}: {in_words(error)}", _advice(error)))
    return checks


def _advice(error: Exception) -> str:
    if status_of(error) == 401:
        return "the key in the variable that policy.vllm.secret names"
    return "" if isinstance(error, AipoError) else _UP


async def _checks(
    policy: VLLMPolicy, server: Server, parts: PolicyParts, quick: bool
) -> AsyncIterator[Check]:
    if not await server.healthy():
        yield Check("fail", "server", f"{server.url} does not answer: {server.trouble}", _UP)
        return
    yield check_vllm(server.url, str((await _ask(server, "version"))["version"]))
    model, positions = await policy.served_by(server)
    yield Check("ok", "served model", model)
    yield check_context(positions, len(parts.prompt), parts.experiment.rollout.max_tokens)
    yield await _tokenizer(server, model, parts.tokenizer)
    routes = await _routes(server, parts.experiment)
    yield routes
    if routes.status == "ok":
        for check in flags(await _ask(server, "server_info?config_format=json"), parts):
            yield check
    context = np.array(parts.prompt[-(positions - 1) :], np.int32)
    choices = [await _sample(server, model, context, temperature) for temperature in (1.0, _COLD)]
    warm, cold = (choice["logprobs"]["top_logprobs"][0] for choice in choices)
    yield processed(warm, cold, _COLD)
    yield _echoed(choices[0], context.tolist())
    if quick:
        return
    network = attempt("network", lambda: parts.network, "aipo doctor --quick")
    if isinstance(network, Check):
        yield network
        return
    gap = await measure_gap(server, model, positions, network, parts.tokenizer)
    yield check_served(gap, parts.experiment.tolerance)


def check_context(positions: int, prompt: int, room: int) -> Check:
    """Is there room for a whole rollout?"""
    said = f"{counted(positions, 'token')}, for a prompt of {prompt} and rollout.max_tokens={room}"
    if positions >= prompt + room:
        return Check("ok", "context", said)
    advice = f"aipo serve --context {prompt + room}, or rollout.max_tokens={max(1, positions - prompt)}"
    if positions <= prompt:
        return Check("fail", "context", f"{said}: no room for an answer", advice)
    return Check("warn", "context", f"{said}: long rollouts end early", advice)


def flags(info: dict[str, Any], parts: PolicyParts) -> Iterator[Check]:
    """Checks what the server says of how it was started."""
    config, vllm = parts.experiment.policy, info["vllm_config"]
    model, cache = vllm["model_config"], vllm["cache_config"]
    device, dtype = str(vllm["device_config"]["device"]), str(model["dtype"]).removeprefix("torch.")
    meant = config.vllm.serve.dtype or config.dtype
    tied = parts.settings.get_text_config(decoder=True).tie_word_embeddings
    size = f", cache for {tokens} tokens" if (tokens := cache.get("kv_cache_size_tokens")) else ""
    requests = vllm["scheduler_config"]["max_num_seqs"]
    yield Check("ok", "flags", f"{dtype} on {device}, {counted(requests, 'request')} at once{size}")
    if dtype != meant:
        found = f"the server computes in {dtype}, meant is {meant}"
        yield Check("warn", "flags", found, "policy.vllm.serve.dtype")
    if model.get("quantization"):
        found = f"weights are quantised ({model['quantization']}), the trainer's are not"
        yield Check("fail", "flags", found, "serve the policy's own weights")
    if vllm.get("speculative_config"):
        advice = "log-probs may not be exact: leave it out"
        yield Check("warn", "flags", "speculative decoding is on", advice)
    if not cache.get("enable_prefix_caching"):
        found = "prefix caching is off: every turn of a rollout reads its whole context again"
        yield Check("warn", "flags", found, _RESTART)
    if config.vllm.sync == "nccl" and not vllm.get("weight_transfer_config"):
        yield Check("fail", "flags", "no weight transfer, and policy.vllm.sync is nccl", _RESTART)
    if tied and device == "cpu":
        yield from _tied(Path(str(model.get("model"))))


def _tied(served: Path) -> Iterator[Check]:
    """Has the served model an output layer of its own, as the policy's model has not?"""
    wrongly, file = (
        "the CPU build reloads tied embeddings wrongly, without a word, and",
        served / "config.json",
    )
    if served.is_absolute() and not served.exists():
        found = (
            f"{wrongly} whether what is served ties them is not known here: {served} is on another machine"
        )
        yield Check("warn", "flags", found, "`aipo serve` there, which serves a copy that does not")
    elif not file.is_file() or json.loads(file.read_bytes()).get("tie_word_embeddings") is not False:
        found = f"{wrongly} what is served ties them"
        yield Check("fail", "flags", found, "`aipo serve` here, which serves a copy that does not; or a GPU")


def processed(warm: dict[str, float], cold: dict[str, float], temperature: float) -> Check:
    """Are the log-probs `cold` those at `temperature`, where `warm` are those at 1?

    At a temperature, differences between tokens are 1/temperature of those at 1. Raw log-probs do not change.
    """
    both = sorted(warm.keys() & cold.keys(), key=lambda token: -warm[token])
    before, after = (some[both[0]] - some[both[-1]] if both else 0.0 for some in (warm, cold))
    if before < 1e-3:
        return Check("warn", "log-probs", "all tokens are alike: temperature cannot be told", "another model")
    if not math.isclose(after * temperature, before, rel_tol=0.2):
        found = f"are not those of temperature {temperature:g}, which was sampled at"
        advice = "--logprobs-mode processed_logprobs, as `aipo serve` sets it"
        return Check("fail", "log-probs", found, advice)
    return Check("ok", "log-probs", "are those of the distribution that was sampled from")


def _echoed(choice: dict[str, Any], sent: list[int]) -> Check:
    """Does the server say which ids it read and wrote?"""
    read, written = choice.get("prompt_token_ids"), choice.get("token_ids")
    if read != sent or not written:
        found = "the server does not say which token ids it read and wrote"
        return Check("fail", "token ids", found, "a newer vLLM (return_token_ids)")
    return Check("ok", "token ids", f"{len(sent)} ids went in and came back the same")


async def _tokenizer(server: Server, model: str, tokenizer: HFTokenizer) -> Check:
    ids = tokenizer.encode(_TEXT, control=True)
    try:
        asked = {"model": model, "prompt": _TEXT, "add_special_tokens": False}
        theirs = (await _ask(server, "tokenize", asked))["tokens"]
    except (httpx2.HTTPError, TimeoutError) as error:
        found = f"cannot be asked for ({in_words(error)})"
        return Check("warn", "served tokenizer", found, "the probe still tells")
    if theirs == ids:
        return Check("ok", "served tokenizer", f"cuts a text into the same {len(ids)} ids")
    found = f"cuts a text into {len(theirs)} other ids than the policy's ({len(ids)})"
    return Check(
        "fail",
        "served tokenizer",
        found,
        "serve the policy's folder and its tokenizer, as `aipo serve --config` does",
    )


async def _routes(server: Server, experiment: Experiment) -> Check:
    """Can weights be pushed? A GET gets status 405 from an open POST route, and 404 from a closed one."""
    nccl = experiment.policy.vllm.sync == "nccl"
    needed = ["reset_prefix_cache", "init_weight_transfer_engine" if nccl else "collective_rpc"]
    missing: list[str] = []
    for route in needed:
        try:
            await _ask(server, route)
        except httpx2.HTTPStatusError as error:
            if error.response.status_code != 405:
                missing.append(route)
    if missing:
        found = f"{', '.join(missing)} not open: new weights could not be loaded"
        return Check("fail", "weight routes", found, "VLLM_SERVER_DEV_MODE=1, as `aipo serve` sets it")
    return Check("ok", "weight routes", f"open ({', '.join(needed)})")


async def _sample(
    server: Server, model: str, context: npt.NDArray[np.int32], temperature: float
) -> dict[str, Any]:
    """One token with the five likeliest, by their ids."""
    body = orjson.loads(request_body(model, SampleRequest(context, max_tokens=1, temperature=temperature)))
    body |= {"logprobs": 5, "return_tokens_as_token_ids": True}
    return (await _ask(server, "v1/completions", body))["choices"][0]


async def _ask(server: Server, path: str, body: object = None) -> Any:
    """Posts `body`, or gets `path` where there is none."""
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await server.ask(path, None if body is None else orjson.dumps(body))
    except TimeoutError:
        raise TimeoutError(f"{path} gives no answer within {PATIENCE:g} s") from None
    return orjson.loads(answer) if answer else None
