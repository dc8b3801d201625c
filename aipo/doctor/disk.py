"""Is there space on the disk for what a run writes?"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from aipo.config.build import Experiment
from aipo.doctor.check import Check
from aipo.doctor.memory import Size, gib, listed
from aipo.train.checkpoints import KEEP_CHECKPOINTS

_TOKEN = 12  # id, log-prob and entropy of a token, 4 bytes each
_PUSHED = 2  # the new weights are complete before the old ones are deleted


def check_disk(experiment: Experiment, size: Size) -> Iterator[Check]:
    """Traces, checkpoints, the policy, and weights for the servers; for a run whose rollouts are all long."""
    train, vllm = experiment.train, experiment.policy.vllm
    tokens = train.steps * train.tasks_per_step * train.group_size * experiment.rollout.max_tokens
    every = train.steps // train.save_every if train.save_every else 0
    saved = min(KEEP_CHECKPOINTS + 1, every)  # one more while the next is written
    old = every - saved if train.keep_weights else 0
    pushes = experiment.policy.engine == "vllm" and vllm.sync == "disk"
    pushed = {"weights on their way": _PUSHED * size.weights}
    parts = {
        "traces": tokens * _TOKEN * (2 if train.token_stats else 1),
        "checkpoints": saved * 3 * size.trained,  # and AdamW's two running means
        "weights of old checkpoints": old * size.trained,
        "the policy": size.weights,
        **(pushed if pushes and vllm.folder is None else {}),
    }
    yield _disk("disk", experiment.out, {name: count for name, count in parts.items() if count})
    if pushes and vllm.folder is not None:
        yield _disk("disk for weights", vllm.folder, pushed)


def _disk(what: str, folder: Path, parts: dict[str, int]) -> Check:
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK):
        return Check("fail", what, f"{place} cannot be written", "another run.out")
    free, needs = shutil.disk_usage(place).free, sum(parts.values())
    found = f"{gib(free)} free at {place}, at most {gib(needs)} needed: {listed(parts)}"
    if free >= needs:
        return Check("ok", what, found)
    # Few rollouts are as long as allowed.
    status = "fail" if free < needs - parts.get("traces", 0) else "warn"
    advice = "another run.out, fewer checkpoints (train.save_every), train.keep_weights=false, train.token_stats=false"
    return Check(status, what, found, advice)
