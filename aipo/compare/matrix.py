"""A matrix of runs: arms × seeds, from one YAML file. Whatever is wrong with it is said when it is read.

    out: runs/matrix
    seeds: [10, 11, 12]
    set: [run.threads=1]            # overrides of all arms
    reference: grpo                 # differences are taken against it; default: the first arm
    arms:                           # from the simplest to the most complicated: of those that tie the first wins
      grpo: {config: grpo}
      floor: {config: aipo, set: [method.coefficient=floor]}
      sft_grpo: {stages: [{config: sft}, {config: grpo}]}    # each from the model of the one before

The last stage of ARM with SEED is the run folder OUT/ARM/SEED, earlier ones are OUT/ARM/SEED.1 and so on.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from aipo.config.load import Config, checked, load_config, read_yaml
from aipo.errors import ConfigError
from aipo.run import RunFolder
from aipo.util.section import Count, Section

BEFORE = "before"
"""What the policy is called that no arm has trained yet, and the folder of its evaluations."""

Setting = Literal["solo", "suppressed", "assisted"]
_OURS = ("run.out", "run.seed")
# Whose tasks are sampled and how; graphs and agents are the arms' own.
_SAMPLED = (
    "env.name",
    "env.options",
    "evaluate",
    "rollout.temperature",
    "rollout.max_tokens",
    "rollout.suppress_tags",
)
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
    setting: Setting = Field("solo", description="alone, alone with consult tags forbidden, or with agents")
    k: Count | None = Field(None, description="of pass@k; default: the smallest of evaluate.ks")


class MatrixSection(Section):
    out: Path = Field(..., description="folder of all runs and results")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...], Field(min_length=1)] = Field(
        ..., description="of every arm"
    )
    set: tuple[str, ...] = Field((), description="overrides of every arm, before its own")
    reference: str | None = Field(None, description="arm that differences are taken to; default: the first")
    measure: MeasureSection = Field(MeasureSection(), description="what decides who wins")  # pyright: ignore[reportCallIssue]
    arms: Annotated[dict[str, ArmSection], Field(min_length=1)] = Field(
        ..., description="by name, from the simplest on"
    )

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: got {list(self.seeds)}, allowed each seed once")
        for name in self.arms:
            if not _NAME.fullmatch(name) or name == BEFORE:
                raise ValueError(f"arms: got {name!r}, allowed letters, digits, - and _, and not {BEFORE!r}")
        if self.reference is not None and self.reference not in self.arms:
            raise ValueError(f"reference: got {self.reference!r}, allowed one of {list(self.arms)}")
        return self


def log_of(folder: RunFolder) -> Path:
    """What the commands of a run print, beside its folder."""
    return folder.path.with_name(f"{folder.path.name}.log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """pass@k on a split under a setting."""

    split: str
    setting: str
    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One `aipo train`.

    Args:
        name: of the preset, or path of the YAML file.
        overrides: all that the command line gets.
        config: what comes of the two.
    """

    name: str
    overrides: tuple[str, ...]
    config: Config

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.config.run.out)

    @property
    def done(self) -> bool:
        """Trained and evaluated: the evaluation is written last."""
        return self.folder.evaluation("after").is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One arm with one seed."""

    arm: str
    seed: int
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        return f"{self.arm} {self.seed}"

    @property
    def folder(self) -> RunFolder:
        return self.stages[-1].folder

    @property
    def log(self) -> Path:
        return log_of(self.folder)

    @property
    def done(self) -> bool:
        return self.stages[-1].done


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """What is to be run.

    Args:
        file: where it is from.
        arms: their names, from the simplest on.
        measures: everything that is evaluated; `measure` is the one that decides.
        cells: seed by seed, so that what is there at any time is paired.
        before: by seed, the evaluation of the policy that the reference starts from.
    """

    file: Path
    out: Path
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    reference: str
    measure: Measure
    measures: tuple[Measure, ...]
    cells: tuple[Cell, ...]
    before: dict[int, Config]

    def cell(self, arm: str, seed: int) -> Cell:
        return next(cell for cell in self.cells if (cell.arm, cell.seed) == (arm, seed))


def read_matrix(file: Path) -> Matrix:
    """Reads a matrix and the configuration of each of its runs.

    Raises:
        ConfigError: an unknown key, preset, arm or setting, a wrong value, two of one name, or arms that are not
            evaluated alike.
    """
    if not file.is_file():
        raise ConfigError(f"matrix: got {str(file)!r}, allowed a YAML file with out, seeds and arms")
    raw = checked(MatrixSection, read_yaml(file, "matrix"), f"matrix {file}")
    cells = tuple(
        Cell(arm=name, seed=seed, stages=_stages(raw, name, arm, seed, file))
        for seed in raw.seeds
        for name, arm in raw.arms.items()
    )
    _check_alike(cells, file)
    measures = _measures(cells[0].stages[-1].config)
    reference = raw.reference or next(iter(raw.arms))
    starts = {cell.seed: cell.stages[0].config for cell in cells if cell.arm == reference}
    return Matrix(
        file=file,
        out=raw.out,
        seeds=raw.seeds,
        arms=tuple(raw.arms),
        reference=reference,
        measure=_measure(raw.measure, measures, file),
        measures=measures,
        cells=cells,
        before={seed: _at(config, raw.out / BEFORE / str(seed)) for seed, config in starts.items()},
    )


def _stages(raw: MatrixSection, name: str, arm: ArmSection, seed: int, file: Path) -> tuple[Stage, ...]:
    made: list[Stage] = []
    last = raw.out / name / str(seed)
    for number, stage in enumerate(arm.all_stages, start=1):
        given = (*raw.set, *stage.set)
        for override in given:
            if override.partition("=")[0] in (*_OURS, "run"):
                raise ConfigError(
                    f"matrix {file}, arm {name!r}: got {override!r}, allowed every key but {_OURS}"
                )
        out = last if number == len(arm.all_stages) else last.with_name(f"{seed}.{number}")
        model = [f"policy.model={json.dumps(str(made[-1].folder.model))}"] if made else []
        overrides = (*given, *model, f"run.out={json.dumps(str(out))}", f"run.seed={seed}")
        try:
            config = load_config(stage.config, overrides)
        except ConfigError as error:
            raise ConfigError(f"matrix {file}, arm {name!r}: {error}") from error
        made.append(Stage(name=stage.config, overrides=overrides, config=config))
    return tuple(made)


def _check_alike(cells: Sequence[Cell], file: Path) -> None:
    """Refuses arms whose results cannot be paired, task by task."""
    first, *others = (stage for cell in cells for stage in cell.stages)
    for other in others:
        for what in _SAMPLED:
            one, two = (_get(stage.config, what) for stage in (first, other))
            if one != two:
                raise ConfigError(
                    f"matrix {file}: got {what} {one} in {first.folder.path} and {two} in {other.folder.path}, "
                    "allowed the same tasks, sampled alike, in every arm (`set` beside `arms` is for all)"
                )
        one, two = (sorted(stage.config.agents) for stage in (first, other))
        if one != two and "suppressed" in first.config.evaluate.settings:
            raise ConfigError(
                f"matrix {file}: got agents {one} in {first.folder.path} and {two} in {other.folder.path}, whose tags "
                "are not forbidden alike, allowed evaluate.settings without forbid"
            )


def _get(config: Config, key: str) -> object:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _measures(config: Config) -> tuple[Measure, ...]:
    evaluate = config.evaluate
    return tuple(
        Measure(split=split, setting=setting, k=k)
        for split in evaluate.splits
        for setting in evaluate.settings
        for k in sorted(evaluate.ks)
    )


def _measure(wanted: MeasureSection, measures: Sequence[Measure], file: Path) -> Measure:
    """The measure that decides."""
    if not measures:
        raise ConfigError(
            f"matrix {file}: got arms that evaluate nothing, allowed evaluate.splits, settings and ks"
        )
    split = wanted.split or measures[0].split
    k = wanted.k or measures[0].k
    for measure in measures:
        if (measure.split, measure.setting, measure.k) == (split, wanted.setting, k):
            return measure
    raise ConfigError(
        f"matrix {file}, measure: got split {split}, setting {wanted.setting} and k {k}, allowed what the arms' "
        "evaluate.splits, settings and ks have"
    )


def _at(config: Config, out: Path) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update={"out": out})})
