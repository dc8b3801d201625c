"""A matrix of runs: arms × seeds, from one YAML file (README.md has one). Reading it finds every mistake in it.

The last stage of ARM with SEED is the run folder OUT/ARM/SEED, earlier ones are OUT/ARM/SEED.1 and so on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aipo.compare.sections import BEFORE, WARMUP, MatrixSection, MeasureSection, StageSection
from aipo.config.build import Experiment, load_experiment
from aipo.config.load import checked, read_yaml
from aipo.errors import ConfigError
from aipo.run import RunFolder
from aipo.warmup.asking import AFTER, evaluation_of
from aipo.warmup.run import supervised_settings

_RESERVED = ("run.out", "run.seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """pass@k on a split under a setting."""

    split: str
    setting: str
    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One `aipo train`, or one `aipo warmup` or `aipo eval` before it.

    Args:
        name: of the preset, or path of the YAML file.
        overrides: all that the command line gets.
        experiment: what the two describe.
        evaluation: the name of the evaluation that it ends with.
        policy: of several that learn together, the one whose results count; None = there is one.
    """

    name: str
    overrides: tuple[str, ...]
    experiment: Experiment
    evaluation: str = "after"
    policy: str | None = None

    @property
    def run(self) -> RunFolder:
        """The folder of the whole run."""
        return RunFolder(self.experiment.out)

    @property
    def folder(self) -> RunFolder:
        return self.run if self.policy is None else self.run.of_policy(self.policy)

    @property
    def done(self) -> bool:
        """The evaluation is written last."""
        return self.folder.evaluation(self.evaluation).is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixCell:
    """One arm with one seed; or the policy before, whose only stage is evaluated and not trained; or a warm-up."""

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
        """The output of its commands, beside its folder."""
        return Path(f"{self.stages[-1].run.path}.log")

    @property
    def evaluation(self) -> str:
        """The name of the evaluation that compares it."""
        return self.stages[-1].evaluation

    @property
    def done(self) -> bool:
        return self.stages[-1].done


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """All runs of a comparison.

    Args:
        name: its file.
        arms: their names, from the simplest on.
        measures: everything that is evaluated; `measure` is the one that decides.
        cells: seed by seed, so that after any number of runs the finished ones are paired.
        before: by seed, the policy that the reference starts from.
        warmups: by seed, what makes the policy that all arms start from; empty if they start from their configurations'.
    """

    name: str
    out: Path
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    reference: str
    measure: Measure
    measures: tuple[Measure, ...]
    cells: tuple[MatrixCell, ...]
    before: dict[int, MatrixCell]
    warmups: dict[int, MatrixCell]

    def cell(self, arm: str, seed: int) -> MatrixCell:
        return next(cell for cell in self.cells if (cell.arm, cell.seed) == (arm, seed))


def read_matrix(file: Path) -> Matrix:
    """Reads a matrix and the configuration of each of its runs.

    Raises:
        ConfigError: an unknown key, preset, arm or setting, a wrong value, two of one name, or arms that are not
            evaluated alike.
    """
    if not file.is_file():
        raise ConfigError(f"matrix: got {str(file)!r}, allowed a YAML file with out, seeds and arms")
    section = checked(MatrixSection, read_yaml(file, "matrix"), f"matrix {file}")
    return build_matrix(section, str(file))


def build_matrix(section: MatrixSection, name: str, *, folders: str = "{arm}/{seed}") -> Matrix:
    """A matrix with the configuration of each of its runs.

    Args:
        name: where the section is from.
        folders: the run folder of an arm with a seed, below `out`.

    Raises:
        ConfigError: see `read_matrix`.
    """

    def folder(arm: str, seed: int) -> Path:
        return section.out / folders.format(arm=arm, seed=seed)

    where = f"matrix {name}"
    warmups: dict[int, MatrixCell] = {}
    if section.warmup is not None:
        warmups = {
            seed: _warmup(section.warmup, section.set, folder(WARMUP, seed), seed, where)
            for seed in section.seeds
        }
    cells = tuple(
        MatrixCell(
            arm=arm,
            seed=seed,
            stages=_stages(
                arm_section.all_stages,
                section.set,
                folder(arm, seed),
                seed,
                f"{where}, arm {arm!r}",
                start=warmups[seed].folder.model if warmups else None,
                policy=arm_section.policy,
            ),
        )
        for seed in section.seeds
        for arm, arm_section in section.arms.items()
    )
    _check_paired(cells, name)
    evaluation = cells[0].stages[-1].experiment.evaluation
    measures = tuple(
        Measure(split=split, setting=setting, k=k)
        for split in evaluation.splits
        for setting in evaluation.settings
        for k in sorted(evaluation.ks)
    )
    reference = section.reference or next(iter(section.arms))
    return Matrix(
        name=name,
        out=section.out,
        seeds=section.seeds,
        arms=tuple(section.arms),
        reference=reference,
        measure=_deciding_measure(section.measure, measures, name),
        measures=measures,
        cells=cells,
        before={
            cell.seed: _before(cell, folder(BEFORE, cell.seed)) for cell in cells if cell.arm == reference
        },
        warmups=warmups,
    )


def _stages(
    sections: Sequence[StageSection],
    common: Sequence[str],
    last: Path,
    seed: int,
    where: str,
    *,
    start: Path | None = None,
    policy: str | None = None,
) -> tuple[Stage, ...]:
    """The runs of an arm with one seed, `last` in the last folder. The first begins from `start`, if given; each other one
    from the model of the one before."""
    stages: list[Stage] = []
    for number, section in enumerate(sections, start=1):
        for override in (*common, *section.set):
            if override.partition("=")[0] in (*_RESERVED, "run"):
                raise ConfigError(f"{where}: got {override!r}, allowed every key but {_RESERVED}")
        out = last if number == len(sections) else last.with_name(f"{last.name}.{number}")
        begin = stages[-1].folder.model if stages else start
        model = [] if begin is None else [f"policy.model={json.dumps(str(begin))}"]
        own = next((text for text in section.set if text.partition("=")[0] == "policy.model"), None)
        if model and own is not None:
            raise ConfigError(
                f"{where}: got {own!r}, allowed no model of its own for a run that begins from {begin}"
            )
        overrides = (*common, *section.set, *model, f"run.out={json.dumps(str(out))}", f"run.seed={seed}")
        try:
            experiment = load_experiment(section.config, overrides)
            experiment.check_single("a comparison without `policy`", policy)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        stages.append(Stage(name=section.config, overrides=overrides, experiment=experiment, policy=policy))
    return tuple(stages)


def _warmup(section: StageSection, common: Sequence[str], out: Path, seed: int, where: str) -> MatrixCell:
    """The warm-up of one seed, with the settings that it trains with."""
    (stage,) = _stages((section,), common, out, seed, f"{where}, warmup")
    supervised = supervised_settings(stage.experiment)
    return MatrixCell(
        arm=WARMUP,
        seed=seed,
        stages=(replace(stage, experiment=supervised, evaluation=evaluation_of(AFTER)),),
    )


def _before(reference: MatrixCell, out: Path) -> MatrixCell:
    """The policy that an arm starts from. The file with its settings stands beside its folder."""
    first = reference.stages[0]
    own = first.experiment.of_policy(first.policy) if first.policy else first.experiment
    experiment = own.with_settings({"run.out": str(out)})
    file = out.with_name(f"{out.name}.yaml")
    return MatrixCell(
        arm=BEFORE,
        seed=reference.seed,
        stages=(Stage(name=str(file), overrides=(), experiment=experiment, evaluation=BEFORE),),
    )


def _check_paired(cells: Sequence[MatrixCell], name: str) -> None:
    """Refuses arms whose results cannot be paired, task by task. Graphs and agents may differ."""
    first, *others = (stage for cell in cells for stage in cell.stages)
    sampled, agents = _sampled(first), sorted(first.experiment.settings["agents"])
    for stage in others:
        for key, value in _sampled(stage).items():
            if value != sampled[key]:
                raise ConfigError(
                    f"matrix {name}: got {key} {sampled[key]} in {first.folder.path} and {value} in "
                    f"{stage.folder.path}, allowed the same tasks, sampled alike, in every arm (`set` beside `arms` is for all)"
                )
        asked = sorted(stage.experiment.settings["agents"])
        if asked != agents and "suppressed" in first.experiment.evaluation.settings:
            raise ConfigError(
                f"matrix {name}: got agents {agents} in {first.folder.path} and {asked} in {stage.folder.path}, "
                "whose tags are not suppressed alike, allowed evaluate.settings without suppressed"
            )


def _sampled(stage: Stage) -> dict[str, object]:
    """The settings that decide which tasks are sampled, and how."""
    env, evaluation, rollout = (stage.experiment.settings[name] for name in ("env", "evaluate", "rollout"))
    names = ("temperature", "max_tokens", "suppress_tags")
    return {
        **{"env.name": env["name"], "env.options": env["options"], "evaluate": evaluation},
        **{f"rollout.{name}": rollout[name] for name in names},
    }


def _deciding_measure(section: MeasureSection, measures: Sequence[Measure], name: str) -> Measure:
    if not measures:
        raise ConfigError(
            f"matrix {name}: got arms that evaluate nothing, allowed evaluate.splits, settings and ks"
        )
    split = section.split or measures[0].split
    k = section.k or measures[0].k
    measure = Measure(split=split, setting=section.setting, k=k)
    if measure not in measures:
        raise ConfigError(
            f"matrix {name}, measure: got split {split}, setting {section.setting} and k {k}, allowed what the arms' "
            "evaluate.splits, settings and ks have"
        )
    return measure
