"""The report of a demo: one HTML page that needs nothing but itself.

Numbers with their intervals, learning curves, pass@k and a few coloured traces. The page loads nothing and
runs nothing (its content-security policy says so); whatever a model wrote is escaped by `aipo.render.display`.

    Report (plain, frozen)  →  write_report  →  report.html
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aipo.compare import figures
from aipo.compare.examples import Example, tell
from aipo.compare.figures import Arm, Cell, Row, colour, learning_curves, pass_at_charts, splits_of
from aipo.render import display
from aipo.render import graph_svg as draw
from aipo.render import svg_charts as chart
from aipo.render.colours import STYLE
from aipo.render.spans import agent_order
from aipo.render.trace_html import context_html, legend_html
from aipo.run import RunFolder
from aipo.trace.store import TraceStore
from aipo.trace.text import Decode
from aipo.util.files import write_text
from aipo.util.text import visible

SPLITS = {
    "heldout": "Unknown facts, combinations never trained on",
    "hard": "Unknown facts, combinations seen in training",
    "easy": "Known facts and plain arithmetic",
}
"""What the miniature's splits are, for a reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the page shows.

    Args:
        title: the page's heading.
        facts: short things to know about the run (seed, wall time, ...), by name.
        before: the policy that every arm started from.
        arms: the trained policies; the first one is what the page is about.
        examples: traces, in reading order.
        decode: token ids to text.
        drawing: the graph as `graph.json` has it, or None.
    """

    title: str
    facts: Mapping[str, str]
    before: Arm
    arms: Sequence[Arm]
    examples: Sequence[Example]
    decode: Decode
    drawing: Mapping[str, Any] | None = None

    @property
    def columns(self) -> list[Arm]:
        return [self.before, *self.arms]


def write_demo_report(
    out: Path,
    *,
    arms: Sequence[str],
    before: Mapping[str, Any],
    after: Mapping[str, Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> Path:
    """The page of `aipo demo`: arms are run folders in `out`, evaluations as their files have them.

    Raises:
        TraceError: a file of traces cannot be read.
        RunError: the disk is full or the folder cannot be written.
    """
    from transformers import AutoTokenizer

    from aipo.policies.tokenizer import HFTokenizer

    runs = {arm: RunFolder(out / arm) for arm in arms}
    first = runs[arms[0]]
    tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(first.model))
    traces = [run.evaluation_traces(name) for run, name in ((RunFolder(out), "before"), (first, "after"))]
    report = Report(
        title="AIPO on the miniature: first with help, then alone",
        facts={
            "seed": str(summary["seed"]),
            "wall time": _minutes(summary["wall_s"]),
            "trained": ", ".join(arms),
        },
        before=Arm.of("before", before),
        arms=[Arm.of(arm, after[arm], run.read_metrics()) for arm, run in runs.items()],
        examples=tell(*(TraceStore(folder).read() for folder in traces)),
        decode=tokenizer.decode,
        drawing=json.loads(first.graph.read_text(encoding="utf-8")),
    )
    return write_report(out, report)


def write_report(folder: Path, report: Report) -> Path:
    """Writes `report.html` into `folder` and returns its path.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    agents = _agents(report)
    page = environment().get_template("report.html.j2")
    html = page.render(
        report=report,
        headline=headline(report),
        sections=list(table(report)),
        curves=[Markup(svg) for svg in learning_curves(report.arms, agents)],
        pass_at=[Markup(svg) for svg in pass_at_charts(report.columns, SPLITS)],
        graph=Markup(draw.graph_svg(report.drawing)) if report.drawing else None,
        legend=Markup(legend_html([e.trace for e in report.examples], agents)),
        examples=[_example(e, report.decode, agents) for e in report.examples],
        style=Markup(f"{chart.STYLE}\n{draw.STYLE}\n{STYLE}"),
        columns=chart.COLUMNS,
        colours=[colour(i) for i in range(len(report.columns))],
    )
    path = folder / "report.html"
    write_text(path, html)
    return path


def table(report: Report) -> Iterable[tuple[str, list[Row]]]:
    """What each policy can do, split by split; see `aipo.compare.figures.table`."""
    return ((SPLITS.get(split, split), rows) for split, rows in figures.table(report.columns))


def headline(report: Report) -> Mapping[str, Any] | None:
    """pass@1 alone on the first split: before, after, and the other arms'. None if nobody measured it."""
    splits = splits_of(report.columns)
    if not splits:
        return None
    scores = [arm.score(splits[0], "solo") for arm in report.columns]
    before, after, *others = (Cell.of(s, 1) for s in scores)
    if before is None or after is None:
        return None
    rivals = [(arm.name, c) for arm, c in zip(report.arms[1:], others, strict=True) if c is not None]
    return {"what": SPLITS.get(splits[0], splits[0]), "before": before, "after": after, "rivals": rivals}


def _agents(report: Report) -> list[str]:
    """Who is asked or speaks, in an order that gives them their colours; `unknown` is nobody's name."""
    asked = {key for arm in report.arms for row in arm.metrics for key in row if key.startswith("consults/")}
    names = {key.removeprefix("consults/") for key in asked}
    names |= set(agent_order(e.trace for e in report.examples))
    return sorted(names, key=lambda name: (name == "unknown", name))


def _example(example: Example, decode: Decode, agents: Sequence[str]) -> Mapping[str, Any]:
    trace = example.trace
    return {
        "caption": example.caption,
        "headline": visible(display.headline(trace)),
        "context": Markup(context_html(trace, decode, agents)),
        "good": trace.reward is not None and trace.reward > 0,
    }


def environment() -> Environment:
    """Where pages get their templates."""
    return Environment(
        loader=PackageLoader("aipo.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
