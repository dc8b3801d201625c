"""The results of an evaluation as tables, on the terminal and in Markdown: scores, costs, and scores by labels of tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aipo.util.console import NumberTable, number_table

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""split → setting → result, as an evaluation's file has it; see `aipo.evaluate.pass_at_k.Evaluation`."""

_MEASURES = (("pass", "pass_at", "interval"), ("maj", "maj_at", "maj_interval"))
_COSTS = {
    "tokens": "tokens",
    "agent_tokens": "agents' tokens",
    "consults": "consults",
    "calls": "calls",
    "call_tokens_in": "tokens in",
    "call_tokens_out": "tokens out",
    "dollars": "dollars",
    "seconds": "seconds",
}


Column = tuple[str, Callable[[Mapping[str, Any]], str]]
"""Its title, and its cell of a result."""


class TextTable(NamedTuple):
    """A table of text; the first cell of a row names it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def table(results: Results) -> NumberTable:
    """pass@k and maj@k of every split and setting, with 95 % intervals, and how many rollouts failed."""
    return number_table(*_table("split, setting", _rows(results), [("failed", _failed)]))


def cost_table(results: Results) -> NumberTable | None:
    """What a rollout took, with its agents; None where no agent was asked."""
    asked = any(result["cost"]["consults"] for _, _, result in _each(results))
    return number_table(*costs(results), title="per rollout") if asked else None


def markdown(name: str, results: Results) -> str:
    """All tables of the evaluation called `name`."""
    parts = {
        "Scores": scores(results),
        "Per rollout": costs(results),
        **{f"By {label}": by_label(results, label) for label in _labels(results)},
    }
    text = "".join(f"\n## {title}\n\n{_lines(table)}" for title, table in parts.items())
    return f"# Evaluation {name}\n\nIntervals are 95 %, over clusters of tasks.\n{text}"


def scores(results: Results) -> TextTable:
    """A row for every split and setting; avg@n has as many samples as the column before it says."""
    counts = [("samples", lambda result: str(result["samples"])), ("avg@n", _average)]
    return _table("split, setting", _rows(results), [("failed", _failed)], counts)


def by_label(results: Results, label: str) -> TextTable:
    """A row for every value of a label, split and setting."""
    rows = [
        (f"{split}, {setting}, {value}", result)
        for split, setting, all_tasks in _each(results)
        for value, result in all_tasks["by"].get(label, {}).items()
    ]
    return _table(
        f"split, setting, {label}", rows, [], [("tasks", lambda r: str(r["tasks"])), ("avg@n", _average)]
    )


def costs(results: Results) -> TextTable:
    """What each rollout took on average; the tokens in and out are those of agents' calls, as their servers counted them."""
    rows = [
        (f"{split}, {setting}", *(_mean(result, name) for name in _COSTS))
        for split, setting, result in _each(results)
    ]
    return TextTable(("split, setting", *_COSTS.values()), rows)


def cell(value: float | None, interval: Sequence[float] | None) -> str:
    """A number and its interval, as tables show them."""
    if value is None:
        return "–"
    return f"{value:.3f}" + (f"  [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _table(
    name: str,
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    last: Sequence[Column],
    first: Sequence[Column] = (),
) -> TextTable:
    """Columns of pass@k and maj@k between others."""
    columns = [
        (f"{measure}@{k}", values, intervals, k)
        for measure, values, intervals in _MEASURES
        for k in sorted({k for _, result in rows for k in result.get(values, {})}, key=int)
    ]
    lines = [
        (
            text,
            *(value(result) for _, value in first),
            *(
                cell(result[values][k], result[intervals][k]) if k in result.get(values, {}) else ""
                for _, values, intervals, k in columns
            ),
            *(value(result) for _, value in last),
        )
        for text, result in rows
    ]
    titles = (
        *(title for title, _ in first),
        *(title for title, *_ in columns),
        *(title for title, _ in last),
    )
    return TextTable((name, *titles), lines)


def _failed(result: Mapping[str, Any]) -> str:
    return str(result["counts"]["failed"])


def _average(result: Mapping[str, Any]) -> str:
    return next(cell(value, result["avg_interval"][n]) for n, value in result["avg_at"].items())


def _rows(results: Results) -> list[tuple[str, Mapping[str, Any]]]:
    return [(f"{split}, {setting}", result) for split, setting, result in _each(results)]


def _each(results: Results) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    return (
        (split, setting, result)
        for split, settings in results.items()
        for setting, result in settings.items()
    )


def _labels(results: Results) -> list[str]:
    return [*dict.fromkeys(label for _, _, result in _each(results) for label in result["by"])]


def _mean(result: Mapping[str, Any], name: str) -> str:
    total, rollouts = result["cost"][name], sum(result["stops"].values())
    return "–" if total is None or not rollouts else f"{total / rollouts:,.4g}"


def _lines(table: TextTable) -> str:
    lines = [table.columns, ["---", *["--:" for _ in table.columns[1:]]], *table.rows]
    return "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |\n" for line in lines)
