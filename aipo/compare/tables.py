"""Tables: the standings of a matrix, and two evaluations side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from aipo.compare.matrix import Matrix, Measure
from aipo.compare.paired import PairedEvaluations, PairedMeasure, TaskPair
from aipo.compare.results import Cost, MatrixResults
from aipo.compare.sections import SETTINGS
from aipo.compare.standings import Standing, Standings
from aipo.evaluate.statistics import Estimate
from aipo.util.console import NumberTable, number_table, print_line

RULE = "the simplest arm among those that tie with the best"
SIGNS = {"better": "▲", "worse": "▼"}
PAIRED = (
    "Differences are paired by task; brackets are 95 %, bootstrapped over clusters of tasks, without how seeds of training "
    "differ. ▲ is better and ▼ worse: the interval leaves 0 out. A task is right where at least half of its verdicts are."
)


def print_standings(matrix: Matrix, results: MatrixResults, standings: Standings, console: Console) -> None:
    """Tables, the winner, caveats and missing runs."""
    for table in _tables(matrix, standings):
        console.print(table)
    console.print(
        f"Seeds: {', '.join(map(str, matrix.seeds))}. Brackets after a mean are 95 %, bootstrapped over seeds and clusters of tasks. "
        f"Differences to {matrix.reference} are paired by task and seed; a tie is an interval with 0 in it, ▲ is better and ▼ worse.",
        style="dim",
        highlight=False,
    )
    won = standings.winner
    if won is not None:
        equals = [name for name in won.tied if name != won.name]
        tied = f"ties with {', '.join(equals)}; {RULE}" if equals else "alone at the top"
        console.print(Text.assemble("winner    ", (won.name, "bold"), f"  ({tied})"), soft_wrap=True)
    else:
        console.print(no_winner(matrix), highlight=False)
    for caveat in standings.caveats:
        print_line(console, f"{caveat.kind:<9} {caveat.arm}: {caveat.text}", "yellow")
    for gap in results.gaps:
        print_line(console, f"missing   {gap}", "yellow")


def no_winner(matrix: Matrix) -> str:
    """The reason why there is no winner."""
    return (
        "no winner yet: not every arm has all of its seeds"
        if len(matrix.seeds) > 1
        else "no winner: one seed tells no spread"
    )


def measure_label(measure: Measure, split_names: Mapping[str, str] | None = None) -> str:
    """'heldout, solo, pass@1'

    Args:
        split_names: what to call a split instead of its name.
    """
    split = (split_names or {}).get(measure.split, measure.split)
    return f"{split}, {SETTINGS[measure.setting]}, pass@{measure.k}"


def _tables(matrix: Matrix, standings: Standings) -> Iterator[NumberTable]:
    """The measure that decides, spread and costs, and the other measures split by split; each fits 80 columns."""
    means, costs = list[Sequence[str]](), list[Sequence[str]]()
    for arm in standings.arms:
        standing = standings.of[matrix.measure, arm]
        value, cost = standing.estimate, standings.costs.get(arm)
        if value is None:
            continue
        won = standings.winner is not None and standings.winner.name == arm
        name, seeds = f"{arm} ★" if won else arm, f"{len(value.by_seed)}/{len(matrix.seeds)}"
        difference = with_interval(standing.difference, sign=True)
        means.append((name, seeds, with_interval(value), difference, standing.verdict or ""))
        spread = (f"{value.median:.3f}", f"{value.least:.3f} – {value.most:.3f}")
        costs.append((name, *spread, *(amounts(cost) if cost else ("", "", ""))))
    title = measure_label(matrix.measure)
    yield number_table(("arm", "seeds", "mean", "difference", ""), means, title=title)
    yield number_table(("arm", "median", "least – most", "tokens", "agent calls", "minutes"), costs)
    others = [measure for measure in shown_measures(matrix.measures) if measure != matrix.measure]
    for split, group in groupby(others, key=lambda measure: measure.split):
        measures = list(group)
        rows = [
            (arm, *(_mean_and_sign(standings.of[measure, arm]) for measure in measures))
            for arm in standings.arms
        ]
        yield number_table(("arm", *(f"{m.setting} @{m.k}" for m in measures)), rows, title=split)


def _mean_and_sign(standing: Standing) -> str:
    if standing.estimate is None:
        return "–"
    return f"{standing.estimate.mean:.3f} {SIGNS.get(standing.verdict or '', ' ')}"


def shown_measures(measures: Sequence[Measure]) -> list[Measure]:
    """The smallest and the largest k of each split and setting; with agents only the smallest k."""
    chosen: list[Measure] = []
    for (_, setting), group in groupby(measures, key=lambda measure: (measure.split, measure.setting)):
        first, *others = group
        chosen += [first] if setting == "assisted" else [first, *others[-1:]]
    return chosen


def with_interval(value: Estimate | None, *, sign: bool = False) -> str:
    """'0.889 [0.87, 0.91]'"""
    if value is None:
        return "–"
    number = f"{value.mean:+.3f}" if sign else f"{value.mean:.3f}"
    if value.interval is None:
        return number
    low, high = (f"{end:+.3f}" if sign else f"{end:.3f}" for end in value.interval)
    return f"{number} [{low}, {high}]"


def amounts(cost: Cost) -> tuple[str, str, str]:
    """Generated tokens, agents' calls and minutes."""
    names = efforts(cost)
    return names["tokens generated"], names["agents' calls"], names["minutes"]


def efforts(cost: Cost) -> dict[str, str]:
    """All that training took, by name."""
    return {
        "rollouts": short_amount(cost.rollouts),
        "tokens generated": short_amount(cost.generated_tokens),
        "consults": short_amount(cost.consults),
        "agents' calls": short_amount(cost.agent_calls),
        "agents' tokens": short_amount(cost.agent_tokens),
        "agents' seconds": f"{cost.agent_seconds:.1f}",
        "minutes": f"{cost.train_seconds / 60:.1f}",
    }


def budget(matrix: Matrix) -> str:
    """Whether all arms make the same rollouts and optimizer steps; empty where they do not."""
    budgets = {
        arm: [
            (train.steps, train.tasks_per_step, train.group_size, train.steps * train.optimizer_steps)
            for train in (stage.experiment.train for stage in matrix.cell(arm, matrix.seeds[0]).stages)
        ]
        for arm in matrix.arms
    }
    first, *others = budgets.values()
    if any(other != first for other in others):
        return ""
    rollouts = sum(steps * tasks * size for steps, tasks, size, _ in first)
    updates = sum(optimizer_steps for *_, optimizer_steps in first)
    return f"Every arm has the same budget: {rollouts:,} rollouts and {updates:,} optimizer steps. What agents do comes on top."


def print_paired(result: PairedEvaluations, limit: int, console: Console) -> None:
    """The two names, the tables and caveats.

    Args:
        limit: the most tasks that are listed of those that turned right, and wrong.
    """
    for side, one in (("A", result.before), ("B", result.after)):
        print_line(console, f"{side:<9} {one.label}")
    for table in _paired_tables(result, limit):
        console.print(table)
    print_line(console, turned_line(result))
    print_line(console, PAIRED, "dim")
    for caveat in result.caveats:
        print_line(console, f"{'caveat':<9} {caveat}", "yellow")


def paired_markdown(result: PairedEvaluations, limit: int) -> str:
    """The same as Markdown."""
    parts = [
        f"A: `{result.before.label}`, B: `{result.after.label}`",
        *(table.markdown() for table in _paired_tables(result, limit)),
        turned_line(result),
        PAIRED,
        *(f"**Caveat:** {caveat}" for caveat in result.caveats),
    ]
    return "\n\n".join(parts)


def paired_json(result: PairedEvaluations) -> dict[str, Any]:
    """All of it as JSON holds it."""
    return {
        "a": result.before.label,
        "b": result.after.label,
        "measures": [_measure_json(measure) for measure in result.measures],
        "turned": {way: [_pair_json(pair) for pair in result.turned(way)] for way in ("right", "wrong")},
        "caveats": list(result.caveats),
    }


def _measure_json(measure: PairedMeasure) -> dict[str, Any]:
    values = {"a": measure.before, "b": measure.after, "difference": measure.difference}
    return {
        **measure.place._asdict(),
        "measure": measure.name,
        **{name: {"mean": value.mean, "interval": value.interval} for name, value in values.items()},
        "verdict": measure.verdict,
        "tasks": measure.tasks,
    }


def _pair_json(pair: TaskPair) -> dict[str, Any]:
    return {
        **pair.place._asdict(),
        "task_id": pair.before.task_id,
        "change": pair.change,
        "a": asdict(pair.before),
        "b": asdict(pair.after),
    }


def turned_line(result: PairedEvaluations) -> str:
    """'Of 24 tasks under a setting 3 turned right and 1 wrong.'"""
    right, wrong = (len(result.turned(way)) for way in ("right", "wrong"))
    return f"Of {len(result.pairs):,} tasks under a setting {right:,} turned right and {wrong:,} wrong."


def _paired_tables(result: PairedEvaluations, limit: int) -> Iterator[NumberTable]:
    rows = [
        (
            f"{measure.place}, {measure.name}",
            f"{measure.before.mean:.3f}",
            f"{measure.after.mean:.3f}",
            with_interval(measure.difference, sign=True),
            SIGNS.get(measure.verdict or "", ""),
            str(measure.tasks),
        )
        for measure in result.measures
    ]
    yield number_table(("", "A", "B", "B − A", "", "tasks"), rows)
    for way in ("wrong", "right"):
        if shown := result.turned(way)[:limit]:
            yield number_table((f"turned {way}", "A", "B", "change"), map(_turned_row, shown))


def _turned_row(pair: TaskPair) -> Sequence[str]:
    sides = (f"{task.correct} of {task.verdicts}" for task in (pair.before, pair.after))
    return (f"{pair.before.task_id} ({pair.place})", *sides, f"{pair.change:+.2f}")


def short_amount(amount: float) -> str:
    """'950', '12.3k' or '4.56M'"""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if amount >= size:
            return f"{amount / size:.3g}{unit}"
    return f"{amount:.0f}"
