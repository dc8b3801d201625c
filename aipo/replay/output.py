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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.console import Console

from aipo.config.build import Experiment
from aipo.errors import RunError
from aipo.replay.recordings import LeftOut, Recordings
from aipo.replay.restore import Restored
from aipo.run import RunFolder, keep_tokenizer, tokenizer_of
from aipo.trace import Trace
from aipo.util.console import number_table, print_line
from aipo.util.files import taken, write_json, write_text, writing

REPORT = "replay.json"
LEFT_OUT = 3
"""Exit code of a replay that had to leave something out."""
_LINES = 10
"""How many left-out traces are printed."""


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
        for name, value in self.settings.items():
            print_line(console, f"{name}: {value}")
        for line in self.notes:
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


def finish(report: ReplayReport, left_out: Sequence[LeftOut], console: Console, *folders: RunFolder) -> int:
    """Prints a report and writes it into each folder, with what was left out. The exit code."""
    report.print(console)
    for folder in folders:
        write_json(folder.path / REPORT, report.to_dict())
        print_line(console, f"run folder {folder.path}")
        if left_out:
            write_json(folder.path / "left_out.json", [asdict(item) for item in left_out])
    return print_left_out(left_out, console)


def print_left_out(left_out: Sequence[LeftOut], console: Console) -> int:
    """The first traces and files that could not be used. The exit code."""
    for item in left_out[:_LINES]:
        print_line(console, f"left out: {item.what}: {item.reason}", "yellow")
    if len(left_out) > _LINES:
        print_line(console, f"left out: {len(left_out)} in all", "yellow")
    return LEFT_OUT if left_out else 0


# -- the folder ----------------------------------------------------------------------------------------


def new_folder(out: Path, recordings: Recordings) -> RunFolder:
    """Takes the folder of a replay.

    Raises:
        RunError: it is not empty, or lies within what is replayed.
    """
    source, target = recordings.run.path.resolve(), out.resolve()
    if target == source or source in target.parents:
        raise RunError(f"--out: got {out}, allowed a folder outside of {source}, which is only read")
    return RunFolder.create(out)


def default_out(run: Path, question: str) -> Path:
    """A free folder beside the run, named after the run and the question."""
    first = run.resolve().with_name(f"{run.resolve().name}-{question}")
    others = (first.with_name(f"{first.name}-{n}") for n in count(2))
    return first if not taken(first) else next(path for path in others if not taken(path))


def describe(
    folder: RunFolder, restored: Restored, question: str, live: str | None = None, *, trainable: bool = True
) -> None:
    """Writes configuration, manifest, drawing and tokenizer of a replay that runs its graph.

    Args:
        live: the policy that continued where recordings end; `model` stays what the source started from.
        trainable: whether the new traces record truly how they were sampled.
    """
    recordings = restored.recordings
    write_text(folder.config, restored.experiment.with_settings({"run.out": folder.path}).to_yaml())
    replay_of = {"what": question, **origin(recordings)} | ({} if trainable else {"trainable": False})
    model = recordings.run.read_manifest().get("model") or restored.experiment.policy.model
    facts = restored.built.manifest(model) | ({"live": live} if live else {})
    write_json(folder.manifest, facts | {"replay_of": replay_of})
    write_json(folder.graph, restored.built.drawing())
    keep_tokenizer(folder, restored.tokenizer.inner.save_pretrained)


def begin(
    source: Path, *, question: str, out: Path | None, experiment: Experiment, facts: Mapping[str, Any]
) -> RunFolder:
    """Makes the folder of a replay that runs no graph: the source's graph and tokenizer are copied.

    Args:
        source: what is replayed.
        out: default: see `default_out`.
        facts: for the manifest; without a `model` among them it is what the source started from.

    Raises:
        RunError: the folder is not empty, lies in the source, or cannot be written.
    """
    recordings = Recordings(path=source)
    run = recordings.run
    folder = new_folder(out or default_out(run.path, question), recordings)
    write_text(folder.config, experiment.with_settings({"run.out": folder.path}).to_yaml())
    model = run.read_manifest().get("model")
    start = {"model": model} if model else {}
    write_json(folder.manifest, {**start, **facts, "replay_of": {"what": question, **origin(recordings)}})
    with writing("copying what the source was made of", folder.path):
        if run.graph.is_file():
            shutil.copyfile(run.graph, folder.graph)
        if tokenizer := tokenizer_of(run):
            folder.tokenizer.mkdir()
            for file in tokenizer.glob("*token*"):
                shutil.copyfile(file, folder.tokenizer / file.name)
    return folder


def origin(recordings: Recordings) -> dict[str, Any]:
    """The origin of the traces, for a manifest. Traces that must not be learned from stay marked."""
    run = recordings.run
    # Another reader: the given one keeps its place.
    first = next(iter(Recordings(path=recordings.path)), None)
    return {
        "path": str(recordings.path.resolve()),
        "run_id": first[0].run_id if first else run.path.name,
        "fingerprints": first[0].fingerprints if first else {},
        **({} if _trainable(run) else {"trainable": False}),
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


def replayed_id(trace: Trace, run_id: str, group_id: str) -> str:
    """The id of a stored trace under another run. Several traces of one rollout are told apart by their policy."""
    alone = trace.trace_id == f"{trace.run_id}/{trace.group_id}/{trace.index}"
    return f"{run_id}/{group_id}/{trace.index}{'' if alone else f'/{trace.policy}'}"


def renamed(traces: Iterable[Trace], run_id: str) -> list[Trace]:
    """Stored traces as those of another run, with the stored ones as their parents."""
    return [
        replace(t, run_id=run_id, trace_id=replayed_id(t, run_id, t.group_id), parent_id=t.trace_id)
        for t in traces
    ]


# -- cells and columns ---------------------------------------------------------------------------------


def write_csv(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file with a column for every name that a line has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)))
    writer.writeheader()
    writer.writerows(lines)
    write_text(file, text.getvalue())


def number(value: object) -> str:
    """A cell: four digits of a float, a dash for None, anything else as it is."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(value: float | None) -> str:
    """A cell: a share in percent, a dash for None."""
    return "–" if value is None else f"{round(100 * value, 1) + 0.0:.1f} %"  # + 0.0: no "-0.0"


def interval_cell(interval: tuple[float, float] | None, digits: int = 3) -> str:
    """A cell: a 95 % interval of a change, a dash for None."""
    return "–" if interval is None else "[{:+.{d}f}, {:+.{d}f}]".format(*interval, d=digits)


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
