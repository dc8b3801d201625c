"""Is there room: on the disk for what the run leaves, in memory for what it trains?"""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from aipo import memory
from aipo.checks import Check
from aipo.checks.tokens import needs_tags
from aipo.config import Config
from aipo.memory import HEADROOM, Shape, gib
from aipo.method import KEEP_CHECKPOINTS

_TOKEN = 12  # id, log-prob and entropy of a token, 4 bytes each
_WAITING = 2  # weights on their way: the new ones are whole before the old ones go


def check_disk(config: Config, shape: Shape) -> Iterator[Check]:
    """Traces, checkpoints, the policy, and weights for the servers; for a run whose rollouts are all long."""
    yield _disk("disk", config.run.out, _leaves(config, shape))
    folder = config.policy.vllm.folder
    if config.policy.engine == "vllm" and config.policy.vllm.sync == "disk" and folder is not None:
        yield _disk("disk for weights", folder, {"weights on their way": _weights(config, shape, _WAITING)})


def check_memory(config: Config, shape: Shape, prompt: int) -> Iterator[Check]:
    """What training takes, part by part, against the GPUs that are here, or else this machine's memory.

    Args:
        prompt: tokens of a long prompt.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() and config.policy.device != "cpu" else 0
    parts = needed(config, shape, prompt, ranks=1)
    listed = ", ".join(f"{name} {gib(count)}" for name, count in parts.items())
    total = sum(parts.values())
    found = f"training takes about {gib(total)}: {listed}"
    there = torch.cuda.get_device_properties(0).total_memory if gpus else _machine()
    place = f"GPU of {gib(there)}" if gpus else f"machine of {gib(there)}"
    yield _fits(found, total, there, place, _advice(config, shape, prompt, gpus, there))
    if config.policy.engine == "vllm":
        dtype = config.policy.vllm.serve.dtype or config.policy.dtype
        context = memory.cache(shape, dtype=dtype, tokens=prompt + config.rollout.max_tokens)
        held = memory.SIZES[dtype] * shape.parameters
        yield Check(
            "ok",
            "server memory",
            f"a server takes {gib(held)} for weights and {gib(context)} of cache per long rollout",
        )


def needed(config: Config, shape: Shape, prompt: int, *, ranks: int) -> dict[str, int]:
    """What one of `ranks` processes takes that train together, if all rollouts are long."""
    train, method = config.train, config.method
    rollouts = train.tasks_per_step * train.group_size
    rows = rollouts * (1 + method.assist_share * (method.distil > 0))
    each = math.ceil(rows / (train.minibatches * train.gradient_accumulation * ranks))
    return memory.training(
        shape,
        dtype=config.policy.dtype,
        tokens=each * (prompt + config.rollout.max_tokens),
        ranks=ranks,
        reference=method.kl > 0,
        dense=bool(set(needs_tags(config)) & {"method.forbid_share", "method.distil_forbid"}),
    )


def _fits(found: str, total: int, there: int, place: str, advice: str) -> Check:
    if total <= HEADROOM * there:
        return Check("ok", "memory", f"{found}; fits a {place}")
    return Check("warn" if total <= there else "fail", "memory", f"{found}; too much for a {place}", advice)


def _advice(config: Config, shape: Shape, prompt: int, gpus: int, there: int) -> str:
    if gpus > 1 and sum(needed(config, shape, prompt, ranks=gpus).values()) <= HEADROOM * there:
        return f"{gpus} processes with FSDP2 fit: accelerate launch --num_processes {gpus}"
    return "more train.gradient_accumulation, a smaller rollout.max_tokens, or more GPUs (FSDP2)"


def _leaves(config: Config, shape: Shape) -> dict[str, int]:
    train, policy = config.train, config.policy
    tokens = train.steps * train.tasks_per_step * train.group_size * config.rollout.max_tokens
    one = memory.checkpoint(shape, dtype=policy.dtype)
    saved = min(KEEP_CHECKPOINTS + 1, train.steps // train.save_every) if train.save_every else 0
    pushed = policy.engine == "vllm" and policy.vllm.sync == "disk" and policy.vllm.folder is None
    parts = {
        "traces": tokens * _TOKEN * (2 if train.lessons else 1),
        "checkpoints": saved * one,
        "the policy": _weights(config, shape, 1),
        "weights on their way": _weights(config, shape, _WAITING) if pushed else 0,
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


def _machine() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
