"""What training holds: sizes to check by hand, and machines that are too small for it."""

import os
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from aipo.config.build import Experiment, load_experiment
from aipo.doctor.check import Check
from aipo.doctor.memory import GIB, Size, check_memory, gib, held

POLICY = Size(weights=GIB, trained=GIB)
TINY = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
# Two heads of 4, one of keys and values: q and its bias, k and v and theirs, o; gate, up, down; two norms.
# Two such layers, a norm and the embedding.
WHOLE = 2 * ((8 * 8 + 8) + 2 * (8 * 4 + 4) + 8 * 8 + 3 * 8 * 12 + 2 * 8) + 8 + 16 * 8
SERVED = ("policy.engine=vllm",)


def config(*overrides: str) -> Experiment:
    return load_experiment("aipo_distil", [*overrides])


@pytest.mark.parametrize(
    ("overrides", "tied", "expected"),
    [
        ([], True, Size(4 * WHOLE, 4 * WHOLE)),
        ([], False, Size(4 * (WHOLE + 16 * 8), 4 * (WHOLE + 16 * 8))),
        (["policy.dtype=bfloat16"], True, Size(2 * WHOLE, 2 * WHOLE)),
        # Rank 2 on layers of 8 to 8, 4, 4, 8 (attention) and 12 (MLP) and back, twice; in float32.
        (["policy.dtype=bfloat16", "policy.lora={rank: 2}"], True, Size(2 * WHOLE, 4 * 4 * (16 + 12 + 12 + 16 + 3 * 20))),
        (["policy.lora={rank: 2, targets: [q_proj, v_proj]}"], True, Size(4 * WHOLE, 4 * 4 * (16 + 12))),
    ],
)  # fmt: skip
def test_the_size_of_a_network_and_of_what_is_trained(
    overrides: list[str], tied: bool, expected: Size
) -> None:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    assert Size.of(config(*overrides), Qwen2Config(**TINY, **heads, tie_word_embeddings=tied)) == expected


def test_parts_that_are_held() -> None:
    whole = {"weights": GIB, "gradients": GIB, "optimizer": 2 * GIB}
    assert held(config(), POLICY) == whole
    assert held(config("method.beta=0.1"), POLICY) == whole | {"reference": GIB}
    adapted = held(config("method.beta=0.1", "policy.lora={}"), Size(GIB, 1000))
    assert adapted == {"weights": GIB, "adapter": 1000, "gradients": 1000, "optimizer": 2000}


@pytest.mark.parametrize(
    ("count", "text"),
    [(512, "0.5 KiB"), (3 << 20, "3 MiB"), (1.5 * GIB, "1.5 GiB"), (1234.4 * GIB, "1234 GiB")],
)
def test_bytes_are_said(count: float, text: str) -> None:
    assert gib(count) == text


def on_machine(monkeypatch: pytest.MonkeyPatch, *overrides: str, **sizes: float) -> Check:
    """A machine with `gpus` GPUs of 80 GiB, of which `free` are free, and `host` of its own; in GiB."""
    gpus, free, host = sizes.get("gpus", 0), sizes.get("free", 80), sizes.get("host", 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (round(free * GIB), 80 * GIB))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": int(host) << 20}.__getitem__)
    return check_memory(config(*overrides), POLICY)


@pytest.mark.parametrize(
    ("sizes", "overrides", "status", "place"),
    [
        ({}, (), "ok", "this machine has 64 GiB"),
        ({"host": 3}, (), "fail", "this machine has 3 GiB"),
        ({"gpus": 1, "free": 3}, ("policy.device=cpu",), "ok", "this machine has 64 GiB"),
        ({"gpus": 1, "free": 5, "host": 3}, (), "ok", "a GPU has 5 GiB of 80 GiB free"),
        ({"gpus": 1, "free": 3}, SERVED, "fail", "a GPU has 3 GiB of 80 GiB free"),
        ({"gpus": 8, "free": 3}, (), "fail", "a GPU has 3 GiB"),
        ({"gpus": 8, "free": 3}, (*SERVED, "policy.vllm.sync=nccl"), "fail", "a GPU has 3 GiB"),
        ({"gpus": 2, "free": 1}, SERVED, "fail", "a GPU has 1 GiB"),
    ],
)
def test_room_for_what_is_held(
    sizes: dict[str, Any],
    overrides: tuple[str, ...],
    status: str,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = on_machine(monkeypatch, *overrides, **sizes)
    assert check.status == status
    held = "training holds weights 1 GiB, gradients 1 GiB, optimizer 2 GiB, together 4 GiB, and activations"
    assert check.found.startswith(f"{held}; {place}")
    more = "or more GPUs (FSDP2, with policy.engine=vllm and policy.vllm.sync=disk)"
    assert check.advice.endswith(more if status == "fail" else "")


@pytest.mark.parametrize(("host", "status"), [(9, "warn"), (8, "fail")])
def test_gpus_that_have_room_together(host: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process begins with the whole network, and the first one has a copy."""
    check = on_machine(monkeypatch, *SERVED, gpus=8, free=3, host=host)
    assert check.status == status
    launch, _, rest = check.advice.partition(": ")
    assert launch.startswith("accelerate launch --config_file ")
    assert launch.endswith("/presets/accelerate/fsdp2.yaml --num_processes 8 -m aipo.cli train")
    assert rest == (
        f"each GPU then holds 512 MiB and activations. The processes begin with 9 GiB of this machine's {host} GiB"
    )
