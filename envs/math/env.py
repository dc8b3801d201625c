"""Mathematics with one right answer: GSM8K, MATH, AIME and whatever else asks for a number or an expression.

Which of several answers counts says `envs.math.answer`. Without an answer `correct` is 0. Whether an answer equals the
canonical one is math-verify's to say, in a process that can be killed; where it cannot say so in time, the rollout is
unscored.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, validate_call

from aipo.util.section import Count, Positive
from envs.file.env import File
from envs.file.source import SplitSource

_EXAMPLE = "'env.options.splits={train: {hub: openai/gsm8k, config: main, split: train}}'"


class Math(File):
    """`envs.file:File` with the verdict `math`, which says what the options are.

    Args:
        seconds: processor time for one comparison.
        workers: most comparisons at once.
    """

    @validate_call
    def __init__(
        self,
        splits: Annotated[dict[str, SplitSource], Field(min_length=1, examples=[_EXAMPLE])],
        seconds: Positive = 5.0,
        workers: Count = 2,
        folder: Path | None = None,
        answer_line: bool = False,
    ) -> None:
        super().__init__(
            splits, verdict="math", folder=folder, answer_line=answer_line, seconds=seconds, workers=workers
        )
