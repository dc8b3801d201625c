"""Row sources: where a trainer's rows come from.

A trainer pulls: `rows(step)` gives what one generation yields, `updated(version)` says that the
weights have moved. Live rollouts are one source; `aipo.train.coordinator` is another.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from aipo.errors import TrainError
from aipo.method.credit import Credited
from aipo.method.step_rows import StepRows, step_rows
from aipo.rollout.env import Task
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Trace


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
        suppress: whether distilled rows are trained with these forbidden.
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
    suppress: bool = True
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
            suppress=self.suppress,
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
