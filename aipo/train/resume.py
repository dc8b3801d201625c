"""Going on with a run: with the settings that it began with, from its last checkpoint."""

import json
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from aipo.config.build import Experiment, load_experiment
from aipo.errors import ConfigError
from aipo.run import RunFolder

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
MAY_CHANGE = (
    "run.out",
    "run.threads",
    "run.report_to",
    "train.save_every",
    "train.token_stats",
    "rollout.cost_limit",
    "rollout.failure_limit",
    "rollout.concurrency",
    "rollout.deadline",
    "rollout.workers",
    "policy.vllm.*",
    "agents.*.options.base_url",
    "agents.*.secrets*",
    "agents.*.prices*",
    "agents.*.timeout",
    "agents.*.deadline",
    "agents.*.attempts",
    "method.max_mismatch",
    "evaluate.*",
)
"""Settings that a resumed run may change: none of them changes what is learned, unless something fails."""


def same_run(folder: RunFolder, experiment: Experiment) -> None:
    """Refuses to go on with other settings than those that the run began with.

    Raises:
        ConfigError: names the settings that differ.
    """
    if changed := differences(folder.config, experiment.settings):
        raise ConfigError(
            f"--resume with other settings: got {'; '.join(changed)}, allowed those of {folder.config} "
            f"(--config {folder.config} takes them all)"
        )


def differences(
    recorded: Path, settings: Mapping[str, Any], may_change: Sequence[str] = MAY_CHANGE
) -> list[str]:
    """Settings that are not those of a recorded configuration: 'key: 2, was 1'.

    Args:
        recorded: the file with its resolved configuration.
        may_change: patterns of keys that are left out.
    """
    before, now = (
        _flat(nested) for nested in (load_experiment(str(recorded), of_run=True).settings, settings)
    )
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    return [
        f"{key}: {now.get(key)!r}, was {before.get(key)!r}"
        for key in changed
        if not any(fnmatchcase(key, pattern) for pattern in may_change)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def last_checkpoint(folder: RunFolder) -> Path | None:
    """The newest whole checkpoint; None when the run stopped before its first one, and begins anew."""
    whole = whole_checkpoints(folder)
    return whole[max(whole)] if whole else None


def whole_checkpoints(folder: RunFolder) -> dict[int, Path]:
    """Optimiser steps to checkpoints that were written to their end."""
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


def where_from(folder: RunFolder, optimizer_steps: int) -> str:
    """For the terminal: what a resumed run starts from."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return "no checkpoint yet: from the start; traces so far are set aside in traces/__superseded"
    step = rollout_step_of(checkpoint, optimizer_steps)
    return f"from {checkpoint.name}, step {step}; later traces are set aside in traces/__superseded"
