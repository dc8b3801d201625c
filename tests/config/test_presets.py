"""Presets of real models: they load, say where they come from, and fit the GPUs that they name."""

import os
import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, Qwen2Config

from aipo.config import PRESETS, presets
from aipo.config.build import load_experiment
from aipo.config.build_server import settings_of
from aipo.config.load import load_config
from aipo.doctor.memory import GIB, Size, check_memory, held
from aipo.method.settings import MethodSettings

GB = 10**9
REAL = [name for name in presets() if name.endswith("gpu") and not name.startswith("smollm2")]
"""Of models that servers sample."""
NETWORKS: dict[str, Any] = {  # their config.json, as far as it decides about size
    "Qwen/Qwen2.5-1.5B-Instruct": Qwen2Config(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "Qwen/Qwen2.5-7B-Instruct": Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, tie_word_embeddings=False,
    ),
    "meta-llama/Llama-3.2-3B-Instruct": LlamaConfig(
        vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    ),
}  # fmt: skip
PARAMETERS = {
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
}
AGENT = {"Qwen/Qwen3-30B-A3B-Instruct-2507": 61 * GB, "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8": 31 * GB}
"""Weights on the disk: 30.5 billion parameters of 2 bytes or 1."""
PROMPT = 1024


def recipe(name: str) -> str:
    """The comments of a preset and of those that it extends."""
    text = (PRESETS / f"{name}.yaml").read_text()
    base = re.search(r"^extends: (\S+)", text, re.MULTILINE)
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    return comments + ("\n" + recipe(base[1]) if base else "")


def method(name: str, **changes: object) -> MethodSettings:
    return load_config(name).method.model_copy(update=changes)


def test_presets_differ_in_what_their_names_say() -> None:
    grpo, full = method("grpo"), {"negative_weight": 1.0}
    assert (grpo.objective, grpo.assist_share, grpo.distil_weight) == ("dapo", 0.0, 0.0)
    assert method("dapo") == grpo.model_copy(update=full)
    assert method("cispo") == grpo.model_copy(update={"objective": "cispo", **full})
    assert method("dr_grpo", scale_by_std=True) == grpo.model_copy(update={"objective": "dr_grpo", **full})
    assert method("mask") == grpo.model_copy(update={"assist_share": 0.5})
    assert method("echo", coefficient="mask", negative="zero", scale_by_active=True) == method("mask")
    assert method("sft_traces").assist_share == method("aipo_distil").assist_share


def test_supervised_training_weighs_every_token_that_was_right_with_one() -> None:
    gold, traces = load_config("sft"), load_config("sft_traces")
    assert gold.method.credit == traces.method.credit == "reward"
    assert (gold.method.plan, gold.train.group_size) == (
        "expert",
        1,
    )  # shown alone: no tokens of the policy's
    assert (gold.method.coefficient, gold.method.coefficient_value) == ("constant", None)
    assert traces.method.objective == "cispo"
    assert np.float32(1 - traces.method.clip_low) == np.float32(1 + traces.method.clip_high) == 1.0


@pytest.mark.parametrize("model", NETWORKS)
def test_networks_are_the_real_ones(model: str) -> None:
    assert Size.of(load_experiment("grpo"), NETWORKS[model]).weights == 4 * PARAMETERS[model]


@pytest.mark.parametrize("name", REAL)
def test_training_and_servers_fit_the_gpus(name: str) -> None:
    """As far as weights, gradients and the optimizer's state say; and the page says what activations bring it to."""
    config = load_experiment(name)
    alone = name.endswith("1gpu")
    size = int(re.search(r"GPUs? of (\d+) GB", recipe(name))[1]) * GB  # type: ignore[index]
    serve = config.policy.vllm.serve
    assert 2 * PARAMETERS[config.policy.model] < 0.9 * serve.memory * size
    holds = sum(held(config, Size.of(config, NETWORKS[config.policy.model])).values()) / (1 if alone else 4)
    weights = AGENT[config.agents["verify"].options["model"]]
    if alone:
        share = float(re.search(r"--memory ([\d.]+)", recipe(name))[1])  # type: ignore[index]
        assert weights < 0.9 * share * size
        room = size * (1 - share - serve.memory)
    else:
        assert weights < 2 * 0.9 * size
        room = size
    page = (PRESETS.parent / "train" / "README.md").read_text()
    said = re.search(rf"^\| `{name}` \|.*\| ([\d.]+) GiB \| [\d.]+ \+ [\d.]+ GiB \|$", page, re.MULTILINE)
    assert holds < float(said[1]) * GIB < 0.9 * room  # type: ignore[index]
    assert serve.context >= PROMPT + config.rollout.max_tokens


@pytest.mark.parametrize(("name", "status"), [("qwen2.5-1.5b-8gpu", "ok"), ("qwen2.5-7b-8gpu", "warn")])
def test_the_doctor_of_the_recipe_finds_room(name: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four GPUs of 80 GB that nothing else uses, in a machine of 256 GB."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (80 * GB, 80 * GB))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 256 * GB}.__getitem__)
    assert "CUDA_VISIBLE_DEVICES=0,1,2,3 aipo doctor" in recipe(name)
    config = load_experiment(name)
    check = check_memory(config, Size.of(config, NETWORKS[config.policy.model]))
    assert check.status == status
    assert ("142 GiB of this machine's 238 GiB" in check.advice) == (status == "warn")


@pytest.mark.parametrize("name", REAL)
def test_commands_of_the_recipe_belong_to_the_preset(name: str) -> None:
    config, text = load_experiment(name), recipe(name)
    ports = [int(port) for port in re.findall(r"--config \S+ --port (\d+)", text)]
    for server, port in zip(config.policy.vllm.servers, ports or [8000], strict=False):
        assert server.endswith(f":{port}")
    for agent in config.agents.values():
        assert agent.options["base_url"] == "http://127.0.0.1:8100/v1"
        assert f"--model {agent.options['model']} " in text
        assert list(agent.secrets.values()) == ["AIPO_AGENT_KEY"]
    assert "--port 8100" in text
    settings = settings_of(config, {"port": 8000}, lambda: config.policy.model)
    assert (settings["dtype"], settings["context"]) == ("bfloat16", config.policy.vllm.serve.context)


def test_the_page_of_training_shows_the_commands_of_a_preset() -> None:
    recipe_ = {line.removeprefix("#").strip() for line in recipe("qwen2.5-7b-1gpu").splitlines()}
    readme = (PRESETS.parent / "train" / "README.md").read_text()
    block = readme.partition("## Train a real model")[2].split("```")[1].strip().splitlines()
    assert len(block) == 5
    assert set(block) <= recipe_


@pytest.mark.parametrize("name", REAL)
def test_tags_are_several_ids_and_nothing_needs_them_as_one(name: str) -> None:
    config = load_config(name)
    assert not config.method.distil_suppress and config.method.suppress_share == 0
    assert "suppressed" not in config.evaluate.settings


def test_every_number_of_the_base_says_where_it_is_from() -> None:
    for line in (PRESETS / "qwen2.5-7b-8gpu.yaml").read_text().splitlines():
        setting = line.partition("#")[0]
        if re.search(r"[a-z_]: ?[\d.-]+\b(?!gpu)", setting) and "mixture" not in setting:
            assert re.search(r"\[(P|M|ours)\]", line), line
