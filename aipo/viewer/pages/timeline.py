"""The timeline of a rollout: a lane per node, a bar per visit, and the calls of an agent inside its bar.

Bars lead to the segments that their visit made. What never ended runs to the end of the rollout and is torn
off there; what failed is outlined and crossed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest

from aipo.render.charts import nice_ticks
from aipo.render.spans import text_spans
from aipo.trace import Call, Trace
from aipo.util.text import counted, cut, duration, visible
from aipo.viewer.pages.visits import Station

_WIDTH, _ROW, _BAR, _AXIS = 480.0, 24.0, 16.0, 26.0
_LETTER, _INDENT, _LONGEST = 6.6, 12.0, 22


@dataclass(frozen=True, slots=True)
class Lane:
    """Visits of one node; those that ran side by side are in different rows."""

    path: str
    rows: tuple[tuple[Station, ...], ...]

    @property
    def depth(self) -> int:
        return self.path.count("/")

    @property
    def label(self) -> str:
        name = "outside of every node" if self.path == "?" else self.path.rpartition("/")[2]
        return cut(visible(name), _LONGEST)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Seconds to pixels."""

    left: float
    seconds: float

    def x(self, at: float) -> float:
        return self.left + min(max(at, 0.0), self.seconds) / self.seconds * (_WIDTH - self.left - 8)


def timeline_svg(trace: Trace, stops: Sequence[Station], agents: Sequence[str] = ()) -> str:
    """The timeline as one `<svg>`, or nothing where nothing was visited. `agents` fixes the colours."""
    if not stops:
        return ""
    lanes = lanes_of(stops)
    left = max(len(lane.label) * _LETTER + lane.depth * _INDENT for lane in lanes) + 12
    scale = _Scale(left, _end(trace, stops))
    rows = sum(len(lane.rows) for lane in lanes)
    high = rows * _ROW + _AXIS
    body = [*_axis(scale, rows * _ROW)]
    colours = [piece.colour for piece in text_spans(trace, lambda _: "", agents)]
    top = 0.0
    for lane in lanes:
        body += _lane(lane, scale, top, colours)
        top += len(lane.rows) * _ROW
    return (
        f'<svg class="timeline" viewBox="0 0 {_WIDTH:.0f} {high:.0f}" role="group" '
        f'aria-label="when each node ran">{"".join(body)}</svg>'
    )


def lanes_of(stops: Sequence[Station]) -> list[Lane]:
    """A lane for each node in the order of first visits, nodes of a sub-graph below the node that runs it."""
    first: dict[str, int] = {}
    for number, station in enumerate(stops):
        first.setdefault(station.visit.path, number)

    def place(path: str) -> tuple[int, ...]:
        parts = path.split("/")
        return tuple(first.get("/".join(parts[:depth]), first[path]) for depth in range(1, len(parts) + 1))

    by_node = {path: [s for s in stops if s.visit.path == path] for path in sorted(first, key=place)}
    return [Lane(path, _rows(stops)) for path, stops in by_node.items()]


def _rows(stops: Sequence[Station]) -> tuple[tuple[Station, ...], ...]:
    rows: list[list[Station]] = []
    for station in stops:
        free = (row for row in rows if row[-1].end <= station.visit.started + 1e-6)
        row = next(free, None)
        if row is None:
            rows.append([station])
        else:
            row.append(station)
    return tuple(tuple(row) for row in rows)


def _end(trace: Trace, stops: Sequence[Station]) -> float:
    calls = [c.started + c.seconds for s in stops for c in s.visit.calls]
    ends = [s.visit.started + (s.visit.seconds or 0.0) for s in stops]
    return max([trace.seconds, *calls, *ends]) or 1.0


def _axis(scale: _Scale, floor: float) -> Iterable[str]:
    factor, unit = (1.0, "s") if scale.seconds >= 1.0 else (1e3, "ms")
    ticks = [tick for tick in nice_ticks(0.0, scale.seconds * factor) if tick <= scale.seconds * factor]
    for tick in ticks:
        x = scale.x(tick / factor)
        last = f" {unit}" if tick == ticks[-1] else ""
        yield f'<path class="grid" d="M{x:.1f} 0V{floor:.1f}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{floor + 17:.1f}">{tick:g}{last}</text>'


def _lane(lane: Lane, scale: _Scale, top: float, colours: Sequence[str]) -> Iterable[str]:
    x = lane.depth * _INDENT
    kind = "lane inner" if lane.depth else "lane"
    yield f'<text class="{kind}" x="{x:.1f}" y="{top + _ROW / 2 + 4:.1f}">{escape(lane.label)}</text>'
    for row in lane.rows:
        for station, following in zip_longest(row, row[1:]):
            end = _WIDTH if following is None else scale.x(following.visit.started)
            yield _bar(station, colours, scale, top + (_ROW - _BAR) / 2, end)
        top += _ROW


def _bar(station: Station, colours: Sequence[str], scale: _Scale, top: float, end: float) -> str:
    """A bar for a visit, in the colour of the segment that it made, grey for none. A note ends before `end`."""
    visit, x = station.visit, scale.x(station.visit.started)
    wide, middle = max(scale.x(station.end) - x, 2.0), top + _BAR / 2 + 4
    css = f"bar {colours[station.segments[0]] if station.segments else 'none'}{' failed' * station.failed}"
    outline = _torn(x, top, wide) if visit.seconds is None else _whole(x, top, wide)
    body = f'<path class="{css}" d="{outline}"/>' + "".join(
        _call(call, scale, x, top) for call in visit.calls
    )
    spent = "" if visit.seconds is None else duration(visit.seconds)
    reach = max(wide, 6.0)  # a bar may be two pixels wide; whoever points at it or its note means it
    if spent and len(spent) * 6 <= end - x - wide - 8:
        reach += 4 + len(spent) * 7
        body += f'<text class="note" x="{x + wide + 4:.1f}" y="{middle:.1f}">{spent}</text>'
    if station.failed:
        body += f'<text class="cross" x="{x + wide / 2:.1f}" y="{middle:.1f}">✗</text>'
    tag, link = ("a", f' href="{station.href}"') if station.href else ("g", "")
    node = escape(visible(visit.path.replace("/", ":")))
    area = f'<path class="reach" d="{_whole(x, top, reach)}"/>'
    return f'<{tag}{link} data-node="{node}"><title>{_title(station)}</title>{area}{body}</{tag}>'


def _title(station: Station) -> str:
    visit = station.visit
    when = f"from {duration(visit.started)}"
    spent = f"{duration(visit.seconds)} {when}" if visit.seconds is not None else f"never ended, {when}"
    calls = f", {counted(len(visit.calls), 'call')}" if visit.calls else ""
    outcome = f"; {visit.outcome[:300]}" if station.failed else ""
    return escape(visible(f"{visit.path}: {spent}{calls}{outcome}"))


def _call(call: Call, scale: _Scale, left: float, top: float) -> str:
    x = max(scale.x(call.started), left)
    wide = max(scale.x(call.started + call.seconds) - x, 2.0)
    facts = [f"call of {call.model}: {duration(call.seconds)}"]
    facts += [f"{call.attempts} attempts"] * (call.attempts > 1) + ["cached"] * call.cached
    facts += ["cut by its server"] * call.cut
    facts += [call.error[:300]] if call.error else []
    css = "call failed" if call.error else "call"
    title = escape(visible(", ".join(facts)))
    return f'<g><title>{title}</title><path class="{css}" d="M{x:.1f} {top + _BAR - 5:.1f}h{wide:.1f}v3h-{wide:.1f}z"/></g>'


def _whole(x: float, top: float, wide: float) -> str:
    return f"M{x:.1f} {top:.1f}h{wide:.1f}v{_BAR}h-{wide:.1f}z"


def _torn(x: float, top: float, wide: float) -> str:
    teeth = "".join(f"l{-4 if i % 2 else 4} {_BAR / 4}" for i in range(4))
    return f"M{x:.1f} {top:.1f}h{wide - 4:.1f}{teeth}h-{wide - 4:.1f}z" if wide > 8 else _whole(x, top, wide)
