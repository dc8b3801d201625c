"""The output of a replay: a run folder like any other, with the results in `replay.json`.

`replay.json` has one shape for every question:

    {
      "question": "loss",                           the sub-command of `aipo replay`
      "settings": {"weights": "start", ...},        what it was asked with: text by name
      "tables": [
        {"title": "Settings", "columns": ["setting", "loss"], "rows": [["as recorded", "0.1234"], ...]}
      ],                                            as printed: cells are text, the first one names the row
      "notes": ["reused 16 turns of the policy"],   sentences, as printed
      "values": ...                                 the numbers behind the tables, unrounded, for programs
    }

The viewer shows `settings`, `tables` and `notes`. The shape of `values` is the question's own.
"""

import csv
import io
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.console import Console

from aipo.config.build import Experiment
from aipo.errors import RunError
from aipo.replay.recordings import Recordings
from aipo.run import POLICIES, RunFolder, keep_tokenizer, recorded_end, tokenizer_of
from aipo.trace import Trace
from aipo.util.console import number_table, print_line
from aipo.util.files import taken, write_json, write_text, writing
from aipo.util.output import print_result

LEFT_OUT = 3
"""Exit code of a replay that had to leave something out."""
_LINES = 10
"""How many left-out traces are printed."""
_WEIGHTS = shutil.ignore_patterns("model*", "*.safetensors", "*.bin", "config.json", "generation_config.json")
"""Files beside the tokenizer of a trained policy."""


class ReplayTable(NamedTuple):
    """A table as the terminal and the viewer show it. Cells are text; the first one names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """The result of a question; see the head of this file.

    Args:
        warnings: sentences that the terminal prints in yellow; in `replay.json` they are notes.
    """

    question: str
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    tables: Sequence[ReplayTable] = ()
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    values: Any = None

    def print(self, console: Console) -> None:
        """Tables, settings and sentences on the terminal."""
        for title, columns, rows in self.tables:
            console.print(number_table(columns, rows, title=title))
        for line in (*(f"{name}: {value}" for name, value in self.settings.items()), *self.notes):
            print_line(console, line)
        for line in self.warnings:
            print_line(console, line, "yellow")

    def to_dict(self) -> dict[str, Any]:
        """For `replay.json`."""
        return {
            "question": self.question,
            "settings": dict(self.settings),
            "tables": [table._asdict() for table in self.tables],
            "notes": [*self.notes, *self.warnings],
            "values": self.values,
        }


def finish(report: ReplayReport, recordings: Recordings, console: Console, *folders: RunFolder) -> int:
    """Prints a report and writes it into each folder, with what was left out. The exit code."""
    report.print(console)
    left_out = list_left_out(recordings)
    for folder in folders:
        write_json(folder.path / "replay.json", report.to_dict())
        print_line(console, f"run folder {folder.path}")
        if left_out:
            write_json(folder.path / "left_out.json", left_out)
    runs = [str(folder.path) for folder in folders]
    print_result(console, {**report.to_dict(), "folders": runs, "left_out": left_out})
    return print_left_out(recordings, console)


def list_left_out(recordings: Recordings) -> list[dict[str, str]]:
    """What could not be used, and why: for programs."""
    return [{"what": what, "reason": reason} for what, reason in recordings.left_out.items()]


def print_left_out(recordings: Recordings, console: Console) -> int:
    """The first traces and files that could not be used. The exit code."""
    lines = [f"left out: {what}: {reason}" for what, reason in recordings.left_out.items()]
    more = [f"left out: {len(lines)} in all"] if len(lines) > _LINES else []
    for line in lines[:_LINES] + more:
        print_line(console, line, "yellow")
    return LEFT_OUT if lines else 0


# -- the folder ----------------------------------------------------------------------------------------


def default_out(run: RunFolder, question: str) -> Path:
    """A free folder beside the run, named after the run and the question."""
    path = run.path.resolve()
    if path.parent.name == POLICIES:  # beside the whole run: beside a policy it would be one
        whole = path.parents[1]
        path = whole.with_name(f"{whole.name}-{path.name}")
    names = chain([f"{path.name}-{question}"], (f"{path.name}-{question}-{n}" for n in count(2)))
    return next(free for free in map(path.with_name, names) if not taken(free))


@contextmanager
def replay_folder(
    recordings: Recordings,
    question: str,
    out: Path | None,
    experiment: Experiment,
    facts: Mapping[str, Any],
    *,
    drawing: Mapping[str, Any] | None = None,
    trainable: bool = True,
    resume: bool = False,
) -> Generator[RunFolder]:
    """The folder of a replay, with configuration, manifest, drawing and tokenizer. During the body it counts as running; it
    then records how it ended. A replay that fails before its first result leaves nothing.

    Args:
        out: default: see `default_out`.
        facts: for the manifest; without a `model` among them it is what the source started from.
        drawing: of the graph; default: the source's.
        trainable: whether the new traces will record truly how they were sampled.
        resume: takes the folder up again.

    Raises:
        RunError: the folder is not empty, lies in the source, cannot be written, or another process writes it.
    """
    run = recordings.run
    out = out or default_out(run, question)
    source, target = run.path.resolve(), out.resolve()
    if target == source or source in target.parents:
        raise RunError(f"--out: got {out}, allowed a folder outside of {source}, which is only read")
    model = run.read_manifest().get("model")
    start = {"model": model} if model else {}
    replay_of = {"what": question, **_origin(recordings, trainable=trainable)}
    with RunFolder.taken(out, resume=resume) as folder:
        write_text(folder.config, experiment.with_settings({"run.out": out}).to_yaml())
        write_json(folder.manifest, {**start, **facts, "replay_of": replay_of})
        if drawing is not None:
            write_json(folder.graph, drawing)
        elif run.graph.is_file():
            with writing("copying the drawing of the graph", folder.path):
                shutil.copyfile(run.graph, folder.graph)
        if tokenizer := tokenizer_of(run):
            keep_tokenizer(folder, lambda draft: shutil.copytree(tokenizer, draft, ignore=_WEIGHTS))
        with recorded_end(folder):
            yield folder


def _origin(recordings: Recordings, *, trainable: bool) -> dict[str, Any]:
    """The origin of the traces, for a manifest. Traces that must not be learned from stay marked."""
    run = recordings.run
    first = next(iter(Recordings(path=recordings.path)), None)
    return {
        "path": str(recordings.path.resolve()),
        "run_id": first[0].run_id if first else run.path.name,
        "fingerprints": first[0].fingerprints if first else {},
        **({} if trainable and _trainable(run) else {"trainable": False}),
    }


def check_trainable(recordings: Recordings) -> None:
    """Refuses traces whose log-probs are not those of what sampled them.

    Raises:
        RunError: the run is of live forks, or was made of such.
    """
    if not _trainable(recordings.run):
        raise RunError(
            f"traces to learn from: got {recordings.run.path}, forks that went on with consult tags suppressed though "
            "their forbidden_ids do not say so, allowed traces whose log-probs are those of what sampled them"
        )


def _trainable(run: RunFolder) -> bool:
    replay_of = run.read_manifest().get("replay_of")
    return not (isinstance(replay_of, dict) and replay_of.get("trainable") is False)


def renamed(trace: Trace, run_id: str, *, step: int, group_id: str) -> Trace:
    """A stored trace as one of another run, with the stored one as its parent; a fork stays a fork of its group."""
    parent = trace.trace_id
    if trace.forked and trace.parent_id is not None:
        parent = f"{run_id}/{group_id}/{trace.parent_id.removeprefix(f'{trace.run_id}/{trace.group_id}/')}"
    # Several traces of one rollout are told apart by their policy.
    single = trace.trace_id == f"{trace.run_id}/{trace.group_id}/{trace.index}"
    return replace(
        trace,
        run_id=run_id,
        trace_id=f"{run_id}/{group_id}/{trace.index}{'' if single else f'/{trace.policy}'}",
        group_id=group_id,
        step=step,
        parent_id=parent,
        fork_token=trace.fork_token if trace.forked else None,
    )


# -- cells and columns ---------------------------------------------------------------------------------


def write_csv(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file with a column for every name that a line has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)))
    writer.writeheader()
    writer.writerows(lines)
    write_text(file, text.getvalue())


def cell(value: object, form: str = ".4g") -> str:
    """A cell: digits of a float, a dash for None, anything else as it is."""
    return "–" if value is None else format(value, form) if isinstance(value, float) else str(value)


def percent(value: float | None) -> str:
    """A cell: a share in percent, a dash for None."""
    return "–" if value is None else f"{100 * value:z.1f} %"


def interval_cell(interval: tuple[float, float] | None) -> str:
    """A cell: a 95 % interval of a change, a dash for None."""
    return "–" if interval is None else "[{:+.3f}, {:+.3f}]".format(*interval)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if there is none."""
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None


def span(steps: Sequence[int]) -> str:
    """Steps as text: `0 to 7`, or `0, 2, 5`."""
    if not steps:
        return "none"
    whole = list(steps) == list(range(steps[0], steps[-1] + 1))
    return f"{steps[0]} to {steps[-1]}" if whole and len(steps) > 1 else ", ".join(map(str, steps))
