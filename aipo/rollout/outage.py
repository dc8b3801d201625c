"""FailureLimit: agents that fail so often that a run is better stopped than trained on what is left."""

from collections import Counter, deque
from typing import NamedTuple

from aipo.errors import LimitError
from aipo.trace import Trace

WINDOW = 64
ENOUGH = 32


class _Asked(NamedTuple):
    agent: str
    error: str | None


class FailureLimit:
    """Watches the last `WINDOW` consults that reached an agent, as soon as there are `ENOUGH`.

    One agent that fails is data: the policy gets a notice and the rollout goes on. What the policy asked wrongly
    does not count.

    Args:
        limit: the largest share of them that may have failed through the agent's own fault; None = any.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._last: deque[_Asked] = deque(maxlen=WINDOW)

    def add(self, trace: Trace) -> None:
        """Takes in a finished rollout.

        Raises:
            LimitError: more than the limit have failed.
        """
        if self._limit is None:
            return
        asked = [consult for consult in trace.consults if consult.reached]
        self._last.extend(_Asked(c.agent, c.error if c.failed else None) for c in asked)
        errors = [(asked.agent, asked.error) for asked in self._last if asked.error is not None]
        if len(self._last) < ENOUGH or len(errors) <= self._limit * len(self._last):
            return
        every = Counter(asked.agent for asked in self._last)
        mine = Counter(agent for agent, _ in errors)
        raise LimitError(
            f"consults that failed through the agent's own fault: got {len(errors)} of the last {len(self._last)} "
            f"({', '.join(f'{name} {mine[name]} of {every[name]}' for name in sorted(mine))}), allowed a share of "
            f"{self._limit:g} (rollout.failure_limit), in trace {trace.trace_id!r}. The last one: {errors[-1][0]}: "
            f"{errors[-1][1]}. Finished traces and checkpoints are kept. See to the agents' servers, then go on "
            "with --resume"
        )
