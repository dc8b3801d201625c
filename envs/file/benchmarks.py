"""Benchmarks by a short name: where their items are on the hub, and how their answers are judged.

    aipo eval --env math500,gpqa-diamond
    aipo train --config small --env dapo-math,math500

`-`, `_` and case do not matter. Those that are for training are trained on, and the others are evaluated; where there
are only such or only others, they are both.
"""

from collections.abc import Sequence
from typing import Any

from aipo.errors import ConfigError
from envs.file.rows import folded
from envs.file.source import SplitSource

_LEVEL = ("subject", "level")


def _math(hub: str, split: str, **columns: Any) -> SplitSource:
    return SplitSource(hub=hub, split=split, verdict="math", **columns)  # pyright: ignore[reportCallIssue]


TRAINING: dict[str, SplitSource] = {
    "gsm8k-train": _math("openai/gsm8k", "train", config="main"),
    "dapo-math": _math(
        "open-r1/DAPO-Math-17k-Processed", "train", config="en", question="prompt", answer="solution"
    ),
    "deepscaler": _math("agentica-org/DeepScaleR-Preview-Dataset", "train"),
}
"""For training."""
TESTS: dict[str, SplitSource] = {
    "math500": _math("HuggingFaceH4/MATH-500", "test", keep=_LEVEL),
    "aime24": _math("HuggingFaceH4/aime_2024", "train"),
    "aime25": _math("math-ai/aime25", "test"),
    "amc": _math("AI-MO/aimo-validation-amc", "train"),
    "gsm8k-test": _math("openai/gsm8k", "test", config="main"),
    "minerva": _math("math-ai/minervamath", "test"),
    "olympiadbench": _math("knoveleng/OlympiadBench", "train", keep=_LEVEL),
    "gpqa-diamond": SplitSource(  # pyright: ignore[reportCallIssue]
        hub="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        answer="Correct Answer",
        wrong=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
        keep=("High-level domain", "Subdomain"),
        verdict="choice",
    ),
    "mmlu-pro": SplitSource(  # pyright: ignore[reportCallIssue]
        hub="TIGER-Lab/MMLU-Pro", split="test", options="options", keep=("category",), verdict="choice"
    ),
}
"""For evaluation."""
PROGRAMS = ("humaneval", "livecodebench", "mbpp")
"""For evaluation, in an environment of their own (`envs.code`), and so not beside others."""
_PAIRS = {"gsm8k": ("gsm8k-train", "gsm8k-test")}
_BY_NAME = {folded(name): name for name in (*TRAINING, *TESTS)}


def source_of(name: str) -> SplitSource | None:
    """Where the items of a benchmark are; None where there is none of this name."""
    known = _BY_NAME.get(folded(name), name)
    return TRAINING.get(known) or TESTS.get(known)


def settings(names: str) -> dict[str, Any] | None:
    """The section `env` of a configuration, and `evaluated`, the splits to evaluate; None where no name is known. `prompt` is the
    policy's, where the usual one, which asks for a box, does not fit.

    Args:
        names: of benchmarks, separated by commas.

    Raises:
        ConfigError: some names are known and others are not, or one is there twice.
    """
    given = [name.strip() for name in names.split(",")]
    if set(given) <= set(PROGRAMS) and len(set(given)) == len(given):
        return {
            "name": "envs.code:Code",
            "options": {"splits": {suite: suite for suite in given}},
            "mixture": _shares(given),
            "evaluated": given,
            "prompt": "code.md",
        }
    pairs = {folded(name): pair for name, pair in _PAIRS.items()}
    splits = [
        split for name in given for split in pairs.get(folded(name), (_BY_NAME.get(folded(name), name),))
    ]
    unknown = [name for name in splits if name not in (*TRAINING, *TESTS)]
    if len(unknown) == len(splits):
        return None
    if unknown or len(set(splits)) < len(splits):
        got = unknown or given
        raise ConfigError(f"benchmarks: got {got}, allowed each once of {benchmark_names()}")
    trained = [split for split in splits if split in TRAINING] or splits
    evaluated = [split for split in splits if split in TESTS] or splits
    options = {"splits": {split: split for split in splits}}
    return {
        "name": "envs.file:File",
        "options": options,
        "mixture": _shares(trained),
        "evaluated": evaluated,
    }


def _shares(splits: Sequence[str]) -> dict[str, float]:
    return {split: 1 / len(splits) for split in splits}


def benchmark_names() -> list[str]:
    """Every name that `settings` takes."""
    return sorted((*TRAINING, *TESTS, *_PAIRS, *PROGRAMS))
