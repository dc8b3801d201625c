"""Where the items of one split are, and which of their columns say what."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from aipo.util.section import Section

FILES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")
QUESTIONS, ANSWERS = ("problem", "question", "prompt"), ("answer",)


class SplitSource(Section):
    """Where the items of one split are; text is the name of a file or of a benchmark.

    A column inside another one has a name with dots: `reward_model.ground_truth`, `prompt.0.content`.
    """

    file: Path | None = Field(
        None, description="a file of JSON lines (perhaps with .gz), of CSV or of Parquet"
    )
    hub: str | None = Field(None, description="or the name of a data set of the hub")
    config: str | None = Field(None, description="its configuration, where it has several")
    split: str | None = Field(None, description="its split")
    question: str | None = Field(
        None, description="column of the question; default: problem, question, prompt"
    )
    answer: str | None = Field(None, description="column of the canonical answer; default: answer")
    solution: str | None = Field(None, description="column of a worked solution; default: as GSM8K has it")
    id: str | None = Field(None, description="column of an item's name; default: its place, from 0")
    options: str | tuple[str, ...] | None = Field(
        None, description="of multiple choice: the column with the list of options, or one column for each"
    )
    wrong: tuple[str, ...] = Field(
        (), description="of multiple choice: columns of the wrong options, beside `answer`"
    )
    keep: tuple[str, ...] = Field((), description="columns that go into the tasks' metadata")
    verdict: str | None = Field(None, description="of this split; default: that of the environment")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if not isinstance(given, str | Path):
            return given
        if isinstance(given, str) and not given.endswith(FILES):
            from envs.file.benchmarks import source_of  # it is made of sources

            if benchmark := source_of(given):
                return benchmark.model_dump(exclude_defaults=True)
        return {"file": given}

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.hub is None):
            raise ValueError(f"got file={self.file} and hub={self.hub}, allowed one of them")
        if self.file is not None and not self.file.name.endswith(FILES):
            raise ValueError(
                f"file: got {self.file.name!r}, allowed {', '.join(FILES)}, or the name of a benchmark"
            )
        if self.file is not None and (self.config or self.split):
            raise ValueError(f"config, split: got {self.config}, {self.split} for a file, allowed for hub")
        if self.hub is not None and self.split is None:
            raise ValueError(f"split: got none of {self.hub!r}, allowed the name of one")
        if self.options and self.wrong:
            raise ValueError(f"options, wrong: got {self.options} and {self.wrong}, allowed one of them")
        return self

    @property
    def columns(self) -> str:
        """The columns that its items have to have, in words."""
        names = [self.question or " or ".join(QUESTIONS), self.answer or " or ".join(ANSWERS), *self.wrong]
        return ", ".join((*names, *([self.options] if isinstance(self.options, str) else self.options or ())))
