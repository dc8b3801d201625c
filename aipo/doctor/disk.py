"""Is there space on the disk for what a run writes?"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from aipo.config.build import Experiment
from aipo.doctor.check import Check
from aipo.doctor.memory import SIZES, Shape, gib, listed
from aipo.train.checkpoints import KEEP_CHECKPOINTS

_TOKEN = 12  # id, log-prob and entropy of a token, 4 bytes each
_PUSHED = 2  # the new weights are complete before the old ones are deleted


def check_disk(experiment: Experiment, shape: Shape) -> Iterator[Check]:
    """Traces, checkpoints, the policy, and weights for the servers; for a run whose rollouts are all long."""
    train, vllm = experiment.train, experiment.policy.vllm
    tokens = train.steps * train.tasks_per_step * train.group_size * experiment.rollout.max_tokens
    weights = SIZES[experiment.policy.dtype] * shape.parameters
    saved = min(KEEP_CHECKPOINTS + 1, train.steps // train.save_every) if train.save_every else 0
    pushed = {"weights on their way": _PUSHED * weights}
    pushes = experiment.policy.engine == "vllm" and vllm.sync == "disk"
    parts = {
        "traces": tokens * _TOKEN * (2 if train.token_stats else 1),
        "checkpoints": saved * 3 * (4 * shape.adapter or weights),  # and AdamW's two running means
        "the policy": weights,
        **(pushed if pushes and vllm.folder is None else {}),
    }
    yield _disk("disk", experiment.out, {name: count for name, count in parts.items() if count})
    if pushes and vllm.folder is not None:
        yield _disk("disk for weights", vllm.folder, pushed)


def _disk(what: str, folder: Path, parts: dict[str, int]) -> Check:
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, needs = shutil.disk_usage(place).free, sum(parts.values())
    found = f"{gib(free)} free at {place}, at most {gib(needs)} needed: {listed(parts)}"
    if not os.access(place, os.W_OK):
        return Check("fail", what, f"{place} cannot be written", "another run.out")
    if free >= needs:
        return Check("ok", what, found)
    status = (
        "fail" if free < needs - parts.get("traces", 0) else "warn"
    )  # few rollouts are as long as allowed
    return Check(
        status, what, found, "another run.out, fewer checkpoints (train.save_every), train.token_stats=false"
    )
