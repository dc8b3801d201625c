"""Tables of results: settings side by side, what agents cost, scores by label."""

from typing import Any

from rich.console import Console

from aipo.evaluate.tables import cost_table, markdown, table


def curves(value: float) -> dict[str, Any]:
    return {
        "pass_at": {"1": value, "4": 1.0},
        "interval": {"1": [0.25, 0.75], "4": None},
        "avg_at": {"4": value},
        "avg_interval": {"4": None},
        "maj_at": {"4": None},
        "maj_interval": {"4": None},
    }


def result(value: float, **cost: float | None) -> dict[str, Any]:
    zero = dict.fromkeys(
        ("tokens", "agent_tokens", "consults", "calls", "call_tokens_in", "call_tokens_out"), 0
    )
    return {
        **curves(value),
        "samples": 4,
        "counts": {"failed": 1},
        "stops": {"eos": 7, "error": 1},
        "cost": {**zero, "seconds": 16.0, "dollars": None, **cost},
        "by": {"level": {"a|b": {"tasks": 2, **curves(value)}}},
    }


RESULTS = {
    "math500": {
        "solo": result(0.5, tokens=800),
        "assisted": result(0.75, tokens=1200, consults=8, calls=12, call_tokens_out=4000, dollars=0.4),
    }
}
PAGE = r"""# Evaluation mine

Intervals are 95 %, over clusters of tasks.

## Scores

| split, setting | samples | avg@n | pass@1 | pass@4 | maj@4 | failed |
| --- | --: | --: | --: | --: | --: | --: |
| math500, solo | 4 | 0.500 | 0.500  [0.25, 0.75] | 1.000 | – | 1 |
| math500, assisted | 4 | 0.750 | 0.750  [0.25, 0.75] | 1.000 | – | 1 |

## Per rollout

| split, setting | tokens | agents' tokens | consults | calls | tokens in | tokens out | dollars | seconds |
| --- | --: | --: | --: | --: | --: | --: | --: | --: |
| math500, solo | 100 | 0 | 0 | 0 | 0 | 0 | – | 2 |
| math500, assisted | 150 | 0 | 1 | 1.5 | 0 | 500 | 0.05 | 2 |

## By level

| split, setting, level | tasks | avg@n | pass@1 | pass@4 | maj@4 |
| --- | --: | --: | --: | --: | --: |
| math500, solo, a\|b | 2 | 0.500 | 0.500  [0.25, 0.75] | 1.000 | – |
| math500, assisted, a\|b | 2 | 0.750 | 0.750  [0.25, 0.75] | 1.000 | – |
"""


def test_all_tables_in_markdown() -> None:
    assert markdown("mine", RESULTS) == PAGE


def test_costs_are_shown_where_agents_were_asked() -> None:
    console = Console(record=True, width=120, force_terminal=False)
    shown = cost_table(RESULTS)
    assert shown is not None
    console.print(table(RESULTS), shown)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["math500,", "solo", "0.500", "[0.25,", "0.75]", "1.000", "–", "1"] in lines
    assert ["math500,", "assisted", "150", "0", "1", "1.5", "0", "500", "0.05", "2"] in lines
    assert cost_table({"math500": {"solo": result(0.5)}}) is None
