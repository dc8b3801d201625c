"""Callbacks around optimizer steps: learning rate, metrics file, progress."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

from aipo.method.metrics import SUMMARY, check_declared
from aipo.util.console import Note
from aipo.util.files import disk, write_text


class StepEvents(TrainerCallback):
    """Calls functions of the trainer when training begins, before each optimizer step and after it."""

    def __init__(
        self, begin: Callable[[], None], before_step: Callable[[], None], after_step: Callable[[], None]
    ) -> None:
        self._begin, self._before_step, self._after_step = begin, before_step, after_step

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._begin()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._before_step()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._after_step()


class ActiveRate(TrainerCallback):
    """Scales the learning rate of one optimizer step by the share of active rollouts.

    Otherwise an adaptive optimizer amplifies the noise of nearly empty batches (measured on the miniature). Without
    any active rollout the rate is 0, whatever is configured: momentum and weight decay would still move the weights.
    """

    def __init__(self, active_share: Callable[[], float], scale: bool) -> None:
        self._active_share = active_share
        self._scale = scale
        self._rates: list[float] = []

    def on_pre_optimizer_step(self, *_: Any, **objects: Any) -> None:
        share = self._active_share()
        factor = share if self._scale or share == 0 else 1.0
        groups = objects["optimizer"].param_groups
        self._rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def on_optimizer_step(self, *_: Any, **objects: Any) -> None:
        for group, rate in zip(objects["optimizer"].param_groups, self._rates, strict=True):
            group["lr"] = rate


class MetricsFile(TrainerCallback):
    """Appends every logged step to a file of JSON lines; NaN becomes null."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Drops what an earlier attempt wrote beyond the step that is resumed from."""
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
        write_text(self._path, "".join(kept))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Mapping[str, Any], **__: Any
    ) -> None:
        if any(name in logs for name in SUMMARY):
            return
        check_declared(logs)
        clean = {k: v if isinstance(v, (int, float)) and math.isfinite(v) else None for k, v in logs.items()}
        with disk("writing metrics", self._path.parent), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **clean}) + "\n")


class Follow(TrainerCallback):
    """Notes each rollout step with its rewards.

    Args:
        steps: number of rollout steps.
        optimizer_steps: of each rollout step.
    """

    _SHOWN = ("reward/solo", "reward/assisted", "reward/suppressed", "active_share")

    def __init__(self, note: Note, steps: int, optimizer_steps: int) -> None:
        self._note, self._steps, self._optimizer_steps = note, steps, optimizer_steps
        self._last: dict[str, float] = {}

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Mapping[str, Any], **__: Any
    ) -> None:
        self._last = {name: logs[name] for name in self._SHOWN if name in logs} or self._last
        self._note(-(-state.global_step // self._optimizer_steps), self._steps, self._last)
