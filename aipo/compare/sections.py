"""The keys of a matrix file."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from aipo.util.section import Count, Section

BEFORE = "before"
"""The name of the policy before training, and of the folder with its evaluation."""

WARMUP = "warmup"
"""The name of the warm-up that all arms start from, and of the folder with its runs."""

Setting = Literal["solo", "suppressed", "assisted"]
SETTINGS = {"solo": "solo", "suppressed": "solo, consult tags suppressed", "assisted": "with agents"}
"""The label of each setting in tables, titles and captions."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class StageSection(Section):
    config: str = Field(..., description="a preset or a YAML file")
    set: tuple[str, ...] = Field((), description="overrides, section.key=value")


class ArmSection(Section):
    config: str | None = Field(None, description="a preset or a YAML file")
    set: tuple[str, ...] = Field((), description="overrides, section.key=value")
    stages: tuple[StageSection, ...] = Field(
        (), description="instead: runs, each from the one before's model"
    )
    policy: str | None = Field(
        None, description="of several policies that learn together, the one whose results count"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.config is None) == (not self.stages) or (self.stages and self.set):
            raise ValueError("got both or neither, allowed `config` with `set`, or `stages` with their own")
        return self

    @property
    def all_stages(self) -> tuple[StageSection, ...]:
        return self.stages or (StageSection(config=self.config or "", set=self.set),)


class MeasureSection(Section):
    split: str | None = Field(None, description="default: the first of evaluate.splits")
    setting: Setting = Field(
        "solo", description="solo, solo with the consult tags suppressed, or with agents"
    )
    k: Count | None = Field(None, description="of pass@k; default: the smallest of evaluate.ks")


class MatrixSection(Section):
    out: Path = Field(..., description="folder of all runs and results")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...], Field(min_length=1)] = Field(
        ..., description="of every arm"
    )
    set: tuple[str, ...] = Field((), description="overrides of every arm, before its own")
    warmup: StageSection | None = Field(
        None, description="`aipo warmup` with each seed; the first stages of all arms start from its model"
    )
    reference: str | None = Field(None, description="arm that differences are taken to; default: the first")
    measure: MeasureSection = Field(MeasureSection(), description="what decides who wins")  # pyright: ignore[reportCallIssue]
    arms: Annotated[dict[str, ArmSection], Field(min_length=1)] = Field(
        ..., description="by name, from the simplest on"
    )

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: got {list(self.seeds)}, allowed each seed once")
        reserved = (BEFORE,) if self.warmup is None else (BEFORE, WARMUP)
        for name in self.arms:
            if not _NAME.fullmatch(name) or name in reserved:
                others = " or ".join(map(repr, reserved))
                raise ValueError(f"arms: got {name!r}, allowed letters, digits, - and _, and not {others}")
        if self.reference is not None and self.reference not in self.arms:
            raise ValueError(f"reference: got {self.reference!r}, allowed one of {list(self.arms)}")
        return self
