"""Check: the first difference between a trace and its replay, in which only the recording answers.

Everything is compared but times: segments with their log-probs, consults, visits with their calls, reward
parts, reward, stop reason and error.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from aipo.replay.engine import TracePair
from aipo.replay.reuse import CALL
from aipo.trace import Call, Consult, Segment, Trace, Visit
from aipo.util.text import to_json

NO_TRACE = "no trace came out"
_TIMES = re.compile(r"\(elapsed: [0-9.]+s\)")  # in the text of LangGraph's time-outs
_UNTIMED = tuple(name for name in Call.__dataclass_fields__ if name not in ("started", "seconds"))


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference between a trace and its replay: `where` in the trace, and `what`."""

    trace_id: str
    where: str
    what: str


def divergence(pair: TracePair) -> Divergence | None:
    """The first difference, None if there is none."""
    if pair.new:
        what = f"got a trace of {pair.trace.policy!r}, of which none was recorded"
        return Divergence(pair.source.trace_id, "policy", what)
    fork = pair.reuse.fork
    if fork is not None and fork.at.startswith(CALL):  # what it led to says less
        return Divergence(pair.source.trace_id, fork.at, fork.detail)
    difference = next(_differences(pair.source, pair.trace), None)
    return Divergence(pair.source.trace_id, *difference) if difference else None


def absence(source: Trace) -> Divergence:
    """The divergence of a trace without a replay."""
    return Divergence(source.trace_id, f"policy {source.policy!r}", NO_TRACE)


def _differences(was: Trace, now: Trace) -> Iterator[tuple[str, str]]:
    for number, (a, b) in enumerate(zip_longest(was.segments, now.segments)):
        yield from _segment(f"segment {number}", a, b)
    for number, (c, d) in enumerate(zip_longest(was.consults, now.consults)):
        old = c is not None and c.fault is None  # or recorded before faults were
        names = [name for name in Consult.__dataclass_fields__ if name != "fault" or not old]
        yield from _fields(f"consult {number}", c, d, names)
    for number, (v, w) in enumerate(zip_longest(was.visits, now.visits)):
        yield from _visit(f"visit {number}", v, w, cached=not was.failed)
    for part in sorted(was.reward_parts.keys() | now.reward_parts.keys()):
        a, b = was.reward_parts.get(part), now.reward_parts.get(part)
        yield from _value(f"reward part {part!r}", a, b)
    names = ("reward", "stop_reason", "error", "task", "seed", "mode", "sampling", "forbidden_ids")
    yield from _fields("", was, now, names)


def _segment(where: str, was: Segment | None, now: Segment | None) -> Iterator[tuple[str, str]]:
    if was is None or now is None:
        yield where, _got(_brief(was), _brief(now))
        return
    yield from _fields(where, was, now, ("role", "source", "policy"))
    for name in ("token_ids", "logprobs", "entropies"):
        a, b = getattr(was, name), getattr(now, name)
        if a is None or b is None:
            yield from _value(
                f"{where}, {name}", None if a is None else "some", None if b is None else "some"
            )
        elif not np.array_equal(a, b, equal_nan=True):
            size = min(len(a), len(b))
            different = np.flatnonzero((a[:size] != b[:size]) & ~(np.isnan(a[:size]) & np.isnan(b[:size])))
            place = int(different[0]) if different.size else size
            ends = [f"{x[place]:g}" if place < len(x) else "the end" for x in (a, b)]
            yield f"{where}, {name}, token {place}", _got(*ends)
    yield from _fields(where, was, now, ("policy_version",))


def _visit(where: str, was: Visit | None, now: Visit | None, *, cached: bool) -> Iterator[tuple[str, str]]:
    if was is None or now is None:
        yield where, _got(was and was.path, now and now.path)
        return
    where = f"{where} ({was.path})"
    yield from _fields(where, was, now, ("path",))
    # LangGraph says of a node whose reply came from a cache that it began, and nothing more.
    if cached and was.seconds is None and not was.calls:
        return
    yield from _fields(where, was, now, ("outcome",))
    for number, (a, b) in enumerate(zip_longest(was.calls, now.calls)):
        yield from _fields(f"{where}, call {number}", a, b, _UNTIMED)


def _fields(where: str, was: Any, now: Any, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    if was is None or now is None:
        yield where, _got(*("nothing" if x is None else "one" for x in (was, now)))
        return
    for name in names:
        yield from _value(f"{where}, {name}" if where else name, getattr(was, name), getattr(now, name))


def _value(where: str, was: object, now: object) -> Iterator[tuple[str, str]]:
    if was == now or _plain(was) == _plain(now):
        return
    yield where, _got(was, now)


def _plain(value: object) -> bytes:
    """As JSON holds it: a trace that was read has lists where a graph had tuples."""
    if isinstance(value, str):
        value = _TIMES.sub("", value)
    return to_json(value)


def _brief(segment: Segment | None) -> str:
    return "nothing" if segment is None else f"{len(segment)} tokens of {segment.source}"


def _got(was: object, now: object) -> str:
    texts: Sequence[str] = [x if isinstance(x, str) else repr(x) for x in (now, was)]
    return "got {}, recorded {}".format(*(s if len(s) <= 200 else f"{s[:200]}…" for s in texts))
