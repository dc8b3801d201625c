"""The checkpoints of a run: how many are kept, and which of them can be resumed from."""

import json
import re
from pathlib import Path

from aipo.run import RunFolder

KEEP_CHECKPOINTS = 3
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def last_checkpoint(folder: RunFolder) -> Path | None:
    """The newest whole checkpoint; None when the run stopped before its first one, and begins anew."""
    whole = whole_checkpoints(folder)
    return whole[max(whole)] if whole else None


def whole_checkpoints(folder: RunFolder) -> dict[int, Path]:
    """Optimizer steps to checkpoints that were written to their end."""
    named = [(_CHECKPOINT.fullmatch(path.name), path) for path in folder.checkpoints.glob("checkpoint-*")]
    # The state is written last: a run that was killed while it wrote a checkpoint left one without.
    return {int(m[1]): path for m, path in named if m and _readable(path / "trainer_state.json")}


def _readable(file: Path) -> bool:
    """Is it there, and whole?"""
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def rollout_step_of(checkpoint: Path | None, optimizer_steps: int) -> int:
    """The rollout step that training starts with; checkpoints are named after optimizer steps."""
    return int(checkpoint.name.rpartition("-")[2]) // optimizer_steps if checkpoint else 0
