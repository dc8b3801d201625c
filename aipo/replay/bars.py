"""Stacked bars as inline SVG: what each of several things is made of. `STYLE` and its colours are the page's to bring."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from aipo.render.charts import nice_ticks

WIDTH = 912
LEFT, RIGHT, TOP, BOTTOM, ROW, THICK = 20, 20, 56, 30, 44, 16
_LEGEND = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: its name and its parts. Parts below 0 are stacked to the left."""

    name: str
    parts: Mapping[str, float]


def bars(made: Sequence[Bar], *, title: str, colours: Mapping[str, str]) -> str:
    """The bars as an `<svg>` element.

    Args:
        colours: CSS class of each part, in the order in which parts are stacked.
    """
    # Shares that add up to 1 do so up to rounding.
    ends = [round(sum(v for v in bar.parts.values() if v * sign > 0), 3) for bar in made for sign in (1, -1)]
    ticks = nice_ticks(min([0.0, *ends]), max([1.0, *ends]))
    low, high = ticks[0], ticks[-1]
    height = TOP + ROW * len(made) + BOTTOM

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    grid = [
        f'<path class="grid" d="M{x(tick):.1f} {TOP}V{height - BOTTOM}"/>'
        f'<text class="mid" x="{x(tick):.1f}" y="{height - BOTTOM + 16}">{100 * tick:.0f} %</text>'
        for tick in ticks
    ]
    marks = [mark for i, bar in enumerate(made) for mark in _bar(bar, TOP + ROW * i, x, colours)]
    axis = f'<path class="axis" d="M{x(0):.1f} {TOP}V{height - BOTTOM}"/>'
    head = f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>'
    return (
        f'<svg class="chart bars" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{head}{_legend(colours)}{''.join(grid)}{''.join(marks)}{axis}</svg>"
    )


def _bar(bar: Bar, top: float, x: Callable[[float], float], colours: Mapping[str, str]) -> list[str]:
    marks = [f'<text class="bar" x="{LEFT}" y="{top + 14}">{escape(bar.name)}</text>']
    ends = {1: 0.0, -1: 0.0}
    for part, css in colours.items():
        value = bar.parts.get(part, 0.0)
        sign = 1 if value >= 0 else -1
        first, last = sorted((ends[sign], ends[sign] + value))
        ends[sign] += value
        if x(last) - x(first) >= 0.1:
            said = f"<title>{escape(part)}: {100 * value:.1f} %</title>"
            marks.append(
                f'<rect class="{css}" x="{x(first):.1f}" y="{top + 20}" width="{x(last) - x(first):.1f}" '
                f'height="{THICK}">{said}</rect>'
            )
    return marks


def _legend(colours: Mapping[str, str]) -> str:
    drawn, at = "", float(LEFT)
    for part, css in colours.items():
        drawn += f'<rect class="{css}" x="{at:.0f}" y="30" width="10" height="10"/><text x="{at + 15:.0f}" y="39">{escape(part)}</text>'
        at += _LEGEND + 15 + 6.5 * len(part)
    return drawn


_COLOURS = ("c0", "c1", "c2", "c3", "c4", "c5", "k0", "k1", "k2", "k3", "k4", "k5")
STYLE = ".bars .bar{fill:var(--ink);font-size:12px}" + "".join(
    f".bars rect.{c}{{fill:var(--{c})}}" for c in _COLOURS
)
"""Style sheet of the bars, on top of that of charts."""
