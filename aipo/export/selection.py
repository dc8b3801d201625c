"""Which traces are exported: a step at a time, so that no more than one step is in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aipo.trace.arrow import Stored
from aipo.trace.filters import EVERYTHING, Filter
from aipo.trace.store import TraceStore

_PAGE = 10_000


class ExportStep(NamedTuple):
    """One step's traces that match, and all of them: a trace's question may be that of its siblings."""

    number: int
    chosen: list[Stored]
    everyone: list[Stored]


class Selection:
    """Traces of a folder that match a filter.

    Args:
        folder: see `aipo.trace.store.traces_in`.

    Attributes:
        numbers: steps that have such traces.
        left_out: how many traces do not match.
    """

    def __init__(self, folder: Path, where: Filter = EVERYTHING) -> None:
        self._store = TraceStore(folder)
        self._ids: set[str] | None = None
        self.numbers = self._store.steps()
        self.left_out = 0
        if where != EVERYTHING:
            self._look_up(folder, where)

    def __iter__(self) -> Iterator[ExportStep]:
        for number in self.numbers:
            everyone = list(self._store.stored(number))
            chosen = [s for s in everyone if self._ids is None or s.trace.trace_id in self._ids]
            yield ExportStep(number, chosen, everyone)

    def _look_up(self, folder: Path, where: Filter) -> None:
        from aipo.trace.index import TraceIndex

        index = TraceIndex(folder, resident=False)
        count = index.count(where)
        pages = (index.traces(where, limit=_PAGE, offset=offset) for offset in range(0, count, _PAGE))
        matches = [(summary.step, summary.trace_id) for page in pages for summary in page]
        self.numbers = sorted({step for step, _ in matches})
        self._ids = {trace_id for _, trace_id in matches}
        self.left_out = index.count() - count
