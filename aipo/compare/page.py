"""The page of a comparison or a demo: standings, charts, costs and examples in one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from aipo.compare import tables
from aipo.compare.curves import colours, cost_charts, learning_charts, method_charts, pass_at_charts
from aipo.compare.examples import Example
from aipo.compare.matrix import Matrix
from aipo.compare.results import MatrixResults
from aipo.compare.sections import BEFORE
from aipo.compare.standings import Standings
from aipo.render import colours as page_colours
from aipo.render import graph_svg
from aipo.render.charts import COLOURS, data_block, figure, inline_assets
from aipo.render.display import headline
from aipo.render.spans import agent_order
from aipo.render.templating import fill
from aipo.render.trace_html import context_html, legend_html
from aipo.trace.text import Decode
from aipo.util.files import write_text

_LEAST_REACH = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PageExtras:
    """The parts of a demo's page besides the comparison.

    Args:
        title: the heading.
        story: paragraphs below it.
        remarks: sentences below the results.
        facts: short facts, by name.
        split_names: what a split holds, for a reader who does not know the environment.
        arm: the arm whose method, graph and traces are shown; None shows none of them.
        examples: traces, in reading order.
        decode: token ids to text.
        drawing: the graph as `graph.json` has it, or None.
    """

    title: str = ""
    story: Sequence[str] = ()
    remarks: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    split_names: Mapping[str, str] = field(default_factory=dict[str, str])
    arm: str | None = None
    examples: Sequence[Example] = ()
    decode: Decode | None = None
    drawing: Mapping[str, Any] | None = None


def write_page(
    path: Path, matrix: Matrix, results: MatrixResults, standings: Standings, extras: PageExtras | None = None
) -> None:
    """Writes the page.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    extras = extras or PageExtras()
    split_names = extras.split_names
    others = [measure for measure in tables.shown_measures(matrix.measures) if measure != matrix.measure]
    agents = _agents(results, extras)
    method = method_charts(results, extras.arm, agents) if extras.arm else []
    charts = {
        "learning": [*learning_charts(matrix, results), *method],
        "costs": cost_charts(matrix, results, split_names),
        "pass_at": pass_at_charts(matrix, standings, split_names),
    }
    numbers = count()
    page = fill(
        "aipo.render",
        "comparison.html.j2",
        title=extras.title or f"Comparison: {Path(matrix.name).stem}",
        facts=extras.facts or _facts(matrix, results),
        matrix=matrix,
        results=results,
        standings=standings,
        measure=tables.measure_label(matrix.measure, split_names),
        colours=colours(matrix),
        rule=tables.RULE,
        signs=tables.SIGNS,
        amounts=tables.amounts,
        story=extras.story,
        remarks=extras.remarks,
        budget=tables.budget(matrix),
        efforts=[(arm, tables.efforts(cost)) for arm, cost in standings.costs.items()],
        headline=headline,
        reach=_reach(matrix, standings),
        groups=[
            (split_names.get(split, split), list(measures))
            for split, measures in groupby(others, key=lambda measure: measure.split)
        ],
        no_winner=tables.no_winner(matrix),
        figures={name: [figure(next(numbers), c) for c in section] for name, section in charts.items()},
        graph=Markup(graph_svg.graph_svg(extras.drawing)) if extras.drawing else None,
        legend=legend_html([example.trace for example in extras.examples], agents),
        examples=[(one, context_html(one.trace, extras.decode, agents)) for one in extras.examples],
        sheet=Markup(f"{page_colours.sheet()}\n{page_colours.STYLE}\n{graph_svg.STYLE}"),
        columns=COLOURS,
        charts=inline_assets(),
        charts_data=data_block([*chain.from_iterable(charts.values())]),
    )
    write_text(path, page)


def _facts(matrix: Matrix, results: MatrixResults) -> Mapping[str, str]:
    done = sum(result.arm != BEFORE for result in results.finished)
    return {
        "seeds": f"{len(matrix.seeds)} ({', '.join(map(str, matrix.seeds))})",
        "runs": f"{done} of {len(matrix.cells)}",
        "reference": matrix.reference,
        "file": matrix.name,
    }


def _reach(matrix: Matrix, standings: Standings) -> float:
    """The farthest end of a difference: one scale for all."""
    pairs = [standings.of[matrix.measure, arm].difference for arm in standings.arms]
    ends = [abs(end) for pair in pairs if pair for end in (*(pair.interval or ()), pair.mean)]
    return max([_LEAST_REACH, *ends])


def _agents(results: MatrixResults, extras: PageExtras) -> list[str]:
    """The agents in an order that gives them their colours; `unknown` is no agent's name and stands last."""
    metrics = {name for result in results.of(extras.arm or "") for row in result.metrics for name in row}
    names = {name.removeprefix("consults/") for name in metrics if name.startswith("consults/")}
    names |= set(agent_order(example.trace for example in extras.examples))
    return sorted(names, key=lambda name: (name == "unknown", name))
