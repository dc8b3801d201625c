"""`aipo replay loss`: loss and gradients of stored rows under other settings, in one pass."""

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.policies.tags import Tags
from aipo.replay.checkpoints import Choice, Weights, load_weights
from aipo.replay.output import (
    ReplayReport,
    ReplayTable,
    cell,
    check_trainable,
    finish,
    mean,
    percent,
    replay_folder,
    span,
    write_csv,
)
from aipo.replay.questions.grid import METHOD, Setting, settings
from aipo.replay.recordings import Recordings, Steps
from aipo.trace.filters import Filter
from aipo.util.console import bars, stage
from aipo.util.text import counted

if TYPE_CHECKING:
    from aipo.replay.questions.loss_replay import LossReplay

_ROLES = ("policy", "agent", "distilled")
_COLUMNS = {"norm": "gradient_norm", "share": "gradient_share"}
_MEANS = ("loss", "grad_norm", "weight/agent", "clip/policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoss:
    """What one setting makes of one optimizer step.

    Args:
        step: rollout step.
        optimizer_step: from 1, the `step` of metrics.jsonl.
        weights: name of the weights that the loss was computed with.
        grad_norm: before clipping; None when gradients were not asked for.
        metrics: as training logs them.
        parts: of each kind of token (`policy`, `agent` and each `agent/NAME`, `distilled`): `tokens`, `weight`
            (mean |A|·w), `clip` (share of them that are clipped), `norm` of their own gradient, and their `share` of
            the step's (see `aipo.replay.questions.loss_replay.share_of`); both None without gradients.
        online: what training logged for this step, if the setting and the weights are those of the run.
    """

    setting: str
    step: int
    optimizer_step: int
    weights: str
    loss: float
    grad_norm: float | None
    metrics: Mapping[str, float]
    parts: Mapping[str, Mapping[str, float | None]]
    online: Mapping[str, float] = field(default_factory=dict[str, float])

    def line(self) -> dict[str, Any]:
        """For a CSV file: what there is, by name."""
        names = ("setting", "step", "optimizer_step", "weights", "loss", "grad_norm")
        values = {name: getattr(self, name) for name in names} | dict(self.metrics)
        for part, facts in self.parts.items():
            values |= {f"{_COLUMNS.get(name, name)}/{part}": value for name, value in facts.items()}
        values |= {f"online/{name}": value for name, value in self.online.items()}
        return {name: value for name, value in values.items() if value is not None}


def replay_loss(
    source: Path,
    *,
    checkpoint: str,
    grid: Sequence[str],
    overrides: Sequence[str],
    steps: Steps | None,
    out: Path | None,
    gradients: bool,
    console: Console,
) -> int:
    """Loss and gradients under every setting, with the weights of `checkpoint`. The exit code.

    Without `steps` it takes the rollout steps that these very weights have sampled, or else the last one. With
    `exact`, weights that did not sample a step are refused.
    """
    recordings = Recordings(path=source, where=Filter(step=steps))
    check_trainable(recordings)
    machine = [word for word in overrides if word.startswith(("policy.", "run."))]
    of_method = [word for word in overrides if word not in machine]
    compared = settings(recordings.config, grid, of_method, allowed=METHOD)
    # Nothing is reported: a recorded folder must not choose where.
    experiment = load_experiment(recordings.config, [*machine, "run.report_to=[]"], of_run=True)
    choice = Choice.of(recordings, experiment, checkpoint, machine)
    per_step, numbers = choice.optimizer_steps, recordings.required_steps()
    if steps is None:
        sampled = set(choice.sampled_steps())
        numbers = [step for step in numbers if step in sampled] or numbers[-1:]
    weights_of = {step: choice.at(step) for step in numbers}
    facts = {"settings": [setting.name for setting in compared]}
    losses: list[StepLoss] = []
    with (
        replay_folder(recordings, "loss", out, compared[0].experiment, facts) as folder,
        bars(console) as progress,
    ):
        note = stage(progress, "loss")
        for weights, of_weights in groupby(numbers, key=weights_of.__getitem__):
            with _loss_replay(recordings, compared, experiment, weights, choice.start, gradients) as replay:
                for step in of_weights:
                    fresh = weights.version == step * per_step
                    losses += replay.losses(step, recordings.read(step), weights=weights.name, fresh=fresh)
                    note(numbers.index(step) + 1, len(numbers), f"step {step} through {weights.name}")
    # Only in the first optimizer step of a rollout step were the weights of training still those that are used here.
    first = {step * per_step + 1 for step in numbers if weights_of[step].version == step * per_step}
    logged = {line["step"]: line for line in recordings.run.read_metrics() if line["step"] in first}
    losses = [
        replace(o, online=_online(logged.get(o.optimizer_step, {}))) if o.setting == compared[0].name else o
        for o in losses
    ]
    write_csv(folder.path / "loss.csv", [loss.line() for loss in losses])
    other = [step for step in numbers if weights_of[step].version != step * per_step]
    return finish(_report(losses, span(numbers), other), recordings, console, folder)


def _online(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: line[name] for name in ("loss", "grad_norm") if line.get(name) is not None}


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
    from aipo.train.rehearsal import rehearsal_of
    from aipo.train.schedule import train_arguments
    from aipo.train.sources import TraceSource
    from aipo.train.trainer import AIPOTrainer

    policy = load_weights(experiment, weights, recordings)
    # The reference model of a KL term is the one that the run had: TRL loads it from where the model says it is.
    policy.model.config.name_or_path = start.path
    beta = max(setting.experiment.method.beta for setting in compared)
    experiment = experiment.with_settings({"method.beta": beta})
    no_rows = TraceSource(
        traces=lambda _: (),
        credit=experiment.credit,
        keep=lambda *_: None,
        make=lambda credited, _: experiment.rows(credited, Tags()),
        advance=policy.advance,
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = AIPOTrainer(
            policy.model,
            train_arguments(experiment, Path(scratch), cpu=policy.model.device.type == "cpu"),
            no_rows,
            experiment.method,
            tokenizer=policy.tokenizer.inner,
            scores_again=True,
        )
        tags = compared[0].experiment.tags(policy.tokenizer)
        rehearsal = rehearsal_of(experiment, recordings.run, policy.tokenizer)
        yield LossReplay(trainer, compared, tags, gradients, recordings.peers, rehearsal)


def _report(losses: Sequence[StepLoss], steps: str, other: Sequence[int]) -> ReplayReport:
    """A row for each setting; and a second table for the agents one by one, where there are several.

    Args:
        other: steps that other weights had sampled.
    """
    settings = {
        "steps": steps,
        "optimizer steps": str(len({o.optimizer_step for o in losses})),
        "weights": ", ".join(dict.fromkeys(o.weights for o in losses)),
    }
    if gaps := [abs(o.loss - o.online["loss"]) for o in losses if "loss" in o.online]:
        settings["training logged"] = (
            f"the same loss in {counted(len(gaps), 'step')}, to within {max(gaps):.1g}"
        )
    by_setting = {o.setting: [other for other in losses if other.setting == o.setting] for o in losses}
    agents = sorted({part for o in losses for part in o.parts if part.startswith("agent/")})
    rows: list[list[str]] = []
    for name, of_setting in by_setting.items():
        lines = [o.line() for o in of_setting]
        loss, norm, weight, clip = (mean(line.get(key) for line in lines) for key in _MEANS)
        shares = _shares(of_setting, _ROLES)
        rows.append([name, cell(loss), cell(norm), *shares, cell(weight), percent(clip)])
    columns = ("setting", "loss", "|∇|", *_ROLES, "|A|·w", "clip")
    tables = [ReplayTable("policy, agent, distilled: shares of the gradient", columns, rows)]
    if len(agents) > 1 and losses[0].grad_norm is not None:
        columns = ["setting", *(agent.removeprefix("agent/") for agent in agents)]
        rows = [[name, *_shares(of_setting, agents)] for name, of_setting in by_setting.items()]
        tables.append(ReplayTable("share of the gradient, by agent", columns, rows))
    weights = ", ".join(
        f"{o.step} {o.weights}" for o in {o.step: o for o in losses}.values() if o.step in other
    )
    others = f"other weights than those that sampled (by step: {weights}): loss and shares are not those of training"
    return ReplayReport(
        question="loss",
        settings=settings,
        tables=tables,
        notes=[
            *([others] if other else []),
            "means over optimizer steps; |∇|: norm of the gradient before clipping; |A|·w: mean weight of an agent's "
            "token; clip: share of policy tokens that are clipped",
            "the share of a part is g_part·g/|g|²: shares add up to 100 %, and one that pulls the other way is below 0",
        ],
        values=[asdict(loss) for loss in losses],
    )


def _shares(losses: Sequence[StepLoss], parts: Sequence[str]) -> list[str]:
    """Mean shares of the gradient, as cells. A part that a step does not have counts 0 there."""
    with_gradients = [o for o in losses if o.grad_norm is not None]

    def share(part: str) -> float | None:
        shares = [o.parts.get(part, {}).get("share") or 0.0 for o in with_gradients]
        return mean(shares) if any(part in o.parts for o in losses) else None

    return [percent(share(part)) for part in parts]
