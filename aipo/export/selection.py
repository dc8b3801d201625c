"""Which traces are exported: a step at a time, so that no more than one step is in memory."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aipo.trace.arrow import Stored
from aipo.trace.filters import EVERYTHING, Filter
from aipo.trace.store import TraceStore
from aipo.util.console import Note


class ExportStep(NamedTuple):
    """One step's traces that match, and all of them: a trace's question may be that of its siblings."""

    number: int
    chosen: list[Stored]
    everyone: list[Stored]


def matching_steps(folder: Path, where: Filter, left_out: Counter[str], note: Note) -> Iterator[ExportStep]:
    """The steps with traces that match.

    Args:
        folder: see `aipo.trace.store.traces_in`.
        left_out: counts the traces that do not match.
        note: called with how many steps are done.
    """
    store = TraceStore(folder)
    numbers, trace_ids = store.steps(), None
    if where != EVERYTHING:
        from aipo.trace.index import TraceIndex

        index = TraceIndex(folder, resident=False)
        matches = index.traces(where, limit=index.count())
        numbers = sorted({summary.step for summary in matches})
        trace_ids = {summary.trace_id for summary in matches}
        left_out["does not match the filter"] = index.count() - len(matches)
    for done, number in enumerate(numbers):
        note(done, len(numbers), f"step {number}")
        everyone = list(store.stored(number))
        chosen = [s for s in everyone if trace_ids is None or s.trace.trace_id in trace_ids]
        yield ExportStep(number, chosen, everyone)
    note(len(numbers), len(numbers), "")
