"""Row sources: where a trainer's rows come from.

A trainer pulls: `rows(step)` gives the rows of one rollout step, `updated(version)` says that the weights have
moved. `TraceSource` is one source; `aipo.train.coordinator` is another.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from aipo.errors import TrainError
from aipo.method.credit import Credited
from aipo.method.step_rows import StepRows
from aipo.rollout.run_limits import commonest_error
from aipo.trace import Trace


class RowSource(Protocol):
    """The seam between rollouts and the trainer."""

    @property
    def shared(self) -> bool:
        """Whether several trainers of this process wait for each other here."""
        ...

    def rows(self, step: int) -> StepRows:
        """The rows of rollout step `step`, counted from 0; called once for each."""
        ...

    def updated(self, version: int) -> None:
        """The weights are now `version` optimizer steps old; called once before training as well."""
        ...


@dataclass(kw_only=True)
class TraceSource:
    """Rows from the traces of a rollout step, which are new (live) or were recorded (offline training).

    Args:
        traces: rollout step → its traces. Behaviour log-probs are taken as they are.
        credit: gives advantages.
        keep: called with the rollout step and all its traces, once they have their advantages.
        make: credited traces and metrics of the step → its rows.
        advance: tells the policy its version.

    Raises:
        TrainError: every rollout of a step failed; with the most frequent reason.
    """

    traces: Callable[[int], Sequence[Trace]]
    credit: Callable[[Sequence[Trace]], Credited]
    keep: Callable[[int, Sequence[Trace]], None]
    make: Callable[[Credited, Mapping[str, float]], StepRows]
    advance: Callable[[int], None]
    shared: bool = False

    def rows(self, step: int) -> StepRows:
        started = time.perf_counter()
        credited = self.credit(self.traces(step))
        traces = credited.traces
        self.keep(step, traces)
        if traces and all(trace.reward is None for trace in traces):
            raise TrainError(
                f"rollouts of step {step}: got {len(traces)} failed ones, allowed at least one with a reward. "
                f"{commonest_error(traces)}"
            )
        return self.make(credited, {"seconds/rows": time.perf_counter() - started})

    def updated(self, version: int) -> None:
        self.advance(version)
