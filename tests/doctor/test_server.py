"""Checks of a policy's server: one that is right, and one for each way to start it wrong."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, Qwen2Config

from aipo.config.build import load_experiment
from aipo.doctor.check import Check, PolicyParts
from aipo.doctor.server import check_context, check_server, flags, processed
from aipo.util.event_loop import LOOP
from kit.servers import free_port, serving
from kit.tiny import chat_network, chat_tokenizer
from kit.tiny_vllm import TinyVLLM, server_info

TOKENIZER = chat_tokenizer()
NETWORK = chat_network(TOKENIZER)
GOOD = [
    *("server", "served model", "context", "served tokenizer"),
    *("weight routes", "flags", "log-probs", "token ids"),
]


def parts(*overrides: str, tied: bool = False) -> PolicyParts:
    return PolicyParts(
        experiment=load_experiment(
            "aipo_distil", ["policy.engine=vllm", "rollout.max_tokens=64", *overrides]
        ),
        model="tiny",
        tokenizer=TOKENIZER,
        settings=Qwen2Config(tie_word_embeddings=tied),
        prompt=TOKENIZER.encode_prompt("1+1=?"),
    )


def served(**changes: Any) -> TinyVLLM:
    return TinyVLLM(**{"network": NETWORK, "tokenizer": TOKENIZER, **changes})


def checks_of(url: str, *overrides: str, network: PreTrainedModel | None = None) -> list[Check]:
    asked = parts(f"policy.vllm.servers=[{url}]", *overrides)
    asked.__dict__["network"] = network  # already loaded
    policy = asked.experiment.served_policy(TOKENIZER, len(TOKENIZER))
    try:
        return LOOP.run(check_server(policy, url, asked, quick=network is None))
    finally:
        LOOP.run(policy.aclose())


def wrong(tiny: TinyVLLM, *overrides: str) -> list[Check]:
    with serving(tiny.app) as url:
        return [check for check in checks_of(url, *overrides) if check.status != "ok"]


def test_a_server_that_is_right() -> None:
    with serving(served().app) as url:
        made = checks_of(url)
    assert [(check.status, check.what) for check in made] == [("ok", what) for what in GOOD]
    assert made[0].found == f"{url} answers, vLLM 0.32.0"
    assert made[5].found == "float32 on cpu, 256 requests at once, cache for 699008 tokens"


def test_nobody_there() -> None:
    (check,) = checks_of(f"http://127.0.0.1:{free_port()}")
    assert (check.status, check.what) == ("fail", "server")
    assert "aipo serve" in check.advice


@pytest.mark.parametrize(
    ("changes", "overrides", "status", "what", "says"),
    [
        ({"version": "0.40.0"}, [], "warn", "server", "vLLM 0.40.0 is outside of >=0.22,<0.33"),
        ({}, ["policy.vllm.model=other"], "fail", "server", "policy.vllm.model: got 'other', allowed a model that the server lists"),
        ({"positions": 40}, [], "warn", "context", "long rollouts end early"),
        ({"dev": False}, [], "fail", "weight routes", "reset_prefix_cache, collective_rpc not open"),
        ({"processed": False}, [], "fail", "log-probs", "are not those of temperature 0.5"),
        ({"echo": False}, [], "fail", "token ids", "does not say which token ids"),
        ({"tokenizer": chat_tokenizer(shift=1)}, [], "fail", "served tokenizer", "other ids"),
        ({"flags": {"model_config": {"dtype": "torch.bfloat16"}}}, [], "warn", "flags", "in bfloat16, meant is float32"),
        ({"key": "secret"}, [], "fail", "server", "status 401"),
    ],
)  # fmt: skip
def test_a_server_that_is_not(
    changes: dict[str, Any], overrides: list[str], status: str, what: str, says: str
) -> None:
    (check,) = wrong(served(**changes), *overrides)
    assert (check.status, check.what) == (status, what)
    assert says in check.found
    assert check.advice or "allowed" in check.found


def test_the_key_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVERS_KEY", "secret")
    assert wrong(served(key="secret"), "policy.vllm.secret=SERVERS_KEY") == []


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
    first, *others = flags(server_info(**sections), parts(*overrides, tied=tied))
    assert first.status == "ok"
    assert [(check.status, says in check.found) for check in others] == [(status, True)]


def test_tied_weights_are_reloaded_on_gpus_and_the_servers_own_type_is_meant() -> None:
    info = server_info(device_config={"device": "cuda"}, model_config={"dtype": "torch.bfloat16"})
    made = flags(info, parts("policy.vllm.serve.dtype=bfloat16", tied=True))
    assert [check.status for check in made] == ["ok"]


def test_a_copy_with_an_output_layer_of_its_own_is_reloaded_on_cpus(tmp_path: Path) -> None:
    info = server_info(model_config={"model": str(tmp_path)})
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": false}')
    assert [check.status for check in flags(info, parts(tied=True))] == ["ok"]
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    assert [check.status for check in flags(info, parts(tied=True))] == ["ok", "fail"]
    elsewhere = server_info(model_config={"model": str(tmp_path / "elsewhere")})
    assert [check.status for check in flags(elsewhere, parts(tied=True))] == ["ok", "warn"]


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


@pytest.mark.parametrize(
    ("warm", "cold", "status"),
    [
        ({"a": -0.5, "b": -1.5, "c": -3.5}, {"a": -0.1, "b": -2.1, "c": -6.1}, "ok"),
        ({"a": -0.5, "b": -1.5, "c": -3.5}, {"a": -0.5, "b": -1.5, "c": -3.5}, "fail"),
        ({"a": -0.7, "b": -0.7}, {"a": -0.7, "b": -0.7}, "warn"),
        ({"a": -0.1}, {"b": -0.1}, "warn"),
    ],
)
def test_temperature_shows_in_the_distance_of_tokens(
    warm: dict[str, float], cold: dict[str, float], status: str
) -> None:
    """At temperature 1/2 log-probs of two tokens are twice as far apart."""
    assert processed(warm, cold, 0.5).status == status


@pytest.mark.parametrize(("changed", "status"), [(False, "ok"), (True, "fail")])
def test_the_servers_weights_are_the_trainers(changed: bool, status: str) -> None:
    with serving(served().app) as url:
        *_, check = checks_of(url, network=chat_network(TOKENIZER, seed=int(changed)))
    assert (check.what, check.status) == ("exactness", status)
    assert ("restart the server" in check.advice) == changed
