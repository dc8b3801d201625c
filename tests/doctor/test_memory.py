"""The estimate of memory: numbers to check by hand, what autograd really keeps, and machines that are too small."""

import os
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from aipo.config.build import Experiment, load_experiment
from aipo.doctor.memory import GIB, Shape, check_memory, gib, host, training
from aipo.policies.lora import LoRASettings
from kit.tiny import model

POLICY = Shape(parameters=1 << 28, layers=2, hidden=8, intermediate=8, vocabulary=8, cache=32)
ADAPTED = replace(POLICY, adapter=1000)
TINY = Qwen2Config(
    vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1,
)  # fmt: skip


def config(*overrides: str) -> Experiment:
    one_batch = [
        "train.tasks_per_step=2",
        "train.group_size=8",
        "train.minibatches=1",
        "train.gradient_accumulation=1",
    ]
    return load_experiment(
        "aipo", [*one_batch, "rollout.max_tokens=1024", "method.distil_suppress=false", *overrides]
    )


def test_parts_of_full_training() -> None:
    """16 rollouts and at most 8 distilled rows, over 2 minibatches of 3 micro-batches: 4 rows of 1 + 1024 tokens."""
    cut = config("train.minibatches=2", "train.gradient_accumulation=3")
    one = training(cut, POLICY, 1, ranks=1)
    assert one == {
        "weights": GIB,
        "gradients": GIB,
        "optimiser": 2 * GIB,
        "activations": 4 * 1025 * 2 * (36 * 8 + 16 * 8),
        "logits": 4 * 8 * (4 * 1025 + 8),
    }
    two = training(cut, POLICY, 1, ranks=2)
    assert two["activations"] == one["activations"] / 2
    assert (two["weights"], two["gradients"], two["optimiser"]) == (GIB // 2, GIB // 2, GIB)
    # Two of the two layers, an output layer of 8 x 8, and two layers' gradients.
    assert two["gathered"] == 4 * (4 * (1 << 27) + 64)


def test_an_adapter_is_float32_and_its_network_is_the_reference() -> None:
    parts = training(config("policy.dtype=bfloat16", "method.beta=0.1"), ADAPTED, 1, ranks=1)
    assert {name: parts[name] for name in ("weights", "adapter", "gradients", "optimiser")} == {
        "weights": GIB // 2, "adapter": 4000, "gradients": 4000, "optimiser": 8000,
    }  # fmt: skip
    assert "reference" not in parts
    assert training(config(), ADAPTED, 1, ranks=2)["gathered"] == 4 * (2 * (1 << 27) + 64)


def test_a_reference_is_a_second_network() -> None:
    kl = config("method.beta=0.1")
    assert training(kl, POLICY, 1, ranks=1)["reference"] == GIB
    assert training(kl, POLICY, 1, ranks=4)["reference"] == GIB // 4 + 2 * GIB
    assert host(config(), POLICY, ranks=4) == {"networks": 4 * GIB, "copy": GIB}
    assert host(kl, POLICY, ranks=4) == {"networks": 4 * GIB, "references": 4 * GIB, "copy": GIB}
    assert "references" not in host(kl, ADAPTED, ranks=4)


@pytest.mark.parametrize(
    ("ranks", "checkpointing", "copies"),
    [(1, False, GIB // 2), (1, True, GIB // 2), (4, False, GIB // 2), (4, True, 0)],
)
def test_copies_that_autocast_keeps(ranks: int, checkpointing: bool, copies: int) -> None:
    settings = config("train.autocast=true", f"train.activation_checkpointing={checkpointing}".lower())
    assert training(settings, POLICY, 1, ranks=ranks).get("compute copies", 0) == copies


def test_suppressed_tags_need_whole_logits_and_checkpointing_saves_activations() -> None:
    parts = training(config("method.distil_weight=0"), POLICY, 1, ranks=1)
    whole = training(config("method.distil_weight=0", "method.suppress_share=0.5"), POLICY, 1, ranks=1)
    assert whole["logits"] == 4 * 4 * 16 * 1025 * 8
    again = training(
        config("method.distil_weight=0", "train.activation_checkpointing=true"), POLICY, 1, ranks=1
    )
    assert again["activations"] == parts["activations"] // 2 + 16 * 1025 * 2 * 4 * 8


@pytest.mark.parametrize(
    ("dtype", "autocast", "rank"),
    [
        ("float32", False, 0),
        ("bfloat16", False, 0),
        ("float32", True, 0),
        ("float32", False, 3),
        ("bfloat16", False, 3),
    ],
)
@pytest.mark.parametrize(
    ("network", "kind"), [(Qwen2ForCausalLM, Qwen2Config), (LlamaForCausalLM, LlamaConfig)]
)
def test_the_estimate_of_activations_is_near_what_autograd_keeps(
    network: Any, kind: Any, dtype: str, autocast: bool, rank: int
) -> None:
    settings = {"vocab_size": 32, "hidden_size": 128, "intermediate_size": 512}
    kept: dict[int, int] = {}
    for layers in (1, 2):
        described = kind(num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=2, **settings)
        whole = network(described).to(getattr(torch, dtype))
        kept[layers] = _kept(_adapted(whole, rank) if rank else whole, autocast)
    shape = replace(Shape.of(described), layers=1, adapter=rank)
    asked = config(
        "method.distil_weight=0", "train.group_size=2", "train.tasks_per_step=1", "rollout.max_tokens=60",
        f"policy.dtype={dtype}", f"train.autocast={autocast}".lower(),
    )  # fmt: skip
    estimate = training(asked, shape, 1, ranks=1)["activations"]
    assert 0.9 < estimate / (kept[2] - kept[1]) < 1.5


def _adapted(network: Any, rank: int) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(
        network, peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def _kept(network: Any, autocast: bool) -> int:
    """Bytes that autograd keeps of a forward pass, weights and their copies apart."""
    sizes = {tuple(p.shape) for p in network.parameters()} | {
        tuple(p.shape[::-1]) for p in network.parameters()
    }
    seen: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(tensor.shape) not in sizes:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(2, 61, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            network(input_ids=ids, use_cache=False)
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def test_parameters_of_an_adapter() -> None:
    """Rank 2 on layers of 8 to 8, 4, 4, 8 (attention) and 12 (MLP) and back, twice."""
    assert Shape.of(TINY, LoRASettings(rank=2, targets=None)).adapter == 2 * 2 * (16 + 12 + 12 + 16 + 3 * 20)
    assert Shape.of(TINY, LoRASettings(rank=2, targets=("q_proj", "v_proj"))).adapter == 2 * 2 * (16 + 12)


@pytest.mark.parametrize("tied", [False, True])
def test_a_shape_counts_tied_weights_once(tied: bool) -> None:
    # q and its bias, k and v and theirs, o; gate, up, down; two norms; embedding, and the head.
    layer = (8 * 8 + 8) + 2 * (8 * 4 + 4) + 8 * 8 + 3 * 8 * 12 + 2 * 8
    tiny = Qwen2Config(**{**TINY.to_dict(), "tie_word_embeddings": tied})
    assert Shape.of(tiny).parameters == 2 * layer + 8 + 16 * 8 * (1 if tied else 2)
    assert Shape.of(tiny).cache == 2 * 2 * 1 * 4


def test_a_shape_is_that_of_the_network() -> None:
    network = model()
    assert Shape.of(network.config).parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("count", "text"),
    [(512, "0.5 KiB"), (3 << 20, "3 MiB"), (1.5 * GIB, "1.5 GiB"), (1234.4 * GIB, "1234 GiB")],
)
def test_bytes_are_said(count: float, text: str) -> None:
    assert gib(count) == text


@pytest.mark.parametrize(
    ("gib", "status", "says"), [(64, "ok", "fits a machine of 64 GiB"), (1, "fail", "too much for a machine")]
)
def test_memory_of_this_machine(gib: int, status: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": gib << 20}.__getitem__)
    (check,) = check_memory(config("policy.device=cpu"), POLICY, 10)
    assert check.status == status
    assert says in check.found
    assert "weights 1 GiB, gradients 1 GiB, optimiser 2 GiB" in check.found


def test_a_servers_share() -> None:
    served = ["policy.engine=vllm", "policy.vllm.serve.dtype=bfloat16"]
    _, server = check_memory(config(*served), POLICY, 1024)
    assert server.found == "a server takes 512 MiB for weights and 128 KiB of cache per long rollout"


SERVED = ("method.distil_weight=0", "policy.engine=vllm")


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, free: float, *, host: int = 64) -> None:
    """GPUs of 80 GiB with as much free, and a machine; all in GiB."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (round(free * GIB), 80 * GIB))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": host << 20}.__getitem__)


@pytest.mark.parametrize(("free", "status"), [(4, "ok"), (2.6, "warn")])
def test_gpus_that_fit_together(free: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 GiB, an eighth; four of two layers, each half a GiB; and a little for one row each."""
    machine(monkeypatch, 8, free)
    check, host, _ = check_memory(config(*SERVED), POLICY, 10)
    assert check.status == status
    assert re.match(
        r"training with FSDP2 over 8 GPUs \(accelerate launch --config_file \S+/presets/accelerate/fsdp2.yaml "
        r"--num_processes 8 -m aipo.cli train\) takes about 2\.5\d? GiB: weights 128 MiB, gradients 128 MiB, "
        r"optimiser 256 MiB, gathered 2 GiB, activations [\d.]+ MiB",
        check.found,
    )
    assert (
        f"a GPU with {free} GiB of 80 GiB free" in check.found or f"each GPU with {free} GiB" in check.found
    )
    assert (host.what, host.status) == ("host memory", "ok")
    assert host.found == (
        "8 processes begin with about 9 GiB: networks 8 GiB, copy 1 GiB; fits this machine of 64 GiB"
    )


@pytest.mark.parametrize(("gib", "status"), [(10, "ok"), (9, "warn"), (8, "fail")])
def test_each_process_begins_with_the_whole_network(
    gib: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 8, 4, host=gib)
    _, host, _ = check_memory(config(*SERVED), POLICY, 10)
    assert host.status == status
    assert bool(host.advice) == (status != "ok")


@pytest.mark.parametrize(
    "why",
    [
        {"overrides": ["policy.engine=local"]},
        {"overrides": ["policy.vllm.sync=nccl"]},
        {"free": 2},
        {"gpus": 1},
    ],
)
def test_gpus_that_cannot_train_together(why: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, why.get("gpus", 8), why.get("free", 4))
    check, *others = check_memory(config(*SERVED, *why.get("overrides", [])), POLICY, 10)
    assert check.status == "fail"
    assert check.found.startswith("training takes about 4")
    assert "too much for a GPU with" in check.found
    assert check.advice.endswith("or more GPUs (FSDP2, with policy.engine=vllm and policy.vllm.sync=disk)")
    assert "host memory" not in [other.what for other in others]


def test_one_gpu_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 80)
    check, server = check_memory(config(*SERVED), POLICY, 10)
    assert (check.status, server.what) == ("ok", "server memory")
    assert check.found.startswith("training takes about 4")
