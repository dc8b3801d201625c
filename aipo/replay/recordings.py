"""Recordings: the stored traces that a replay reads (live rollouts are recorded by `aipo.rollout.recorder`).

A file that is torn or of another version, a trace that breaks an invariant, ids that the vocabulary does
not have: each is left out by name with the reason, and the rest is read. Nothing is ever written here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from aipo import recorded
from aipo.config.build import load_experiment
from aipo.errors import AipoError, RunError, TraceError, one_of
from aipo.rollout.env import Task
from aipo.rollout.recorder import check_context
from aipo.run import POLICIES, RunFolder, run_of
from aipo.trace import Call, Mode, StopReason, Trace
from aipo.trace.arrow import Stored, to_table
from aipo.trace.filters import EVERYTHING, Filter, condition
from aipo.trace.journal import from_line
from aipo.trace.parquet_files import StepFile
from aipo.trace.store import list_traces, read_file, traces_in

Steps = tuple[int | None, int | None]
"""First and last rollout step, inclusive; None = open."""


@dataclass(kw_only=True)
class Recordings:
    """Traces of a run, of one of its evaluations, or of a folder. They can be read more than once.

    Args:
        path: see `aipo.trace.store.traces_in`.
        where: only these.
        vocabulary: ids are below this; None = not checked.
        rerun: whether they are to be run again: a rollout that its deadline or an interrupt ended cannot
            come to the same end.

    Attributes:
        left_out: traces (by id) and files that could not be used so far, and why.

    Raises:
        RunError: there are no traces.
    """

    path: Path
    where: Filter = EVERYTHING
    vocabulary: int | None = None
    rerun: bool = False
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self.folder = traces_in(self.path)
        self._steps: dict[str, int] = {}  # by trace

    @property
    def run(self) -> RunFolder:
        """The folder with what is known of the run."""
        return run_of(self.folder)

    @property
    def config(self) -> str:
        """File of the recorded configuration.

        Raises:
            RunError: there is none.
        """
        if self.run.config.is_file():
            return str(self.run.config)
        raise RunError(
            f"configuration of the traces in {self.folder}: got no {self.run.config}, allowed a run's (or --config FILE)"
        )

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

    def __iter__(self) -> Iterator[list[Trace]]:
        """The traces of each step that has any."""
        return filter(None, map(self.read, self.steps()))

    def read(self, step: int) -> list[Trace]:
        """The traces of one step that match and are fit, by group and index."""
        stored = [s for file in self._files() if file.step == step for s in self._read(file.path)]
        traces: list[Trace] = []
        seen: set[object] = set()
        for trace in _matching(stored, self.where):
            try:
                self._check(trace, step, seen)
            except AipoError as error:
                self.leave_out(trace.trace_id, error)
            else:
                traces.append(_with_present_names(trace))
        return sorted(traces, key=lambda t: (t.group_id, t.index, t.policy))

    def peers(self, step: int) -> list[Trace]:
        """The traces that the other policies of the run have of one step; none where one policy learned by itself.

        Raises:
            RunError: they are needed, and are not there.
        """
        return [trace for one in self.by_policy.values() if one is not self for trace in one.read(step)]

    def rollouts(self, step: int) -> list[Trace]:
        """`read`, and of the same rollouts the traces of the other policies.

        Raises:
            RunError: they are needed, and are not there.
        """
        traces = self.read(step)
        places = {(trace.group_id, trace.index) for trace in traces}
        return [*traces, *(one for one in self.peers(step) if (one.group_id, one.index) in places)]

    @property
    def whole(self) -> RunFolder:
        """The folder of the whole run. Where several policies learned together, it holds the folder of each; in an evaluation
        of one of them there was no other."""
        path = self.folder.resolve().parent
        return RunFolder(path.parents[1]) if path.parent.name == POLICIES else self.run

    @cached_property
    def by_policy(self) -> Mapping[str, "Recordings"]:
        """The recordings of each policy of the run, by the name that the graph calls it by; this one is among them.

        Raises:
            RunError: those of a policy are not there.
        """
        whole = self.whole
        if whole.path == self.run.path:
            return {"policy": self}
        names = load_experiment(str(RunFolder.open(whole.path).config), of_run=True).peers
        if missing := [name for name in names if not whole.of_policy(name).traces.is_dir()]:
            raise RunError(
                f"traces of the other policies: got none of {', '.join(missing)} in {whole.path / POLICIES}, allowed those of all "
                "that learned together"
            )
        others = Filter(step=self.where.step)
        return {
            name: self
            if name == self.run.path.name
            else Recordings(path=whole.of_policy(name).path, where=others, left_out=self.left_out)
            for name in names
        }

    def leave_out(self, what: str, reason: object) -> None:
        """Notes what cannot be used; the first reason counts."""
        self.left_out.setdefault(what, str(reason))

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
        """The whole lines of a journal that are traces."""
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    if line.endswith(b"\n"):
                        yield from_line(line, f"{path}:{number}")
                except AipoError as error:
                    self.leave_out(f"{path}:{number}", error)

    def _check(self, trace: Trace, step: int, seen: set[object]) -> None:
        names = (trace.trace_id, (trace.group_id, trace.index, trace.policy))
        for name in names:
            if name in seen or self._steps.get(trace.trace_id, step) != step:
                raise TraceError(one_of("trace", name, "each only once", str(self.folder)))
        if trace.mode is Mode.TEXT:
            raise TraceError(
                "kind: got 'text', the answer of a served model without token ids and log-probs, allowed a trace that has "
                "them (aipo eval --endpoint with --tokenizer)"
            )
        if not trace.failed:
            check_context(trace.policy, trace.segments, trace.consults, trace.mode)
        if self.vocabulary is not None and trace.segments:
            ids = trace.token_ids
            outside = ids[(ids < 0) | (ids >= self.vocabulary)]
            if outside.size:
                allowed = f"0 to {self.vocabulary - 1}"
                raise TraceError(one_of("token id", int(outside[0]), allowed, "this vocabulary"))
        if self.rerun:
            task_of(trace)
            if trace.taught:
                raise TraceError(
                    "kind: got 'taught', which a teacher wrote in the policy's place, allowed what a policy sampled: a "
                    "graph is run again with the policy's own text"
                )
            if trace.stop_reason in (StopReason.DEADLINE, StopReason.CANCELLED):
                raise TraceError(
                    f"stop reason: got {trace.stop_reason.value}, allowed an end that does not depend on "
                    "time: a replay does not wait as long as the rollout did"
                )
        seen.update(names)
        self._steps[trace.trace_id] = step


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
    """Those that match, by the condition that listings use; the step has chosen the file."""
    traces = [s.trace for s in stored]
    clause, values = condition(replace(where, step=None))
    if not traces or clause == "true":
        return traces
    import duckdb

    table = to_table(stored)
    with duckdb.connect() as database:
        for view in ("summaries", "contexts"):
            database.register(view, table)
        rows = database.execute(f"SELECT trace_id FROM summaries WHERE {clause}", values).fetchall()
    ids = {row[0] for row in rows}
    return [trace for trace in traces if trace.trace_id in ids]
