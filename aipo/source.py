"""Row sources: where a trainer's rows come from.

A trainer pulls: `rows(step)` gives what one generation yields, `updated(version)` says that the
weights have moved. Live rollouts are one source; `aipo.coordinator` is another.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aipo.batch import Totals
from aipo.credit import Credited
from aipo.errors import TrainError
from aipo.metrics import rollout_metrics
from aipo.plan import RolloutSpec
from aipo.row import Row, distil, distillable, rows_of
from aipo.task import Task
from aipo.trace import Mode, Segment, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRows:
    """What one generation gives one trainer.

    Args:
        rows: to be trained on, in any number; none at all is a step in which nothing is learned.
        totals: of all scored sampled rows, for the denominators; some of them may not be in `rows`.
        active_share: share of the scored rollouts with an advantage other than 0.
        metrics: see `aipo.metrics`; logged with the generation's first optimiser step.
    """

    rows: tuple[Row, ...]
    totals: Totals
    active_share: float
    metrics: Mapping[str, float] = field(default_factory=dict)


class RowSource(Protocol):
    """The seam between rollouts and the trainer."""

    @property
    def shared(self) -> bool:
        """Whether several trainers of this process wait for each other here."""
        ...

    def rows(self, step: int) -> StepRows:
        """The rows of generation `step`, counted from 0; asked for once per generation."""
        ...

    def updated(self, version: int) -> None:
        """The weights are now `version` optimiser steps old; called once before training as well."""
        ...


def step_rows(
    credited: Credited,
    *,
    distilled: bool,
    tag_ids: tuple[int, ...],
    forbid: bool = True,
    agents: Collection[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> StepRows:
    """Credited traces of one policy as rows, with the metrics of the generation."""
    sampled = [row for trace in credited.traces for row in rows_of(trace)]
    cut: list[Row] = []
    refused = 0
    if distilled:
        prompts = _solo_prompts(credited.traces)
        eligible = [trace for trace in credited.traces if distillable(trace)]
        made = [
            distil(trace, tag_ids, forbid=forbid, prompt=prompts.get(trace.group_id)) for trace in eligible
        ]
        cut = [row for row in made if row is not None]
        refused = len(made) - len(cut)
    counts = {"sampled": len(sampled), "distilled": len(cut), "uncut": refused}
    return StepRows(
        rows=(*sampled, *cut),
        totals=Totals.of(sampled),
        active_share=credited.active_share,
        metrics={
            **rollout_metrics(credited.traces, agents),
            "active_share": credited.active_share,
            "zero_variance": credited.zero_variance_groups / max(credited.groups, 1),
            **{f"rows/{kind}": float(count) for kind, count in counts.items()},
            **(metrics or {}),
        },
    )


@dataclass(kw_only=True)
class LiveSource:
    """Rows from rollouts that are made when they are asked for.

    Args:
        draw: generation to its tasks.
        plan: tasks and generation to the rollouts to be made.
        run: makes them; the second argument is called with each trace as it finishes.
        credit: gives advantages.
        on_trace: called with each trace as it finishes, before credit.
        keep: called with the generation and all its traces, once they have their advantages.
        advance: tells the policy its version.
        refresh: called before rollouts: what samples has to have the newest weights.
        distilled: whether rewarded assisted traces give a distilled row too.
        tag_ids: ids of the consult tags.
        forbid: whether distilled rows are trained with these forbidden.
        agents: names whose consults are counted one by one.
    """

    draw: Callable[[int], Sequence[Task]]
    plan: Callable[[Sequence[Task], int], list[RolloutSpec]]
    run: Callable[[list[RolloutSpec], Callable[[Trace], None]], list[Trace]]
    credit: Callable[[Sequence[Trace]], Credited]
    on_trace: Callable[[Trace], None]
    keep: Callable[[int, Sequence[Trace]], None]
    advance: Callable[[int], None]
    refresh: Callable[[], None] = lambda: None
    distilled: bool = False
    tag_ids: tuple[int, ...] = ()
    forbid: bool = True
    agents: Collection[str] = ()
    shared: bool = False

    def rows(self, step: int) -> StepRows:
        started = time.perf_counter()
        self.refresh()
        credited = self.credit(self.run(self.plan(self.draw(step), step), self.on_trace))
        self.keep(step, credited.traces)
        _refuse_ruin(credited.traces, step)
        seconds = {"seconds/rows": time.perf_counter() - started}
        return step_rows(
            credited,
            distilled=self.distilled,
            tag_ids=self.tag_ids,
            forbid=self.forbid,
            agents=self.agents,
            metrics=seconds,
        )

    def updated(self, version: int) -> None:
        self.advance(version)


@dataclass(kw_only=True)
class StoredSource:
    """Rows from traces that are there already: offline training. Behaviour log-probs stay as recorded.

    Args:
        read: generation to its traces.
        credit: gives advantages.
        make: credited traces and metrics of the generation to its rows.
        keep, advance: see `LiveSource`.
    """

    read: Callable[[int], Sequence[Trace]]
    credit: Callable[[Sequence[Trace]], Credited]
    make: Callable[[Credited, Mapping[str, float]], StepRows]
    keep: Callable[[int, Sequence[Trace]], None]
    advance: Callable[[int], None]
    shared: bool = False

    def rows(self, step: int) -> StepRows:
        started = time.perf_counter()
        credited = self.credit(self.read(step))
        self.keep(step, credited.traces)
        _refuse_ruin(credited.traces, step)
        return self.make(credited, {"seconds/rows": time.perf_counter() - started})

    def updated(self, version: int) -> None:
        self.advance(version)


def _refuse_ruin(traces: Sequence[Trace], step: int) -> None:
    """A failed rollout is data; a generation of nothing else is a run that does not work.

    Raises:
        TrainError: every rollout failed; with the most frequent reason.
    """
    if traces and all(trace.reward is None for trace in traces):
        ((reason, times),) = Counter(trace.error for trace in traces).most_common(1)
        raise TrainError(
            f"rollouts of generation {step}: got {len(traces)} failed ones, allowed at least one with a reward. "
            f"Most frequent reason ({times} times): {reason}"
        )


def _solo_prompts(traces: Iterable[Trace]) -> dict[str, Segment]:
    return {t.group_id: t.segments[0] for t in traces if t.mode in (Mode.SOLO, Mode.EXPERT) and t.segments}
