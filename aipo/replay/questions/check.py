"""Check: the first difference between a trace and its replay, in which only the recording answers.

Everything is compared but times: segments with their log-probs, consults, visits with their calls, reward
parts, reward, stop reason and error.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from aipo.replay.engine import TracePair
from aipo.replay.reuse import CALL
from aipo.trace import Call, Consult, Segment, Trace, Visit
from aipo.util.text import counted, to_json

NO_TRACE = "no trace came out"
_TIMES = re.compile(r"\(elapsed: [0-9.]+s\)")  # in the text of LangGraph's time-outs
_COMPARED: Mapping[type, Sequence[str]] = {
    Trace: (
        *("segments", "consults", "visits", "reward_parts", "reward", "stop_reason", "error", "task", "seed"),
        *("mode", "sampling", "forbidden_ids"),
    ),
    Segment: ("role", "source", "policy", "history", "token_ids", "logprobs", "entropies", "policy_version"),
    Consult: tuple(Consult.__dataclass_fields__),
    Visit: ("path", "outcome", "calls"),
    Call: tuple(name for name in Call.__dataclass_fields__ if name not in ("started", "seconds")),
}
"""Fields in the order in which they are compared."""
_ITEMS = {"segments": "segment", "consults": "consult", "visits": "visit", "calls": "call"}


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
    difference = next(_differences("", pair.source, pair.trace, cached=not pair.source.failed), None)
    return Divergence(pair.source.trace_id, *difference) if difference else None


def absence(source: Trace) -> Divergence:
    """The divergence of a trace without a replay."""
    return Divergence(source.trace_id, f"policy {source.policy!r}", NO_TRACE)


def _differences(where: str, was: Any, now: Any, *, cached: bool) -> Iterator[tuple[str, str]]:
    """Differences between two objects of a trace. `cached`: replies may have come from a cache."""
    names = _COMPARED[type(was)]
    if isinstance(was, Consult) and was.fault is None:  # or recorded before faults were
        names = [name for name in names if name != "fault"]
    if isinstance(was, Visit):
        where = f"{where} ({was.path})"
        # LangGraph says of a node whose reply came from a cache that it began, and nothing more.
        names = names[:1] if cached and was.seconds is None and not was.calls else names
    for name in names:
        place, a, b = f"{where}, {name}" if where else name, getattr(was, name), getattr(now, name)
        if name in _ITEMS:
            for number, (old, new) in enumerate(zip_longest(a, b)):
                item = f"{where}, {_ITEMS[name]} {number}" if where else f"{_ITEMS[name]} {number}"
                if old is None or new is None:
                    yield item, _got(_brief(old), _brief(new))
                else:
                    yield from _differences(item, old, new, cached=cached)
        elif name == "reward_parts":
            # A part that is noted only since then is no difference; one that weighs something changes the reward.
            for part in sorted(a):
                if a.get(part) != b.get(part):
                    yield f"reward part {part!r}", _got(a.get(part), b.get(part))
        elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            yield from _array_difference(place, a, b)
        elif isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
            yield place, _got(*("nothing" if x is None else "numbers" for x in (a, b)))
        elif a != b and _plain(a) != _plain(b):
            yield place, _got(a, b)


def _array_difference(where: str, was: npt.NDArray[Any], now: npt.NDArray[Any]) -> Iterator[tuple[str, str]]:
    if np.array_equal(was, now, equal_nan=True):
        return
    size = min(len(was), len(now))
    a, b = was[:size], now[:size]
    different = np.flatnonzero((a != b) & ~(np.isnan(a) & np.isnan(b)))
    place = int(different[0]) if different.size else size
    ends = [f"{x[place]:g}" if place < len(x) else "the end" for x in (was, now)]
    yield f"{where}, token {place}", _got(*ends)


def _plain(value: object) -> bytes:
    """As JSON holds it: a trace that was read has lists where a graph had tuples."""
    return to_json(_TIMES.sub("", value) if isinstance(value, str) else value)


def _brief(item: object) -> str:
    if isinstance(item, Segment):
        return f"{counted(len(item), 'token')} of {item.source}"
    return "nothing" if item is None else item.path if isinstance(item, Visit) else "one"


def _got(was: object, now: object) -> str:
    texts: Sequence[str] = [x if isinstance(x, str) else repr(x) for x in (now, was)]
    return "got {}, recorded {}".format(*(s if len(s) <= 200 else f"{s[:200]}…" for s in texts))
