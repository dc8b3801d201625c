"""The standings of a matrix as tables in the terminal."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from aipo.compare.matrix import Matrix, Measure
from aipo.compare.results import Cost, MatrixResults
from aipo.compare.sections import BEFORE, SETTINGS
from aipo.compare.standings import Standing, Standings
from aipo.evaluate.statistics import Estimate

RULE = "the simplest arm among those that tie with the best"
_FULL_WIDTH = 120
"""Width of the whole table. A narrower terminal gets fewer columns; the report has them all."""
_COSTS = ("tokens", "agent calls", "minutes")
_WIDE = ("least – most", *_COSTS)
_SIGNS = {"better": "▲", "worse": "▼", "tie": "=", None: ""}
_STYLES = {"better": "green", "worse": "red", "tie": "", None: "dim"}


def print_standings(matrix: Matrix, results: MatrixResults, standings: Standings, console: Console) -> None:
    """Two tables, the winner, caveats and missing runs."""
    narrow = console.width < _FULL_WIDTH
    console.print(_main_table(matrix, standings, narrow=narrow))
    console.print(
        f"Seeds: {', '.join(map(str, matrix.seeds))}. Brackets after a mean are 95 %, bootstrapped over seeds and clusters of tasks. "
        f"Differences to {matrix.reference} are paired by task and seed; a tie is an interval with 0 in it.",
        style="dim",
        highlight=False,
    )
    others = [measure for measure in shown_measures(matrix.measures) if measure != matrix.measure]
    for _, measures in groupby(others, key=lambda measure: measure.split if narrow else ""):
        console.print(_other_table(list(measures), standings))
    won = standings.winner
    if won is not None:
        equals = [name for name in won.tied if name != won.name]
        tied = f"ties with {', '.join(equals)}; {RULE}" if equals else "alone at the top"
        console.print(f"winner    [bold]{won.name}[/bold]  ({tied})", highlight=False)
    else:
        console.print(no_winner(matrix), highlight=False)
    for caveat in standings.caveats:
        line = f"{caveat.kind:<9} {caveat.arm}: {caveat.text}"
        console.print(line, style="yellow", markup=False, highlight=False)
    for arm, seeds, why in results.gaps:
        line = f"missing   {arm} {', '.join(map(str, seeds))}: {why}"
        console.print(line, style="yellow", markup=False, highlight=False)


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


def _main_table(matrix: Matrix, standings: Standings, *, narrow: bool) -> Table:
    table = Table(title=measure_label(matrix.measure), title_style="bold")
    names = [
        "arm",
        "seeds",
        "median",
        "least – most",
        "mean",
        f"difference to {matrix.reference}",
        "",
        *_COSTS,
    ]
    for name in (kept := [name for name in names if not (narrow and name in _WIDE)]):
        table.add_column(name, justify="left" if name in ("arm", "") else "right", overflow="fold")
    for arm in standings.arms:
        standing = standings.of[matrix.measure, arm]
        value = standing.estimate
        if value is None:
            continue
        won = standings.winner is not None and standings.winner.name == arm
        cost = standings.costs.get(arm)
        cells = (
            f"{arm} ★" if won else arm,
            f"{len(value.by_seed)}/{len(matrix.seeds)}",
            f"{value.median:.3f}",
            f"{value.least:.3f} – {value.most:.3f}",
            *(
                text.replace(" [", "\n[") if narrow else text
                for text in (with_interval(value), with_interval(standing.difference, sign=True))
            ),
            standing.verdict or "",
            *(amounts(cost) if cost else ("", "", "")),
        )
        row = dict(zip(names, cells, strict=True))
        table.add_row(*map(row.__getitem__, kept), style="bold" if won else "dim" if arm == BEFORE else "")
    return table


def _other_table(measures: Sequence[Measure], standings: Standings) -> Table:
    """Means under other measures, with a mark where the difference to the reference is no tie."""
    table = Table(title="mean, and better ▲ or worse ▼ than the reference", title_style="bold")
    table.add_column("arm", overflow="fold")
    for measure in measures:
        table.add_column(f"{measure.split}\n{measure.setting} @{measure.k}", justify="right")
    for arm in standings.arms:
        cells = [standings.of[measure, arm] for measure in measures]
        table.add_row(
            arm, *(_mean_and_sign(standing) for standing in cells), style="dim" if arm == BEFORE else ""
        )
    return table


def _mean_and_sign(standing: Standing) -> str:
    if standing.estimate is None:
        return "–"
    sign, style = _SIGNS[standing.verdict], _STYLES[standing.verdict]
    return f"{standing.estimate.mean:.3f} [{style or 'none'}]{sign or ' '}[/]"


def shown_measures(measures: Sequence[Measure]) -> list[Measure]:
    """The smallest and the largest k of each split and setting; with agents only the smallest k."""
    places = dict.fromkeys((m.split, m.setting) for m in measures)
    chosen: list[Measure] = []
    for split, setting in places:
        ks = [m.k for m in measures if (m.split, m.setting) == (split, setting)]
        for k in sorted({min(ks)} if setting == "assisted" else {min(ks), max(ks)}):
            chosen.append(Measure(split=split, setting=setting, k=k))
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
    return (
        short_amount(cost.generated_tokens),
        short_amount(cost.agent_calls),
        f"{cost.train_seconds / 60:.1f}",
    )


def short_amount(amount: float) -> str:
    """'950', '12.3k' or '4.56M'"""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if amount >= size:
            return f"{amount / size:.3g}{unit}"
    return f"{amount:.0f}"
