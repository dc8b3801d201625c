"""pass@k of one policy, read from the file of an evaluation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ScoreKey = tuple[str, str, int]
"""Split, setting and k."""


@dataclass(frozen=True, slots=True)
class Score:
    """One pass@k and its 95 % interval, if it has one."""

    value: float
    interval: tuple[float, float] | None = None


def read_scores(evaluation: Mapping[str, Any]) -> dict[ScoreKey, Score]:
    """Every pass@k that was measured.

    Args:
        evaluation: split → setting → `pass_at` and `interval` by k.
    """
    return {
        (split, setting, int(k)): Score(value, tuple(ends) if (ends := result["interval"].get(k)) else None)
        for split, settings in evaluation.items()
        for setting, result in settings.items()
        for k, value in result["pass_at"].items()
        if value is not None
    }


def splits_of(keys: Iterable[ScoreKey]) -> list[str]:
    """Every split, in order."""
    return list(dict.fromkeys(split for split, _, _ in keys))


def ks_of(keys: Iterable[ScoreKey], split: str, setting: str) -> list[int]:
    """Every k of a split and a setting, from the smallest on."""
    return sorted({k for s, t, k in keys if (s, t) == (split, setting)})
