"""A line chart as inline SVG: no library, no script; `STYLE` and its colours are the page's to bring.

Written out by hand so that one drawing follows the reader's light or dark theme and stays a few
kilobytes. Lines carry their names at the right end; a chart needs no legend to be read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

WIDTH, HEIGHT = 460, 276
LEFT, RIGHT, TOP, BOTTOM = 34, 82, 50, 42
_LABEL_GAP = 14.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One named line.

    Args:
        name: written at the line's end.
        colour: CSS class of the line.
        x, y: points in order; None in `y` is a gap.
        band: (low, high) around each point, or none.
        raw: the same line before smoothing, drawn faintly behind it.
        joined: else its points are dots that no line goes through.
    """

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float | None]
    band: Sequence[tuple[float, float]] = ()
    raw: Sequence[float | None] = ()
    joined: bool = True


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps data to the pixels of a chart of `wide` × `high`. `log` counts the horizontal axis in doublings, for pass@k."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool
    wide: float
    high: float
    names: float

    @property
    def right(self) -> float:
        return self.wide - self.names

    def x(self, value: float) -> float:
        low, high, at = (math.log2(v) if self.log else v for v in (self.x_low, self.x_high, value))
        return LEFT + (at - low) / (high - low) * (self.right - LEFT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return self.high - BOTTOM - share * (self.high - TOP - BOTTOM)


def chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    log: bool = False,
    size: tuple[float, float] = (WIDTH, HEIGHT),
    names: float = RIGHT,
) -> str:
    """The chart as an `<svg>` element; `names` is the room for the lines' names, on the right.

    `x_range` is what the horizontal axis has to hold at least, so that small multiples share it; `y_range`
    is what the vertical one shows, to the next round number; else it starts at 0.
    """
    wide, high = size
    seen = [line for line in lines if any(v is not None for v in line.y)]
    if not seen:
        nothing = f'<text class="empty" x="{wide / 2}" y="{high / 2}">nothing recorded</text>'
        return _svg(title, y_label, [nothing], size)
    xs = [*(x_range or ()), *(v for line in seen for v in line.x)]
    ticks = sorted(set(xs)) if log else _ticks(xs)
    heights = nice_ticks(*(y_range or (0.0, max(v for line in seen for v in line.y if v is not None))))
    right = max(xs) if max(xs) > min(xs) else min(xs) + 1.0
    frame = _Frame(min(xs), right, heights[0], heights[-1], log, wide, high, names)
    axes = _axes(frame, ticks, heights, x_label)
    marks = [mark for line in seen for mark in _marks(frame, line)]
    return _svg(title, y_label, [*axes, *marks, *_names(frame, seen)], size)


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, at steps of 1, 2 or 5 × 10ⁿ."""
    size = max(abs(low), abs(high), 1.0)
    span = high - low if high - low > 1e-9 * size else size  # a range that nobody could see is a point
    rough = span / about
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1.0, 2.0, 5.0, 10.0) if m * scale >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _ticks(xs: Sequence[float]) -> list[float]:
    """Ticks for `xs`; between whole numbers, such as steps, there is nothing to mark."""
    ticks = nice_ticks(min(xs), max(xs))
    return [tick for tick in ticks if tick.is_integer()] if all(x == int(x) for x in xs) else ticks


def smooth(values: Sequence[float | None], window: int) -> list[float | None]:
    """Centred moving average over `window` (odd) neighbours; gaps stay gaps and count nowhere."""
    half = window // 2
    averages: list[float | None] = []
    for i, value in enumerate(values):
        near = [v for v in values[max(0, i - half) : i + half + 1] if v is not None]
        averages.append(None if value is None else sum(near) / len(near))
    return averages


def _svg(title: str, y_label: str, parts: Sequence[str], size: tuple[float, float]) -> str:
    head = f'<text class="title" x="0" y="14">{escape(title)}</text><text class="label" x="0" y="33">{escape(y_label)}</text>'
    return (
        f'<svg class="chart" viewBox="0 0 {size[0]:g} {size[1]:g}" role="img" aria-label="{escape(title)}">'
        f"{head}{''.join(parts)}</svg>"
    )


def _axes(frame: _Frame, ticks_x: Sequence[float], ticks_y: Sequence[float], x_label: str) -> list[str]:
    parts: list[str] = []
    for tick in ticks_y:
        y = frame.y(tick)
        kind = "axis" if tick == frame.y_low else "grid"
        parts.append(f'<path class="{kind}" d="M{LEFT} {y:.1f}H{frame.right:g}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{tick:g}</text>')
    for tick in ticks_x:
        if frame.x_low <= tick <= frame.x_high:
            parts.append(
                f'<text class="tick mid" x="{frame.x(tick):.1f}" y="{frame.high - BOTTOM + 17:g}">{tick:g}</text>'
            )
    middle = (LEFT + frame.right) / 2
    parts.append(f'<text class="label mid" x="{middle:.1f}" y="{frame.high - 6:g}">{escape(x_label)}</text>')
    return parts


def _marks(frame: _Frame, line: Line) -> list[str]:
    parts: list[str] = []
    if line.band:
        pairs = list(zip(line.x, line.band, strict=True))
        there = [f"{frame.x(x):.1f} {frame.y(high):.1f}" for x, (_, high) in pairs]
        back = [f"{frame.x(x):.1f} {frame.y(low):.1f}" for x, (low, _) in reversed(pairs)]
        parts.append(f'<path class="band {line.colour}" d="M{"L".join([*there, *back])}Z"/>')
    if line.raw:
        parts.append(f'<path class="raw {line.colour}" d="{_path(frame, line.x, line.raw)}"/>')
    if line.joined:
        parts.append(f'<path class="line {line.colour}" d="{_path(frame, line.x, line.y)}"/>')
    if len(line.x) <= 8 or not line.joined:
        dots = [(frame.x(x), frame.y(y)) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        parts += [f'<circle class="dot {line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in dots]
    return parts


def _path(frame: _Frame, x: Sequence[float], y: Sequence[float | None]) -> str:
    drawn, pen = "", "M"
    for at, value in zip(x, y, strict=True):
        if value is None:
            pen = "M"
            continue
        drawn += f"{pen}{frame.x(at):.1f} {frame.y(value):.1f}"
        pen = "L"
    return drawn


def _names(frame: _Frame, lines: Sequence[Line]) -> list[str]:
    """Names at the lines' ends, pushed apart where they would overlap."""
    ends = [_end(line) for line in lines]
    order = sorted(range(len(lines)), key=lambda i: frame.y(ends[i]))
    spots = spread([frame.y(ends[i]) for i in order], _LABEL_GAP, TOP, frame.high - BOTTOM)
    return [
        f'<text class="name {lines[i].colour}" x="{frame.right + 8:g}" y="{spot + 4:.1f}">{escape(lines[i].name)}</text>'
        for i, spot in zip(order, spots, strict=True)
    ]


def _end(line: Line) -> float:
    """Where a name belongs: at the end of a line, in the middle of dots."""
    values = [value for value in line.y if value is not None]
    return values[-1] if line.joined else median(values)


def spread(spots: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted `spots` moved as little as a sweep down and a sweep up need for `gap` between neighbours."""
    moved: list[float] = []
    for spot in spots:
        moved.append(max(spot, moved[-1] + gap if moved else low))
    ceiling = high
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


COLUMNS = 12
_COLOURS = (*(f"c{i}" for i in range(COLUMNS)), "k0", "k1", "k2", "k3", "k4", "k5")
LOOK = (
    '.chart text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:var(--soft)}'
    ".chart .title{font-size:13px;font-weight:600;fill:var(--ink)}.chart .name{font-size:12px;font-weight:600;stroke:none}"
    ".chart .mid,.chart .empty{text-anchor:middle}.chart .end{text-anchor:end}"
    ".chart .grid{stroke:var(--line)}.chart .axis{stroke:var(--soft)}"
    ".chart .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}"
    ".chart .raw{fill:none;stroke-width:1;opacity:.28}.chart .band{stroke:none;opacity:.14}"
    ".chart .dot{stroke:var(--page);stroke-width:1.5}"
    + "".join(
        f".chart :is(.line,.raw).{c}{{stroke:var(--{c})}}.chart :is(.name,.band,.dot).{c}{{fill:var(--{c})}}"
        for c in _COLOURS
    )
    + ".chart .line.c0{stroke-dasharray:2 5}"
    + f".chart .line:is({','.join(f'.c{i}' for i in range(6, COLUMNS))}){{stroke-dasharray:7 4}}"
)
"""How charts look. The page brings the colours: --page, --ink, --soft, --line and those of the lines."""
STYLE = ".chart{width:100%;height:auto;display:block}" + LOOK
"""Style sheet of every chart on a page: it is as wide as its place."""
