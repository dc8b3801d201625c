"""`aipo replay loss`: loss and gradients of stored rows under other settings, in one pass."""

import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.errors import TrainError
from aipo.method.step_rows import StepRows
from aipo.replay.checkpoints import Choice, Weights, load_weights, start_of
from aipo.replay.output import (
    ReplayReport,
    ReplayTable,
    begin,
    check_trainable,
    finish,
    mean,
    number,
    percent,
    span,
    write_csv,
)
from aipo.replay.questions.grid import METHOD, Setting, settings
from aipo.replay.recordings import Recordings
from aipo.replay.restore import config_file
from aipo.trace.filters import Filter
from aipo.util.console import bars, stage

if TYPE_CHECKING:
    from aipo.replay.questions.loss_replay import LossReplay

_ROLES = ("policy", "agent", "distilled")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPart:
    """What the tokens of one kind do in one optimizer step: `policy`, `agent` and each `agent/NAME`, `distilled`.

    Args:
        weight: mean |A|·w.
        clip: share of them that are clipped.
        norm: of their own gradient; None when gradients were not asked for.
        share: of the step's gradient; see `aipo.replay.questions.loss_replay.share_of`.
    """

    tokens: int
    weight: float
    clip: float
    norm: float | None
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoss:
    """What one setting makes of one optimizer step.

    Args:
        step: rollout step.
        update: optimizer step, from 1, as in metrics.jsonl.
        weights: name of the weights that the loss was computed with.
        loss: of the whole step.
        grad_norm: before clipping; None when gradients were not asked for.
        metrics: as training logs them.
        online: `loss` and `grad_norm` that training logged for this step, if the setting and the weights are those
            of the run; empty otherwise.
    """

    setting: str
    step: int
    update: int
    weights: str
    loss: float
    grad_norm: float | None
    metrics: Mapping[str, float]
    parts: Mapping[str, TokenPart]
    online: Mapping[str, float] = field(default_factory=dict[str, float])


def replay_loss(
    source: Path,
    *,
    checkpoint: str,
    grid: Sequence[str],
    overrides: Sequence[str],
    steps: tuple[int | None, int | None] | None,
    out: Path | None,
    gradients: bool,
    console: Console,
) -> int:
    """Loss and gradients under every setting, with the weights of `checkpoint`. The exit code.

    Without `steps` it takes the rollout steps that these very weights have sampled, or else the last one.

    Raises:
        AipoError: see `aipo.errors`.
    """
    recordings = Recordings(path=source, where=Filter(step=steps))
    check_trainable(recordings)
    file = config_file(recordings)
    machine = [word for word in overrides if word.startswith(("policy.", "run."))]
    compared = settings(file, grid, [word for word in overrides if word not in machine], allowed=METHOD)
    # Nothing is reported: a recorded folder must not choose where.
    experiment = load_experiment(file, [*machine, "run.report_to=[]"], of_run=True)
    named = any(word.startswith("policy.model=") for word in machine)
    start = start_of(recordings.run, experiment, named=named)
    per_step = experiment.train.optimizer_steps
    choice = Choice(run=recordings.run, name=checkpoint, optimizer_steps=per_step, start=start)
    numbers = _rollout_steps(recordings, choice, chosen=steps is not None)
    weights_of = {step: choice.at(step) for step in numbers}
    facts = {"settings": [setting.name for setting in compared]}
    folder = begin(source, question="loss", out=out, experiment=compared[-1].experiment, facts=facts)
    losses: list[StepLoss] = []
    with bars(console) as progress:
        note = stage(progress, "loss")
        for weights, of_weights in groupby(numbers, key=weights_of.__getitem__):
            with _loss_replay(recordings, compared, experiment, weights, start, gradients) as replay:
                for step in of_weights:
                    fresh = weights.version == step * per_step
                    of_step = replay.losses(step, recordings.read(step), weights=weights.name, fresh=fresh)
                    first = step * per_step + 1 if fresh else None
                    losses += _with_logged(of_step, recordings, first=first, recorded=compared[0].name)
                    note(numbers.index(step) + 1, len(numbers), f"step {step} through {weights.name}")
    write_losses(folder.path / "loss.csv", losses)
    result = report(losses, span(numbers))
    result.print(console)
    return finish(folder, result, recordings.left_out, console)


@contextmanager
def _loss_replay(
    recordings: Recordings,
    compared: Sequence[Setting],
    experiment: Experiment,
    weights: Weights,
    start: Weights,
    gradients: bool,
) -> Generator["LossReplay"]:
    """A trainer that never trains, with these weights."""
    from aipo.replay.questions.loss_replay import LossReplay
    from aipo.train.schedule import train_arguments
    from aipo.train.trainer import AIPOTrainer

    policy = load_weights(experiment, weights, recordings)
    # The reference model of a KL term is the one that the run had: TRL loads it from where the model says it is.
    policy.model.config.name_or_path = start.path
    beta = max(setting.experiment.method.beta for setting in compared)
    experiment = experiment.with_settings({"method.beta": beta})
    with tempfile.TemporaryDirectory() as scratch:
        trainer = AIPOTrainer(
            policy.model,
            train_arguments(experiment, Path(scratch), cpu=policy.model.device.type == "cpu"),
            _NoRows(),
            experiment.method,
            tokenizer=policy.tokenizer.inner,
            scores_again=True,
        )
        tags = compared[0].experiment.forbidden_ids(policy)
        yield LossReplay(trainer, compared, tag_ids=tags, gradients=gradients)


class _NoRows:
    """The source of a trainer that never trains."""

    shared = False

    def rows(self, step: int) -> StepRows:
        raise TrainError(f"rows of step {step}: got a trainer that only computes losses, allowed none")

    def updated(self, version: int) -> None:
        pass


def _rollout_steps(recordings: Recordings, choice: Choice, *, chosen: bool) -> list[int]:
    steps = recordings.required_steps()
    sampled = set(steps if chosen else choice.sampled_steps())
    return [step for step in steps if step in sampled] or steps[-1:]


def _with_logged(
    losses: Iterable[StepLoss], recordings: Recordings, *, first: int | None, recorded: str
) -> list[StepLoss]:
    """Adds what training logged to the losses of the recorded setting in optimizer step `first`, the only one in
    which the weights were still those that are used here (None: there is none)."""
    logged = next((line for line in recordings.run.read_metrics() if line["step"] == first), {})
    online = {name: logged[name] for name in ("loss", "grad_norm") if logged.get(name) is not None}
    return [replace(o, online=online) if (o.update, o.setting) == (first, recorded) else o for o in losses]


@dataclass(frozen=True, slots=True)
class SettingMeans:
    """One setting: means over the optimizer steps in which there was something to mean."""

    setting: str
    values: Mapping[str, float]
    shares: Mapping[str, float]

    @classmethod
    def of(cls, setting: str, losses: Sequence[StepLoss]) -> "SettingMeans":
        rows = [_flat(loss) for loss in losses if loss.setting == setting]
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: mean(row.get(name) for row in rows) for name in names}
        values = {name: value for name, value in means.items() if value is not None}
        # A part that a step does not have counts 0 there.
        steps = sum("grad_norm" in row for row in rows)
        parts = dict.fromkeys(part for o in losses if o.setting == setting for part in o.parts)
        totals = {p: sum(row.get(f"gradient_share/{p}", 0.0) for row in rows) for p in parts}
        return cls(setting, values, {p: total / steps for p, total in totals.items()} if steps else {})


def summaries(losses: Sequence[StepLoss]) -> list[SettingMeans]:
    """The means of each setting, in order."""
    return [SettingMeans.of(name, losses) for name in dict.fromkeys(o.setting for o in losses)]


def largest_difference(losses: Iterable[StepLoss]) -> tuple[int, float] | None:
    """Optimiser steps that training logged with the same setting and weights, and the largest |Δ loss|."""
    gaps = [abs(o.loss - o.online["loss"]) for o in losses if "loss" in o.online]
    return (len(gaps), max(gaps)) if gaps else None


def report(losses: Sequence[StepLoss], steps: str) -> ReplayReport:
    """A row for each setting; and a second table for the agents one by one, where there are several."""
    settings = {
        "steps": steps,
        "optimizer steps": str(len({o.update for o in losses})),
        "weights": ", ".join(dict.fromkeys(o.weights for o in losses)),
    }
    if gap := largest_difference(losses):
        settings["training logged"] = f"the same loss in {gap[0]} steps, up to {gap[1]:.1e}"
    means = summaries(losses)
    columns = {
        "loss": [number(s.values.get("loss")) for s in means],
        "|∇|": [number(s.values.get("grad_norm")) for s in means],
        **{role: [percent(s.shares.get(role)) for s in means] for role in _ROLES},
        "|A|·w": [number(s.values.get("weight/agent")) for s in means],
        "clip": [percent(s.values.get("clip/policy")) for s in means],
    }
    tables = [_table("policy, agent, distilled: shares of the gradient", columns, means)]
    agents = sorted({part for s in means for part in s.shares if part.startswith("agent/")})
    if len(agents) > 1:
        shares = {
            part.removeprefix("agent/"): [percent(s.shares.get(part)) for s in means] for part in agents
        }
        tables.append(_table("share of the gradient, by agent", shares, means))
    return ReplayReport(
        question="loss",
        settings=settings,
        tables=tables,
        notes=[
            "means over optimizer steps; |∇|: norm of the gradient before clipping; |A|·w: mean weight of an agent's "
            "token; clip: share of policy tokens that are clipped",
            "the share of a part is g_part·g/|g|²: shares add up to 100 %, and one that pulls the other way is below 0",
        ],
        values=[asdict(loss) for loss in losses],
    )


def write_losses(file: Path, losses: Sequence[StepLoss]) -> None:
    """Writes a CSV file with a line for each setting and optimizer step.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    lines: list[dict[str, Any]] = [
        {"setting": o.setting, "step": o.step, "update": o.update, "weights": o.weights, **_flat(o)}
        for o in losses
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    write_csv(file, names, [[line.get(name, "") for name in names] for line in lines])


def _table(title: str, columns: Mapping[str, Sequence[str]], means: Sequence[SettingMeans]) -> ReplayTable:
    rows = [[s.setting, *(cells[i] for cells in columns.values())] for i, s in enumerate(means)]
    return ReplayTable(title, ["setting", *columns], rows)


def _flat(loss: StepLoss) -> dict[str, float]:
    values = {"loss": loss.loss, **({} if loss.grad_norm is None else {"grad_norm": loss.grad_norm})}
    values |= loss.metrics
    for name, part in loss.parts.items():
        values |= {
            f"tokens/{name}": float(part.tokens),
            f"weight/{name}": part.weight,
            f"clip/{name}": part.clip,
        }
        measured = {"gradient_norm": part.norm, "gradient_share": part.share}
        values |= {f"{key}/{name}": value for key, value in measured.items() if value is not None}
    return values | {f"online/{name}": value for name, value in loss.online.items()}
