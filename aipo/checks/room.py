"""Is there room: on the disk for what the run leaves, in memory for what it trains?"""

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aipo import memory
from aipo.checks import Check
from aipo.checks.tokens import needs_tags
from aipo.config import Config
from aipo.memory import HEADROOM, Adapter, Shape, gib
from aipo.method import KEEP_CHECKPOINTS

_TOKEN = 12  # id, log-prob and entropy of a token, 4 bytes each
_WAITING = 2  # weights on their way: the new ones are whole before the old ones go


@dataclass(frozen=True, slots=True)
class Trained:
    """The policy as it takes room: its shape, and the adapter that is trained, if it is one."""

    shape: Shape
    adapter: Adapter | None = None

    @classmethod
    def of(cls, config: Config, network: Any) -> "Trained":
        """What `config` trains of the network that a transformers configuration describes."""
        lora = config.policy.lora
        return cls(Shape.of(network), Adapter.of(network, lora.rank, lora.targets) if lora else None)


def check_disk(config: Config, policy: Trained) -> Iterator[Check]:
    """Traces, checkpoints, the policy, and weights for the servers; for a run whose rollouts are all long."""
    yield _disk("disk", config.run.out, _leaves(config, policy))
    folder = config.policy.vllm.folder
    if config.policy.engine == "vllm" and config.policy.vllm.sync == "disk" and folder is not None:
        yield _disk(
            "disk for weights", folder, {"weights on their way": _weights(config, policy.shape, _WAITING)}
        )


def check_memory(config: Config, policy: Trained, prompt: int) -> Iterator[Check]:
    """What training takes, part by part, against what is free on the GPUs that are here, or else this machine's
    memory.

    Args:
        prompt: tokens of a long prompt.
    """
    gpus, there, place = _place(config)
    parts = needed(config, policy, prompt, ranks=1)
    listed = ", ".join(f"{name} {gib(count)}" for name, count in parts.items())
    total = sum(parts.values())
    found = f"training takes about {gib(total)}: {listed}"
    yield _fits(found, total, there, place, _advice(config, policy, prompt, gpus, there))
    if config.policy.engine == "vllm":
        dtype, shape = config.policy.vllm.serve.dtype or config.policy.dtype, policy.shape
        context = memory.cache(shape, dtype=dtype, tokens=prompt + config.rollout.max_tokens)
        held = memory.SIZES[dtype] * shape.parameters
        found = f"a server takes {gib(held)} for weights and {gib(context)} of cache per long rollout"
        yield Check("ok", "server memory", found)


def needed(config: Config, policy: Trained, prompt: int, *, ranks: int) -> dict[str, int]:
    """What one of `ranks` processes takes that train together, if all rollouts are long."""
    train, method = config.train, config.method
    rollouts = train.tasks_per_step * train.group_size
    rows = rollouts * (1 + method.assist_share * (method.distil > 0))
    each = math.ceil(rows / (train.minibatches * train.gradient_accumulation * ranks))
    return memory.training(
        policy.shape,
        dtype=config.policy.dtype,
        tokens=each * (prompt + config.rollout.max_tokens),
        adapter=policy.adapter,
        ranks=ranks,
        autocast=train.autocast,
        activation_checkpointing=train.activation_checkpointing,
        reference=method.kl > 0,
        dense=bool(set(needs_tags(config)) & {"method.forbid_share", "method.distil_forbid"}),
    )


def _place(config: Config) -> tuple[int, int, str]:
    """How many GPUs there are, how much memory one of them, or else the machine, offers, and how to say that."""
    import torch

    if config.policy.device == "cpu" or not torch.cuda.is_available():
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return 0, whole, f"machine of {gib(whole)}"
    free, whole = torch.cuda.mem_get_info(0)  # servers may have their part of it
    return torch.cuda.device_count(), free, f"GPU with {gib(free)} of {gib(whole)} free"


def _fits(found: str, total: int, there: int, place: str, advice: str) -> Check:
    if total <= HEADROOM * there:
        return Check("ok", "memory", f"{found}; fits a {place}")
    return Check("warn" if total <= there else "fail", "memory", f"{found}; too much for a {place}", advice)


def _advice(config: Config, policy: Trained, prompt: int, gpus: int, there: int) -> str:
    if gpus > 1 and sum(needed(config, policy, prompt, ranks=gpus).values()) <= HEADROOM * there:
        return f"{gpus} processes fit (FSDP2): accelerate launch --num_processes {gpus}, see README"
    return (
        "train.activation_checkpointing, more train.gradient_accumulation, a smaller rollout.max_tokens, policy.lora, "
        "or more GPUs (FSDP2)"
    )


def _leaves(config: Config, policy: Trained) -> dict[str, int]:
    train, vllm = config.train, config.policy.vllm
    tokens = train.steps * train.tasks_per_step * train.group_size * config.rollout.max_tokens
    one = memory.checkpoint(policy.shape, dtype=config.policy.dtype, adapter=policy.adapter)
    saved = min(KEEP_CHECKPOINTS + 1, train.steps // train.save_every) if train.save_every else 0
    pushed = config.policy.engine == "vllm" and vllm.sync == "disk" and vllm.folder is None
    parts = {
        "traces": tokens * _TOKEN * (2 if train.lessons else 1),
        "checkpoints": saved * one,
        "the policy": _weights(config, policy.shape, 1),
        "weights on their way": _weights(config, policy.shape, _WAITING) if pushed else 0,
    }
    return {name: count for name, count in parts.items() if count}


def _weights(config: Config, shape: Shape, copies: int) -> int:
    return copies * memory.SIZES[config.policy.dtype] * shape.parameters


def _disk(what: str, folder: Path, parts: dict[str, int]) -> Check:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, needs = shutil.disk_usage(there).free, sum(parts.values())
    listed = ", ".join(f"{name} {gib(count)}" for name, count in parts.items())
    found = f"{gib(free)} free at {there}, at most {gib(needs)} needed: {listed}"
    if not os.access(there, os.W_OK):
        return Check("fail", what, f"{there} cannot be written", "another run.out")
    if free >= needs:
        return Check("ok", what, found)
    without = needs - parts.get("traces", 0)
    status = "fail" if free < without else "warn"  # few rollouts are as long as they may be
    return Check(
        status, what, found, "another run.out, fewer checkpoints (train.save_every), train.lessons=false"
    )
