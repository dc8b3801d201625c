"""Is there room: numbers to check by hand, and disks and machines that are too small."""

import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from aipo.config.build import Experiment, load_experiment
from aipo.doctor.memory import GIB, Adapter, Shape
from aipo.doctor.room import Trained, check_disk, check_memory, needed

POLICY = Trained(
    Shape(
        parameters=1 << 28, layers=2, hidden=8, intermediate=8, heads=1, kv_heads=1, head_dim=8, vocabulary=8
    )
)


def config(tmp_path: Path, *overrides: str) -> Experiment:
    small = ["train.steps=8", "train.save_every=2", "train.tasks_per_step=2", "train.group_size=8"]
    return load_experiment(
        "aipo", [f"run.out={tmp_path / 'run'}", *small, "rollout.max_tokens=1024", *overrides]
    )


class Disk(NamedTuple):
    free: int


@pytest.mark.parametrize(("gib", "status"), [(100, "ok"), (13, "warn"), (12.9, "fail")])
def test_what_a_run_leaves(gib: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 checkpoints (three are kept while the next is written) of 3 x 1 GiB, the policy's 1 GiB, and traces."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(round(gib * GIB)))
    (check,) = check_disk(config(tmp_path), POLICY)
    assert check.status == status
    assert "traces 3 MiB, checkpoints 12 GiB, the policy 1 GiB" in check.found
    assert f"free at {tmp_path}, at most 13 GiB needed" in check.found


def test_weights_on_their_way(tmp_path: Path) -> None:
    pushed = ["policy.engine=vllm"]
    (check,) = check_disk(config(tmp_path, *pushed), POLICY)
    assert "weights on their way 2 GiB" in check.found
    folder = tmp_path / "elsewhere"
    own, other = check_disk(config(tmp_path, *pushed, f"policy.vllm.folder={folder}"), POLICY)
    assert "weights on their way" not in own.found
    assert "at most 2 GiB needed" in other.found


def test_rows_of_a_micro_batch(tmp_path: Path) -> None:
    """16 rollouts and at most 8 distilled rows, over 2 minibatches of 3 micro-batches: 4 rows of 1 + 1 024 tokens."""
    one = needed(config(tmp_path, "train.minibatches=2", "train.gradient_accumulation=3"), POLICY, 1, ranks=1)
    assert one["activations"] == 4 * 1025 * 2 * (4 * (4 * 8 + 4 * 8 + 4 * 8) + 4 * (2 * 8 + 3))
    two = needed(config(tmp_path, "train.minibatches=2", "train.gradient_accumulation=3"), POLICY, 1, ranks=2)
    assert two["activations"] == one["activations"] / 2
    assert (one["optimiser"], two["optimiser"]) == (2 * GIB, GIB)


@pytest.mark.parametrize(
    ("gib", "status", "says"), [(64, "ok", "fits a machine of 64 GiB"), (1, "fail", "too much for a machine")]
)
def test_memory_of_this_machine(
    gib: int, status: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": gib << 20}.__getitem__)
    (check,) = check_memory(config(tmp_path, "policy.device=cpu"), POLICY, 10)
    assert check.status == status
    assert says in check.found
    assert "weights 1 GiB, gradients 1 GiB, optimiser 2 GiB" in check.found


def test_a_servers_share(tmp_path: Path) -> None:
    served = ["policy.engine=vllm", "policy.vllm.serve.dtype=bfloat16"]
    _, server = check_memory(config(tmp_path, *served), POLICY, 1024)
    assert server.found == "a server takes 512 MiB for weights and 128 KiB of cache per long rollout"


def test_settings_that_save_memory_are_taken_into_account(tmp_path: Path) -> None:
    parts = needed(config(tmp_path, "train.autocast=true"), POLICY, 10, ranks=1)
    assert parts["compute copies"] == GIB // 2
    again = needed(
        config(tmp_path, "train.autocast=true", "train.activation_checkpointing=true"), POLICY, 10, ranks=1
    )
    assert again["activations"] < parts["activations"]
    adapted = needed(
        config(tmp_path, "policy.lora={}"), Trained(POLICY.shape, Adapter(16, 1000)), 10, ranks=1
    )
    assert (adapted["weights"], adapted["optimiser"]) == (GIB, 8000)
    assert "reference" in needed(config(tmp_path, "method.beta=0.1"), POLICY, 10, ranks=1)


SERVED = ("method.distil_weight=0", "policy.engine=vllm")


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, free: float, *, host: int = 64) -> None:
    """GPUs of 80 GiB with as much free, and a machine; all in GiB."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (round(free * GIB), 80 * GIB))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": host << 20}.__getitem__)


@pytest.mark.parametrize(("free", "status"), [(4, "ok"), (2.6, "warn")])
def test_gpus_that_fit_together(
    free: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4 GiB, an eighth; four of two layers, each half a GiB; and a little for one row each."""
    machine(monkeypatch, 8, free)
    check, host, _ = check_memory(config(tmp_path, *SERVED), POLICY, 10)
    assert check.status == status
    assert re.match(
        r"training with FSDP2 over 8 GPUs \(accelerate launch --config_file \S+/presets/accelerate/fsdp2.yaml "
        r"--num_processes 8 -m aipo.cli train\) takes about 2\.5\d? GiB: weights 128 MiB, gradients 128 MiB, "
        r"optimiser 256 MiB, gathered 2 GiB, activations [\d.]+ KiB",
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
    gib: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 8, 4, host=gib)
    _, host, _ = check_memory(config(tmp_path, *SERVED), POLICY, 10)
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
def test_gpus_that_cannot_train_together(
    why: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, why.get("gpus", 8), why.get("free", 4))
    check, *others = check_memory(config(tmp_path, *SERVED, *why.get("overrides", [])), POLICY, 10)
    assert check.status == "fail"
    assert check.found.startswith("training takes about 4")
    assert "too much for a GPU with" in check.found
    assert check.advice.endswith("or more GPUs (FSDP2, with policy.engine=vllm and policy.vllm.sync=disk)")
    assert "host memory" not in [other.what for other in others]


def test_one_gpu_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 80)
    check, server = check_memory(config(tmp_path, *SERVED), POLICY, 10)
    assert (check.status, server.what) == ("ok", "server memory")
    assert check.found.startswith("training takes about 4")
