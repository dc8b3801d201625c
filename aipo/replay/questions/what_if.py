"""`aipo replay credit` and `aipo replay loss`: what other methods would have made of the same rollouts."""

import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console

from aipo.config.build import build, forbidden_ids
from aipo.config.build_method import loss_settings
from aipo.config.load import Config, load_config
from aipo.errors import RunError, TrainError
from aipo.method.step_rows import StepRows
from aipo.replay.checkpoints import Choice, Weights, load_weights, start_of
from aipo.replay.output import begin, check_trainable, finish, replayed_id
from aipo.replay.questions.credit import Advantages, credit_again, write_advantages
from aipo.replay.questions.credit import report as credit_report
from aipo.replay.questions.grid import CREDIT, METHOD, Setting, settings
from aipo.replay.recordings import Recordings
from aipo.replay.restore import recorded_tokenizer
from aipo.run import tokenizer_of
from aipo.trace import Trace
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from aipo.train.schedule import train_arguments
from aipo.util.console import bars, stage

if TYPE_CHECKING:
    from aipo.replay.questions.loss import LossReplay, Outcome

Steps = tuple[int | None, int | None]


def replay_credit(
    source: Path,
    *,
    grid: Sequence[str],
    overrides: Sequence[str],
    steps: Steps | None,
    out: Path | None,
    console: Console,
) -> int:
    """Advantages under every setting; a single one leaves traces with its advantages, too. The exit code.

    Raises:
        AipoError: see `aipo.errors`.
    """
    recordings = Recordings(path=source, where=Filter(step=steps))
    compared = settings(config_file(recordings), grid, overrides, allowed=CREDIT)
    numbers = _known(recordings, steps)
    folder = begin(
        source, question="credit", out=out, config=compared[-1].config, facts={"settings": _named(compared)}
    )
    made: list[Advantages] = []
    # With several settings, no trace could say whose advantage it has.
    keep = TraceStore(folder.traces, decode=_decode(recordings)) if len(compared) <= 2 else None
    with bars(console) as progress:
        note = stage(progress, "credit")
        for done, step in enumerate(numbers, start=1):
            traces = credited = recordings.read(step)
            for setting in compared:
                advantages, credited = credit_again(step, traces, setting)
                made.append(advantages)
            if keep is not None:
                keep.seal(step, renamed(credited, folder.path.name))
            note(done, len(numbers), f"step {step}")
    write_advantages(folder.path / "credit.csv", made)
    report = credit_report(made, _span(numbers))
    report.print(console)
    return finish(folder, report, recordings.left_out, console)


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
    """Loss and gradients under every setting, through the weights of `checkpoint`. The exit code.

    Without `steps`, those generations are replayed that these very weights have sampled, or else the last one.

    Raises:
        AipoError: see `aipo.errors`.
    """
    from aipo.replay.questions import loss_table

    recordings = Recordings(path=source, where=Filter(step=steps))
    check_trainable(recordings)
    file = config_file(recordings)
    machine = [word for word in overrides if word.startswith(("policy.", "run."))]
    compared = settings(file, grid, [word for word in overrides if word not in machine], allowed=METHOD)
    # Nothing is reported: whom the run reported to is not for its folder to say.
    config = load_config(file, [*machine, "run.report_to=[]"])
    start = start_of(recordings.run, config, named=any(word.startswith("policy.model=") for word in machine))
    choice = Choice(run=recordings.run, name=checkpoint, updates=config.train.optimizer_steps, start=start)
    numbers = _generations(recordings, choice, steps)
    looked = [(step, choice.at(step)) for step in numbers]
    folder = begin(
        source, question="loss", out=out, config=compared[-1].config, facts={"settings": _named(compared)}
    )
    outcomes: list[Outcome] = []
    with bars(console) as progress:
        note = stage(progress, "loss")
        for weights, own in groupby(looked, key=lambda pair: pair[1]):
            with _looking(recordings, compared, config, weights, start, gradients) as replay:
                for step, _ in own:
                    fresh = weights.version == step * choice.updates
                    made = replay.outcomes(step, recordings.read(step), weights=weights.name, fresh=fresh)
                    first = step * choice.updates + 1 if fresh else None
                    outcomes += _beside_online(made, recordings, first=first, recorded=compared[0].name)
                    note(numbers.index(step) + 1, len(numbers), f"step {step} through {weights.name}")
    loss_table.write_outcomes(folder.path / "loss.csv", outcomes)
    report = loss_table.report(outcomes, _span(numbers))
    report.print(console)
    return finish(folder, report, recordings.left_out, console)


def renamed(traces: Iterable[Trace], run_id: str) -> list[Trace]:
    """Traces of a replay that changes nothing but what is said of them."""
    return [
        replace(t, run_id=run_id, trace_id=replayed_id(t, run_id, t.group_id), parent_id=t.trace_id)
        for t in traces
    ]


@contextmanager
def _looking(
    recordings: Recordings,
    compared: Sequence[Setting],
    config: Config,
    weights: Weights,
    start: Weights,
    gradients: bool,
) -> Generator["LossReplay"]:
    """A trainer that never trains, with these weights."""
    from aipo.replay.questions.loss import LossReplay
    from aipo.train.trainer import AIPOTrainer

    policy = load_weights(config, weights, recordings)
    # The reference model of a KL term is the one that the run had: TRL loads it from where the model says it is.
    policy.model.config.name_or_path = start.path
    beta = max(setting.config.method.beta for setting in compared)
    config = config.model_copy(update={"method": config.method.model_copy(update={"beta": beta})})
    with tempfile.TemporaryDirectory() as scratch:
        trainer = AIPOTrainer(
            policy.model,
            train_arguments(build(config), Path(scratch), cpu=policy.model.device.type == "cpu"),
            _NoRows(),
            loss_settings(config),
            tokenizer=policy.tokenizer.inner,
            recompute=True,
        )
        tags = forbidden_ids(compared[0].config, policy)
        yield LossReplay(trainer, compared, tag_ids=tags, gradients=gradients)


class _NoRows:
    """The source of a trainer that never trains."""

    shared = False

    def rows(self, step: int) -> StepRows:
        raise TrainError(f"rows of generation {step}: got a trainer that only looks, allowed none")

    def updated(self, version: int) -> None:
        pass


def _decode(recordings: Recordings) -> Callable[[npt.NDArray[np.int32]], str] | None:
    """Token ids to text, if the run kept its tokenizer."""
    return recorded_tokenizer(recordings).decode if tokenizer_of(recordings.run) else None


def _generations(recordings: Recordings, choice: Choice, steps: Steps | None) -> list[int]:
    known = _known(recordings, steps)
    own = set(choice.own()) if steps is None else set(known)
    return [step for step in known if step in own] or known[-1:]


def _known(recordings: Recordings, steps: Steps | None) -> list[int]:
    """Steps to replay, of which there have to be some."""
    if known := recordings.steps():
        return known
    raise RunError(f"--steps: got {steps}, allowed steps of {recordings.folder}")


def _beside_online(
    made: "Iterable[Outcome]", recordings: Recordings, *, first: int | None, recorded: str
) -> "list[Outcome]":
    """Puts what training logged beside the outcomes of the recorded setting in optimiser step `first`, the one in
    which the weights were still those that are looked through (None: there is none)."""
    logged = next((line for line in recordings.run.read_metrics() if line["step"] == first), {})
    online = {name: logged[name] for name in ("loss", "grad_norm") if logged.get(name) is not None}
    return [replace(o, online=online) if (o.update, o.setting) == (first, recorded) else o for o in made]


def config_file(recordings: Recordings) -> str:
    """The recorded configuration.

    Raises:
        RunError: there is none.
    """
    file = recordings.run.config
    if not file.is_file():
        raise RunError(f"configuration of the traces in {recordings.folder}: got no {file}, allowed a run's")
    return str(file)


def _named(compared: Iterable[Setting]) -> list[str]:
    return [setting.name for setting in compared]


def _span(steps: Sequence[int]) -> str:
    if not steps:
        return "none"
    whole = list(steps) == list(range(steps[0], steps[-1] + 1))
    return f"{steps[0]} to {steps[-1]}" if whole and len(steps) > 1 else ", ".join(map(str, steps))
