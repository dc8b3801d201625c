"""Checks of a policy's server: one that is right, and one for each way to start it wrong."""

from typing import Any

import pytest

from aipo.config.build import load_experiment
from aipo.doctor.check import Check
from aipo.doctor.exactness import check_served
from aipo.doctor.server import Served, Wanted, check_context, examine, flags, meet, scaled
from aipo.policies.vllm.client import Server
from aipo.policies.vllm.pool import ServerPool
from aipo.util.event_loop import LOOP
from kit.servers import free_port, serving
from kit.tiny import chat_network, chat_tokenizer
from kit.tiny_vllm import TinyVLLM, server_info

TOKENIZER = chat_tokenizer()
NETWORK = chat_network(TOKENIZER)
GOOD = [
    "server",
    "served model",
    "context",
    "served tokenizer",
    "weight routes",
    "flags",
    "log-probs",
    "token ids",
]


def wanted(*overrides: str, tied: bool = False) -> Wanted:
    config = load_experiment("aipo", ["policy.engine=vllm", "rollout.max_tokens=64", *overrides])
    return Wanted(experiment=config, tokenizer=TOKENIZER, prompt=TOKENIZER.encode_prompt("1+1=?"), tied=tied)


def served(**changes: Any) -> TinyVLLM:
    return TinyVLLM(**{"network": NETWORK, "tokenizer": TOKENIZER, **changes})


def checks_of(url: str, asked: Wanted, key: str | None = None) -> list[Check]:
    async def run() -> list[Check]:
        pool = ServerPool([url], key=key)
        try:
            (server,) = pool.servers
            made, found = await meet(server, asked)
            if found is not None:
                made += [check async for check in examine(server, found, asked)]
            return made
        finally:
            await pool.aclose()

    return LOOP.run(run())


def wrong(tiny: TinyVLLM, *overrides: str, key: str | None = None, tied: bool = False) -> list[Check]:
    with serving(tiny.app) as url:
        return [c for c in checks_of(url, wanted(*overrides, tied=tied), key) if c.status != "ok"]


def test_a_server_that_is_right() -> None:
    with serving(served().app) as url:
        made = checks_of(url, wanted())
    assert [(check.status, check.what) for check in made] == [("ok", what) for what in GOOD]
    assert made[0].found == f"{url} answers, vLLM 0.32.0"
    assert made[5].found == "float32 on cpu, 256 requests at once, cache for 699008 tokens"


def test_nobody_there() -> None:
    (check,) = checks_of(f"http://127.0.0.1:{free_port()}", wanted())
    assert (check.status, check.what) == ("fail", "server")
    assert "aipo serve" in check.advice


@pytest.mark.parametrize(
    ("changes", "overrides", "status", "what", "says"),
    [
        ({"version": "0.40.0"}, [], "warn", "server", "vLLM 0.40.0 is outside of >=0.22,<0.33"),
        ({}, ["policy.vllm.model=other"], "fail", "served model", "serves tiny, not 'other'"),
        ({"positions": 40}, [], "warn", "context", "long rollouts end early"),
        ({"dev": False}, [], "fail", "weight routes", "reset_prefix_cache, collective_rpc not open"),
        ({"processed": False}, [], "fail", "log-probs", "are not those of temperature 0.5"),
        ({"echo": False}, [], "fail", "token ids", "does not say which token ids"),
        ({"tokenizer": chat_tokenizer(shift=1)}, [], "fail", "served tokenizer", "other ids"),
        ({"flags": {"model_config": {"dtype": "torch.bfloat16"}}}, [], "warn", "flags", "in bfloat16, meant is float32"),
        ({"key": "secret"}, [], "fail", "server", "answers status 401"),
    ],
)  # fmt: skip
def test_a_server_that_is_not(
    changes: dict[str, Any], overrides: list[str], status: str, what: str, says: str
) -> None:
    (check,) = wrong(served(**changes), *overrides)
    assert (check.status, check.what) == (status, what)
    assert says in check.found
    assert check.advice


def test_the_key_opens() -> None:
    assert wrong(served(key="secret"), key="secret") == []


@pytest.mark.parametrize(
    ("sections", "tied", "overrides", "status", "says"),
    [
        ({"model_config": {"quantization": "fp8"}}, False, [], "fail", "quantised (fp8)"),
        ({"speculative_config": {"method": "ngram"}}, False, [], "warn", "speculative decoding is on"),
        ({"cache_config": {"enable_prefix_caching": False}}, False, [], "warn", "prefix caching is off"),
        ({}, False, ["policy.vllm.sync=nccl"], "fail", "no weight transfer"),
        ({}, True, [], "fail", "reloads tied embeddings wrongly"),
    ],
)
def test_flags(sections: dict[str, Any], tied: bool, overrides: list[str], status: str, says: str) -> None:
    first, *others = flags(server_info(**sections), wanted(*overrides, tied=tied))
    assert first.status == "ok"
    assert [(check.status, says in check.found) for check in others] == [(status, True)]


def test_tied_weights_are_reloaded_on_gpus_and_the_servers_own_type_is_meant() -> None:
    info = server_info(device_config={"device": "cuda"}, model_config={"dtype": "torch.bfloat16"})
    made = flags(info, wanted("policy.vllm.serve.dtype=bfloat16", tied=True))
    assert [check.status for check in made] == ["ok"]


@pytest.mark.parametrize(
    ("positions", "status", "advice"),
    [
        (30, "ok", ""),
        (29, "warn", "aipo serve --context 30, or rollout.max_tokens=19"),
        (10, "fail", "aipo serve --context 30, or rollout.max_tokens=1"),
    ],
)
def test_a_rollout_has_to_fit(positions: int, status: str, advice: str) -> None:
    check = check_context(positions, prompt=10, room=20)
    assert (check.status, check.advice) == (status, advice)


def test_temperature_shows_in_the_distance_of_tokens() -> None:
    """At temperature 1/2 log-probs of two tokens are twice as far apart."""
    warm = {"a": -0.5, "b": -1.5, "c": -3.5}
    assert scaled(warm, {"a": -0.1, "b": -2.1, "c": -6.1}, 0.5) is True
    assert scaled(warm, warm, 0.5) is False
    assert scaled({"a": -0.7, "b": -0.7}, {"a": -0.7, "b": -0.7}, 0.5) is None
    assert scaled({"a": -0.1}, {"b": -0.1}, 0.5) is None


@pytest.mark.parametrize(("changed", "status"), [(False, "ok"), (True, "fail")])
def test_the_servers_weights_are_the_trainers(changed: bool, status: str) -> None:
    network = chat_network(TOKENIZER, seed=int(changed))

    async def probe(url: str) -> Check:
        server = Server(url, None, 1)
        try:
            return await check_served(server, Served("tiny", 128), network, TOKENIZER, 1e-3)
        finally:
            await server.aclose()

    with serving(served().app) as url:
        check = LOOP.run(probe(url))
    assert check.status == status
    assert ("restart the server" in check.advice) == changed
