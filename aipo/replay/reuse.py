"""Counts of what a replayed rollout reused of its recording, and how recorded errors are raised again."""

import builtins
from dataclasses import dataclass
from typing import Any, NamedTuple

from aipo import errors
from aipo.errors import ReplayError

NEEDS_LIVE = "needs a live call here"
CALL = "call of"


class ForkPoint(NamedTuple):
    """The first point where a replay asks something else. `at` is short (`prompt`, `call of verify`), so that
    forks can be counted by it."""

    at: str
    detail: str


@dataclass(slots=True)
class Reuse:
    """Counts of one rollout, shared by its policies and its chat models.

    Args:
        turns: of a policy, that were answered from the recording.
        live_turns: that were sampled.
        calls: of agents' chat models, that were answered from the recording.
        live_calls: that were made.
        spent: what those have cost, where their prices are known.
        fork: where the rollout left its recording; None = nowhere.
        missing: the live call that a frozen replay would have needed; nothing is answered after it.
    """

    turns: int = 0
    live_turns: int = 0
    calls: int = 0
    live_calls: int = 0
    spent: float = 0.0
    fork: ForkPoint | None = None
    missing: ReplayError | None = None

    def leave(self, at: str, detail: str) -> None:
        """Notes where the rollout asks something that the recording does not answer; the first place counts."""
        self.fork = self.fork or ForkPoint(at, detail)

    def refuse(self, at: str, where: str, detail: str) -> ReplayError:
        """The error of a replay that may call no model."""
        self.leave(at, f"{where}: {detail}")
        self.missing = self.missing or ReplayError(f"{NEEDS_LIVE}: {where}: {detail}")
        return self.missing


def recorded_error(recorded: str, *, retried: bool) -> Exception:
    """An exception with the class and text of a recorded one ('ConnectionError: reset by peer').

    A handler of a built-in exception or of AIPO's own catches this one, too. `status_code`, which retry policies
    look at (see `aipo.util.http.retry.transient`), repeats the decision of then: whether the call was tried again.
    """
    name, _, text = recorded.partition(": ")
    if not name.isidentifier():
        name, text = "Exception", recorded
    base = getattr(builtins, name, None) or getattr(errors, name, None)
    if not (isinstance(base, type) and issubclass(base, Exception)):
        base = Exception
    members: dict[str, Any] = {
        "__init__": lambda self: None,
        "__str__": lambda self: text,
        "status_code": 503 if retried else 400,
    }
    kind: Any = type(name, (base,), members)
    try:
        return kind()
    except TypeError:  # a group of exceptions needs its members, which are not recorded
        kind = type(name, (Exception,), members)
        return kind()
