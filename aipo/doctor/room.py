"""Is there room: on the disk for what the run leaves, in memory for what it trains?"""

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aipo.config.build import Experiment
from aipo.config.load import PRESETS
from aipo.doctor import memory
from aipo.doctor.check import Check
from aipo.doctor.memory import HEADROOM, Adapter, Shape, gib
from aipo.doctor.tokens import needs_tags
from aipo.train.schedule import KEEP_CHECKPOINTS

_TOKEN = 12  # id, log-prob and entropy of a token, 4 bytes each
_WAITING = 2  # weights on their way: the new ones are whole before the old ones go
_FSDP2 = PRESETS / "accelerate" / "fsdp2.yaml"
_SMALLER = "train.activation_checkpointing, more train.gradient_accumulation, a smaller rollout.max_tokens, policy.lora"
_MORE = ", or more GPUs (FSDP2, with policy.engine=vllm and policy.vllm.sync=disk)"


@dataclass(frozen=True, slots=True)
class Trained:
    """The policy as it takes room: its shape, and the adapter that is trained, if it is one."""

    shape: Shape
    adapter: Adapter | None = None

    @classmethod
    def of(cls, experiment: Experiment, network: Any) -> "Trained":
        """What `config` trains of the network that a transformers configuration describes."""
        lora = experiment.policy.lora
        return cls(Shape.of(network), Adapter.of(network, lora.rank, lora.targets) if lora else None)


def check_disk(experiment: Experiment, policy: Trained) -> Iterator[Check]:
    """Traces, checkpoints, the policy, and weights for the servers; for a run whose rollouts are all long."""
    yield _disk("disk", experiment.out, _leaves(experiment, policy))
    folder = experiment.policy.vllm.folder
    if experiment.policy.engine == "vllm" and experiment.policy.vllm.sync == "disk" and folder is not None:
        yield _disk(
            "disk for weights", folder, {"weights on their way": _weights(experiment, policy.shape, _WAITING)}
        )


def check_memory(experiment: Experiment, policy: Trained, prompt: int) -> Iterator[Check]:
    """What training takes, part by part, against what is free on a GPU, or else this machine's memory: of one
    process, or of one on each GPU where only together they have room (FSDP2).

    Args:
        prompt: tokens of a long prompt.
    """
    gpus, there, place = _place(experiment)
    parts = needed(experiment, policy, prompt, ranks=1)
    cut = needed(experiment, policy, prompt, ranks=max(gpus, 1))
    tight = sum(parts.values()) > HEADROOM * there
    if tight and _may_be_cut(experiment, gpus) and sum(cut.values()) <= there:
        launch = f"--config_file {_FSDP2} --num_processes {gpus} -m aipo.cli train"
        what = f"training with FSDP2 over {gpus} GPUs (accelerate launch {launch}) takes about"
        yield _fits("memory", what, cut, there, f"each {place}", _SMALLER)
        yield _host(experiment, policy, gpus)
    else:
        yield _fits("memory", "training takes about", parts, there, f"a {place}", _SMALLER + _MORE)
    if experiment.policy.engine == "vllm":
        dtype, shape = experiment.policy.vllm.serve.dtype or experiment.policy.dtype, policy.shape
        context = memory.cache(shape, dtype=dtype, tokens=prompt + experiment.rollout.max_tokens)
        held = memory.SIZES[dtype] * shape.parameters
        found = f"a server takes {gib(held)} for weights and {gib(context)} of cache per long rollout"
        yield Check("ok", "server memory", found)


def needed(experiment: Experiment, policy: Trained, prompt: int, *, ranks: int) -> dict[str, int]:
    """What one of `ranks` processes takes that train together, if all rollouts are long."""
    train, method = experiment.train, experiment.method
    rollouts = train.tasks_per_step * train.group_size
    rows = rollouts * (1 + method.assist_share_most * (method.distil_weight > 0))
    each = math.ceil(rows / (train.minibatches * train.gradient_accumulation * ranks))
    return memory.training(
        policy.shape,
        dtype=experiment.policy.dtype,
        tokens=each * (prompt + experiment.rollout.max_tokens),
        adapter=policy.adapter,
        ranks=ranks,
        autocast=train.autocast,
        activation_checkpointing=train.activation_checkpointing,
        reference=method.beta > 0,
        dense=bool(set(needs_tags(experiment)) & {"method.suppress_share", "method.distil_suppress"}),
    )


def _may_be_cut(experiment: Experiment, gpus: int) -> bool:
    """Whether one process on each GPU can train a part of the weights (`aipo.train.run` refuses the rest)."""
    return gpus > 1 and experiment.policy.engine == "vllm" and experiment.policy.vllm.sync == "disk"


def _host(experiment: Experiment, policy: Trained, ranks: int) -> Check:
    reference = experiment.method.beta > 0 and policy.adapter is None
    parts = memory.host(policy.shape, dtype=experiment.policy.dtype, ranks=ranks, reference=reference)
    there = _machine()
    advice = "a machine with more memory, or fewer GPUs (CUDA_VISIBLE_DEVICES)"
    what = f"{ranks} processes begin with about"
    return _fits("host memory", what, parts, there, f"this machine of {gib(there)}", advice)


def _machine() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _place(experiment: Experiment) -> tuple[int, int, str]:
    """How many GPUs there are, how much memory one of them, or else the machine, offers, and how to say that."""
    import torch

    if experiment.policy.device == "cpu" or not torch.cuda.is_available():
        return 0, _machine(), f"machine of {gib(_machine())}"
    free, whole = torch.cuda.mem_get_info(0)  # servers may have their part of it
    return torch.cuda.device_count(), free, f"GPU with {gib(free)} of {gib(whole)} free"


def _fits(name: str, what: str, parts: Mapping[str, int], there: int, place: str, advice: str) -> Check:
    total = sum(parts.values())
    found = f"{what} {gib(total)}: {_listed(parts)}"
    if total <= HEADROOM * there:
        return Check("ok", name, f"{found}; fits {place}")
    return Check("warn" if total <= there else "fail", name, f"{found}; too much for {place}", advice)


def _leaves(experiment: Experiment, policy: Trained) -> dict[str, int]:
    train, vllm = experiment.train, experiment.policy.vllm
    tokens = train.steps * train.tasks_per_step * train.group_size * experiment.rollout.max_tokens
    one = memory.checkpoint(policy.shape, dtype=experiment.policy.dtype, adapter=policy.adapter)
    saved = min(KEEP_CHECKPOINTS + 1, train.steps // train.save_every) if train.save_every else 0
    pushed = experiment.policy.engine == "vllm" and vllm.sync == "disk" and vllm.folder is None
    parts = {
        "traces": tokens * _TOKEN * (2 if train.token_stats else 1),
        "checkpoints": saved * one,
        "the policy": _weights(experiment, policy.shape, 1),
        "weights on their way": _weights(experiment, policy.shape, _WAITING) if pushed else 0,
    }
    return {name: count for name, count in parts.items() if count}


def _weights(experiment: Experiment, shape: Shape, copies: int) -> int:
    return copies * memory.SIZES[experiment.policy.dtype] * shape.parameters


def _listed(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {gib(count)}" for name, count in parts.items())


def _disk(what: str, folder: Path, parts: dict[str, int]) -> Check:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, needs = shutil.disk_usage(there).free, sum(parts.values())
    found = f"{gib(free)} free at {there}, at most {gib(needs)} needed: {_listed(parts)}"
    if not os.access(there, os.W_OK):
        return Check("fail", what, f"{there} cannot be written", "another run.out")
    if free >= needs:
        return Check("ok", what, found)
    without = needs - parts.get("traces", 0)
    status = "fail" if free < without else "warn"  # few rollouts are as long as they may be
    return Check(
        status, what, found, "another run.out, fewer checkpoints (train.save_every), train.token_stats=false"
    )
