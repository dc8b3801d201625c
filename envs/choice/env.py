"""Multiple choice. The right option stands behind a letter that a seed draws; `envs.choice.verdict` says what an answer names."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, validate_call

from aipo.util.section import Count, Positive
from envs.file.env import File
from envs.file.source import SplitSource

_EXAMPLE = "'env.options.splits={gpqa: gpqa-diamond}'"


class Choice(File):
    """`envs.file:File` with the verdict `choice`, which says what the options are."""

    @validate_call
    def __init__(
        self,
        splits: Annotated[dict[str, SplitSource], Field(min_length=1, examples=[_EXAMPLE])],
        folder: Path | None = None,
        shuffle: int = 0,
        seconds: Positive = 5.0,
        workers: Count = 2,
    ) -> None:
        super().__init__(
            splits, verdict="choice", folder=folder, shuffle=shuffle, seconds=seconds, workers=workers
        )
