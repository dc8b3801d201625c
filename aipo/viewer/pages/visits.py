"""The path of a trace through its graph: each visit, the visit around it, and the segments that it made.

A trace does not record which visit made which segment. Visits have paths, segments have sources, and both are in
the order of time: that is enough to match them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aipo.render.graph_layout import END, START, LitPath, NodeMark, lines_of, paths_of
from aipo.trace import Role, Segment, Trace, Visit
from aipo.util.text import duration

_SLACK = 1e-6  # seconds; an end is a sum of floats
_ROLE_NODES = {Role.PROMPT: "prompt", Role.POLICY: "policy", Role.TEACHER: "policy", Role.ENV: "notice"}


@dataclass(frozen=True, slots=True)
class Station:
    """A visit with the visit around it and its segments.

    Args:
        visit: as the trace has it.
        parent: number of the station in whose graph it happened, or None.
        segments: numbers of the segments that it made, or that the station around it made.
    """

    visit: Visit
    parent: int | None
    segments: tuple[int, ...]

    @property
    def href(self) -> str | None:
        return f"#s{self.segments[0]}" if self.segments else None

    @property
    def failed(self) -> bool:
        return self.visit.outcome != "ok"

    @property
    def end(self) -> float:
        return float("inf") if self.visit.seconds is None else self.visit.started + self.visit.seconds


def from_zero(trace: Trace) -> Trace:
    """The trace with times since its first visit, which may be its parent's."""
    earliest = min((visit.started for visit in trace.visits), default=0.0)
    if earliest >= 0:
        return trace
    visits = (
        replace(
            visit,
            started=visit.started - earliest,
            calls=tuple(replace(call, started=call.started - earliest) for call in visit.calls),
        )
        for visit in trace.visits
    )
    return replace(trace, visits=tuple(visits), seconds=trace.seconds - earliest)


def stations(trace: Trace) -> list[Station]:
    """Every visit of `trace`, in the order of beginning."""
    visits = sorted(trace.visits, key=lambda visit: visit.started)
    latest: dict[str, int] = {}
    parents: list[int | None] = []
    for number, visit in enumerate(visits):
        parents.append(latest.get(visit.path.rpartition("/")[0]))
        latest[visit.path] = number
    roots = [number for number, parent in enumerate(parents) if parent is None]
    segments_of = dict(zip(roots, _claims(trace, [visits[n].path for n in roots]), strict=True))
    stops: list[Station] = []
    for number, (visit, parent) in enumerate(zip(visits, parents, strict=True)):
        segments = segments_of[number] if parent is None else stops[parent].segments
        stops.append(Station(visit, parent, segments))
    return stops


def _claims(trace: Trace, nodes: Sequence[str]) -> list[tuple[int, ...]]:
    """The segments that each visit of the root graph made; both lists are walked side by side."""
    makers = [_makers(trace, number, piece) for number, piece in enumerate(trace.segments)]
    claims: list[tuple[int, ...]] = []
    at = 0
    for place, node in enumerate(nodes):
        while at < len(makers) and makers[at].isdisjoint(nodes[place:]):
            at += 1  # nobody who is still to come can have made it
        start, following = at, nodes[place + 1] if place + 1 < len(nodes) else None
        while at < len(makers) and node in makers[at] and (at == start or following not in makers[at]):
            at += 1
        claims.append(tuple(range(start, at)))
    return claims


def _makers(trace: Trace, number: int, piece: Segment) -> set[str]:
    """Names of the nodes that can have made a segment; where an agent fails, the notice node answers."""
    agents = {c.agent for c in trace.consults if c.reply_segment == number}
    usual = {_ROLE_NODES[piece.role]} if piece.role in _ROLE_NODES else set[str]()
    return {piece.source} | agents | usual


def path_through(stops: Sequence[Station], drawing: Mapping[str, Any]) -> tuple[LitPath, list[Station]]:
    """The highlighted part of a drawing, and the stations that are not in it."""
    drawn = {path.replace(":", "/"): path for path in paths_of(drawing)}
    by_node: dict[str, list[Station]] = defaultdict(list)
    for station in stops:
        if station.visit.path in drawn:
            by_node[drawn[station.visit.path]].append(station)
    edges = _taken(stops, drawn) & lines_of(drawing)
    marks = {path: _mark(path, visits) for path, visits in by_node.items()}
    ends = {path for edge in edges for path in edge if path.rpartition(":")[2] in (START, END)}
    strangers = [station for station in stops if station.visit.path not in drawn]
    return LitPath(marks=marks | {path: NodeMark() for path in ends}, edges=edges), strangers


def _taken(stops: Sequence[Station], drawn: Mapping[str, str]) -> set[tuple[str, str]]:
    """Pairs of nodes that were visited one right after the other, in every graph."""
    levels: dict[tuple[int | None, str], list[Station]] = defaultdict(list)
    for station in stops:
        if station.visit.path in drawn:
            graph = drawn[station.visit.path].rpartition(":")[0]
            levels[station.parent, graph].append(station)
    taken: set[tuple[str, str]] = set()
    for (_, graph), level in levels.items():
        before = [f"{graph}:{START}" if graph else START]
        wave: list[Station] = []
        for wave in _waves(level):
            nodes = [drawn[s.visit.path] for s in wave]
            taken |= {(a, b) for a in before for b in nodes}
            before = nodes
        if not any(s.failed for s in wave):
            taken |= {(a, f"{graph}:{END}" if graph else END) for a in before}
    return taken


def _waves(level: Sequence[Station]) -> list[list[Station]]:
    """Stations grouped by time: those of one group overlap, the next group begins after all of them ended."""
    waves: list[list[Station]] = []
    end = float("-inf")
    for station in level:
        if station.visit.started >= end - _SLACK:
            waves.append([])
        waves[-1].append(station)
        end = max(end, station.end)
    return waves


def _mark(path: str, stops: Sequence[Station]) -> NodeMark:
    count, failed = len(stops), sum(s.failed for s in stops)
    seconds = [s.visit.seconds for s in stops if s.visit.seconds is not None]
    spent = duration(sum(seconds)) if seconds else "never ended"
    times = "once" if count == 1 else f"{count} times"
    reasons = "; ".join(dict.fromkeys(s.visit.outcome[:200] for s in stops if s.failed))
    return NodeMark(
        note=("✗ " if failed else "") + (spent if count == 1 else f"{count}× {spent}"),
        title=f"{path.replace(':', '/')}: visited {times}, {spent}"
        + (f"; {failed} failed: {reasons}" if failed else ""),
        href=next((s.href for s in stops if s.href), None),
        failed=bool(failed),
    )
