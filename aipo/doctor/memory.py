"""What training holds in memory however it computes: weights, gradients and the optimizer's state.

Activations and logits come on top. Where there is a GPU, `aipo.doctor.step` measures all of it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from aipo.config import PRESETS
from aipo.config.build import Experiment
from aipo.doctor.check import Check

GIB = 1 << 30
SMALLER = "train.activation_checkpointing, more train.gradient_accumulation, a smaller rollout.max_tokens, policy.lora"

_FSDP2 = PRESETS / "accelerate" / "fsdp2.yaml"


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of the policy's weights, tied ones once, and of what is trained: the same, or a LoRA adapter."""

    weights: int
    trained: int

    @classmethod
    def of(cls, experiment: Experiment, network: PretrainedConfig) -> "Size":
        """The size of a configured network. No memory is taken for it."""
        with torch.device("meta"):
            whole: Any = AutoModelForCausalLM.from_config(
                network, dtype=getattr(torch, experiment.policy.dtype)
            )
            weights = sum(parameter.nbytes for parameter in whole.parameters())
            trained = experiment.adapted(whole, None).parameters()
        return cls(weights, sum(parameter.nbytes for parameter in trained if parameter.requires_grad))


def held(experiment: Experiment, size: Size) -> dict[str, int]:
    """Bytes that one training process holds, by part. FSDP2 divides them by the number of processes."""
    adapter = experiment.policy.lora is not None
    parts = {
        "weights": size.weights,
        "adapter": size.trained if adapter else 0,
        "gradients": size.trained,
        "optimizer": 2 * size.trained,  # AdamW's running means
        "reference": size.weights if experiment.method.beta > 0 and not adapter else 0,
    }
    return {name: count for name, count in parts.items() if count}


def check_memory(experiment: Experiment, size: Size) -> Check:
    """Is there room for what is held, on one GPU, on all of them, or without one in this machine?"""
    parts = held(experiment, size)
    total = sum(parts.values())
    free, place = _place(experiment)
    found = f"training holds {listed(parts)}, together {gib(total)}, and activations; {place}"
    if total <= free:
        return Check("ok", "memory", found)
    return too_large(experiment, size, "memory", found)


def too_large(experiment: Experiment, size: Size, what: str, found: str) -> Check:
    """The check of a policy that is too large for one process; how to launch FSDP2 where all GPUs may have room."""
    policy, parts = experiment.policy, held(experiment, size)
    gpus = torch.cuda.device_count() if on_gpu(experiment) else 1
    free, _ = _place(experiment)
    share = sum(parts.values()) / gpus
    served = policy.engine == "vllm" and policy.vllm.sync == "disk"  # else `aipo train` refuses to shard
    if gpus == 1 or not served or share > free:
        more = ", or more GPUs (FSDP2, with policy.engine=vllm and policy.vllm.sync=disk)"
        return Check("fail", what, found, SMALLER + more)
    # Each process begins with the whole network, and its reference. The first has a copy to save and to push.
    begin = gpus * (size.weights + parts.get("reference", 0)) + size.weights
    return Check(
        "warn" if begin <= _machine() else "fail",
        what,
        found,
        f"accelerate launch --config_file {_FSDP2} --num_processes {gpus} -m aipo.cli train: each GPU then holds "
        f"{gib(share)} and activations. The processes begin with {gib(begin)} of this machine's {gib(_machine())}",
    )


def on_gpu(experiment: Experiment) -> bool:
    """Whether the policy is trained on a GPU of this machine."""
    return experiment.policy.device != "cpu" and torch.cuda.is_available()


def _place(experiment: Experiment) -> tuple[int, str]:
    """The memory that a GPU, or else the machine, offers, and how to say that."""
    if not on_gpu(experiment):
        return _machine(), f"this machine has {gib(_machine())}"
    free, whole = torch.cuda.mem_get_info()  # servers may use some of it
    return free, f"a GPU has {gib(free)} of {gib(whole)} free"


def _machine() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def listed(parts: Mapping[str, int]) -> str:
    """The parts of an amount of memory, in words."""
    return ", ".join(f"{name} {gib(count)}" for name, count in parts.items())


def gib(count: float) -> str:
    """Bytes in readable units."""
    for unit, size in (("GiB", GIB), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count / 1024:.3g} KiB"
