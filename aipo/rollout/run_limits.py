"""Limits that stop a run: what its agents cost, and how often they fail. And a warning where nobody is asked.

Costs have the unit of the configured prices. They are kept in a file of the run, so that a step that is done
again, a resumed run and a later evaluation all count.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import orjson

from aipo.errors import LimitError
from aipo.render.consults import UNASKED, silence_warning
from aipo.trace import Consult, Mode, Trace
from aipo.util.files import writing
from aipo.util.text import to_json

WINDOW = 64
ENOUGH = 32


class FailureRateLimit:
    """Watches the last `WINDOW` consults that reached an agent, as soon as there are `ENOUGH`.

    One agent that fails is data: the policy gets a notice and the rollout goes on. What the policy asked wrongly
    does not count.

    Args:
        limit: the largest share of them that may have failed through the agent's own fault; None = any.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._last: deque[Consult] = deque(maxlen=WINDOW)

    def add(self, trace: Trace) -> None:
        """Takes in a finished rollout.

        Raises:
            LimitError: more than the limit have failed.
        """
        if self._limit is None:
            return
        self._last.extend(consult for consult in trace.own.consults if consult.reached)
        failed = [consult for consult in self._last if consult.failed]
        if len(self._last) < ENOUGH or len(failed) <= self._limit * len(self._last):
            return
        consults = Counter(consult.agent for consult in self._last)
        failures = Counter(consult.agent for consult in failed)
        raise LimitError(
            f"consults that failed through the agent's own fault: got {len(failed)} of the last {len(self._last)} "
            f"({', '.join(f'{name} {failures[name]} of {consults[name]}' for name in sorted(failures))}), allowed a share of "
            f"{self._limit:g} (rollout.failure_limit), in trace {trace.trace_id!r}. The last one: {failed[-1].agent}: "
            f"{failed[-1].error}. Finished traces and checkpoints are kept. See to the agents' servers, then go on "
            "with --resume"
        )


class AskWatch:
    """Notices a policy that never asks an agent.

    Args:
        warn: called once, when `UNASKED` assisted rollouts have ended without a single request.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn, self._assisted, self._over = warn, 0, False

    def add(self, trace: Trace) -> None:
        """Takes in a finished rollout. What was asked wrongly is a request, too."""
        if self._over or trace.failed or trace.mode is not Mode.ASSISTED or trace.taught:
            return
        self._assisted += 1
        self._over = bool(trace.consults) or self._assisted == UNASKED
        if self._over and not trace.consults:
            self._warn(silence_warning(self._assisted))


class _Ended(Protocol):
    @property
    def error(self) -> str | None: ...


def commonest_error(traces: Iterable[_Ended]) -> str:
    """Of failed rollouts, the reason that most of them have."""
    ((reason, times),) = Counter(trace.error for trace in traces).most_common(1)
    return f"Most frequent reason ({times} times): {reason}"


class CostLimit:
    """Adds up what rollouts cost, and stops the run at a limit.

    A call that failed has no known cost and does not count. What is in flight when the limit is reached comes
    on top.

    Args:
        file: where it is written down, one line of JSON for each rollout that cost something.
        limit: the most that the run may spend; None = no limit.
        priced: agents whose tokens have a price.

    Attributes:
        total: what the run has cost so far.

    Raises:
        LimitError: the limit has been reached already.
        RunError: the file cannot be read.
    """

    def __init__(self, file: Path, limit: float | None, priced: Collection[str]) -> None:
        self._file, self._limit, self._priced = file, limit, frozenset(priced)
        self._step, self._seen = -1, set[tuple[str, int]]()
        with writing("reading what was spent", file.parent):
            content = file.read_bytes() if file.is_file() else b""
        self.total = math.fsum(map(_cost, content.splitlines()))
        self._end = b"" if content.endswith(b"\n") or not content else b"\n"
        self._stop("the run")

    def add(self, trace: Trace) -> None:
        """Takes in a finished rollout.

        Raises:
            LimitError: the limit is reached, or there is one and a call's cost is not known.
            RunError: the disk is full or fails.
        """
        if trace.step != self._step:
            self._step = trace.step
            self._seen.clear()
        if (place := (trace.group_id, trace.index)) in self._seen:
            return  # the same rollout, for another one of its policies
        self._seen.add(place)
        calls = [call for visit in trace.own.visits for call in visit.calls]
        self.charge(trace.trace_id, math.fsum(call.cost or 0.0 for call in calls))
        for call in calls if self._limit is not None else ():
            if call.agent in self._priced and call.error is None and call.cost is None:
                raise LimitError(
                    f"cost of a call of agent {call.agent!r} (model {call.model}): got no count of its tokens, allowed "
                    f"one for each call while there is a rollout.cost_limit, in trace {trace.trace_id!r}. Finished "
                    "traces and checkpoints are kept. Have the server report usage, or take limit or prices away"
                )

    def charge(self, trace_id: str, cost: float) -> None:
        """Takes in what a rollout cost.

        Raises:
            LimitError: the limit is reached.
            RunError: the disk is full or fails.
        """
        if cost:
            self.total += cost
            with writing("writing down what was spent", self._file.parent), self._file.open("ab") as file:
                # Whoever was killed in the middle of a line has left no end of it.
                file.write(self._end + to_json({"trace_id": trace_id, "cost": cost}) + b"\n")
            self._end = b""
        self._stop(f"trace {trace_id!r}")

    def _stop(self, where: str) -> None:
        if self._limit is not None and self.total >= self._limit:
            raise LimitError(
                f"spending on agents: got {self.total:.6g}, allowed less than {self._limit:g} "
                f"(rollout.cost_limit), in {where}. Finished traces and checkpoints are kept. Raise the limit, "
                "then go on with --resume"
            )


def _cost(line: bytes) -> float:
    with suppress(orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return float(orjson.loads(line)["cost"])
    return 0.0  # torn: whoever wrote it was killed
