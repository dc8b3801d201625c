"""Recordings: the stored traces that a replay reads (live rollouts are recorded by `aipo.rollout.recorder`).

A file that is torn or of another version, a trace that breaks an invariant, ids that the vocabulary does
not have: each is left out by name with the reason, and the rest is read. Nothing is ever written here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from aipo import recorded
from aipo.errors import AipoError, RunError, TraceError, one_of
from aipo.rollout.env import Task
from aipo.rollout.recorder import check_context
from aipo.run import RunFolder, run_of
from aipo.trace import Call, StopReason, Trace
from aipo.trace.arrow import Stored, to_table
from aipo.trace.filters import EVERYTHING, Filter, condition
from aipo.trace.journal import from_line
from aipo.trace.parquet_files import StepFile
from aipo.trace.store import list_traces, read_file, traces_in


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A trace (its id) or a file that could not be used, and why."""

    what: str
    reason: str


@dataclass(kw_only=True)
class Recordings:
    """Traces of a run, of one of its evaluations, or of a folder.

    Args:
        path: see `aipo.trace.store.traces_in`.
        where: only these.
        vocabulary: ids are below this; None = not checked.
        rerun: whether they are to be run again: a rollout that its deadline or an interrupt ended cannot
            come to the same end.

    Attributes:
        left_out: what could not be used so far.

    Raises:
        RunError: there are no traces.
    """

    path: Path
    where: Filter = EVERYTHING
    vocabulary: int | None = None
    rerun: bool = False
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])

    def __post_init__(self) -> None:
        self.folder = traces_in(self.path)
        self._seen: set[object] = set()

    @property
    def run(self) -> RunFolder:
        """The folder with what is known of the run."""
        return run_of(self.folder)

    def steps(self) -> list[int]:
        """Steps that may have traces that match, in order."""
        low, high = self.where.step or (None, None)
        return [
            step
            for step in sorted({file.step for file in self._files()})
            if (low is None or step >= low) and (high is None or step <= high)
        ]

    def required_steps(self) -> list[int]:
        """`steps`, of which there has to be one.

        Raises:
            RunError: there is none.
        """
        if steps := self.steps():
            return steps
        raise RunError(f"--steps: got {self.where.step}, allowed steps of {self.folder}")

    def refuse_empty(self) -> None:
        """Looks for one trace that matches.

        Raises:
            RunError: there is none. What cannot be read is left out by name later, and may have matched.
        """
        probe = Recordings(path=self.path, where=self.where)
        unread = _all_of_a_step(self.where) and self.steps()
        if not unread and next(iter(probe), None) is None and not probe.left_out:
            raise RunError(
                f"traces: got none in {self.folder} with {_words(self.where)}, allowed one or more"
            )

    def __iter__(self) -> Iterator[list[Trace]]:
        """The traces of each step that has any."""
        for step in self.steps():
            if traces := self.read(step):
                yield traces

    def read(self, step: int) -> list[Trace]:
        """The traces of one step that match and are fit, by group and index."""
        stored = [s for file in self._files() if file.step == step for s in self._read(file.path)]
        fit = [_with_present_names(trace) for trace in _matching(stored, self.where) if self._is_fit(trace)]
        return sorted(fit, key=lambda t: (t.group_id, t.index, t.policy))

    def leave_out(self, what: str, reason: object) -> None:
        """Notes what cannot be used."""
        self.left_out.append(LeftOut(what, str(reason)))

    def _files(self) -> list[StepFile]:
        sealed, journals = list_traces(self.folder)
        return [*sealed, *journals]

    def _read(self, path: Path) -> list[Stored]:
        try:
            return read_file(path) if path.suffix == ".parquet" else list(self._lines(path))
        except (AipoError, OSError) as error:
            self.leave_out(str(path), error)
            return []

    def _lines(self, path: Path) -> Iterator[Stored]:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield from_line(line, f"{path}:{number}")
                except AipoError as error:
                    self.leave_out(f"{path}:{number}", error)

    def _is_fit(self, trace: Trace) -> bool:
        try:
            for name in (trace.trace_id, (trace.step, trace.group_id, trace.index, trace.policy)):
                if name in self._seen:
                    raise TraceError(one_of("trace", name, "each only once", str(self.folder)))
            self._check(trace)
            self._seen |= {trace.trace_id, (trace.step, trace.group_id, trace.index, trace.policy)}
        except AipoError as error:
            self.leave_out(trace.trace_id, error)
            return False
        return True

    def _check(self, trace: Trace) -> None:
        if not trace.failed:
            check_context(trace.policy, trace.segments, trace.consults, trace.mode)
        if self.vocabulary is not None and trace.segments:
            ids = trace.token_ids
            outside = ids[(ids < 0) | (ids >= self.vocabulary)]
            if outside.size:
                raise TraceError(
                    one_of("token id", int(outside[0]), f"0 to {self.vocabulary - 1}", "this vocabulary")
                )
        if self.rerun:
            task_of(trace)
            if trace.stop_reason in (StopReason.DEADLINE, StopReason.CANCELLED):
                raise TraceError(
                    f"stop reason: got {trace.stop_reason.value}, allowed an end that does not depend on "
                    "time: a replay does not wait as long as the rollout did"
                )


def task_of(trace: Trace) -> Task:
    """The task as it was when the trace was recorded.

    Raises:
        TaskError: it is no task.
        TraceError: the trace has none.
    """
    try:
        return Task(**trace.task)
    except TypeError as error:
        raise TraceError(
            f"task of trace {trace.trace_id!r}: {error}, allowed the fields of a task"
        ) from error


def _with_present_names(trace: Trace) -> Trace:
    """The trace with the names that the chat models of its calls have now."""
    visits = tuple(
        replace(visit, calls=tuple(map(_renamed, visit.calls))) if visit.calls else visit
        for visit in trace.visits
    )
    return replace(trace, visits=visits)


def _renamed(call: Call) -> Call:
    return replace(call, model=recorded.imported(call.model), settings=recorded.chat_settings(call.settings))


def _matching(stored: Sequence[Stored], where: Filter) -> list[Trace]:
    """Those that match `where`, by the condition that listings use."""
    if _all_of_a_step(where) or not stored:
        return [s.trace for s in stored]
    ids = _ids(to_table(stored), where)
    return [s.trace for s in stored if s.trace.trace_id in ids]


def _all_of_a_step(where: Filter) -> bool:
    """Does it ask for nothing but the step, which chooses the file?"""
    return replace(where, step=None) == EVERYTHING


def _ids(table: pa.Table, where: Filter) -> set[str]:
    import duckdb

    clause, values = condition(where)
    with duckdb.connect() as database:
        for view in ("summaries", "contexts"):
            database.register(view, table)
        rows = database.execute(f"SELECT trace_id FROM summaries WHERE {clause}", values).fetchall()
    return {row[0] for row in rows}


def _words(where: Filter) -> str:
    """The filter as one types it."""
    fields = ((name, getattr(where, name)) for name in Filter.__dataclass_fields__)
    return " ".join(f"{name}={_word(value)}" for name, value in fields if value is not None)


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        first, last = ("" if end is None else str(end) for end in value)
        return f"{first}..{last}"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
