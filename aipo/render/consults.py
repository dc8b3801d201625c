"""A consultation: a consult of a trace with the visits that answered it.

A trace keeps consults and visits apart, both in the order in which they began. They belong together by
name and order: the node that answers is called like the agent, or `notice` when there was nothing to ask.
A user's graph may name its nodes otherwise. A consult that cannot be matched stays unmatched; times are never
used to guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from aipo.trace import Call, Consult, Role, Trace, Visit

NOTICE = "notice"

UNASKED = 64
ASK_ADVICE = (
    "agents teach a policy only what it asks them: teach it to ask first (`aipo warmup`, then policy.model=RUN/model), show "
    "a request in its prompt (graphs/prompts), and check that it can write the tags (aipo doctor)"
)
"""What to do about a policy that never asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consultation:
    """One consult and its execution.

    Args:
        number: place in the trace's consults.
        visit: of the node that answered; None when no visit matches.
        steps: visits below that one, in the order of beginning.
    """

    number: int
    consult: Consult
    visit: Visit | None = None
    steps: tuple[Visit, ...] = ()

    @property
    def visits(self) -> tuple[Visit, ...]:
        return self.steps if self.visit is None else (self.visit, *self.steps)

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(call for visit in self.visits for call in visit.calls)


def consultations(trace: Trace) -> tuple[Consultation, ...]:
    """Every consult of `trace`, in order, with the visits that belong to it."""
    claimed: set[int] = set()
    matched: list[Consultation] = []
    for number, consult in enumerate(trace.consults):
        at = _find(trace.visits, _answering(trace, consult), claimed)
        if at is None:
            matched.append(Consultation(number=number, consult=consult))
            continue
        below = _below(trace.visits, at)
        # What began earlier cannot answer a later consult.
        claimed.update(range(at + 1), below)
        steps = tuple(trace.visits[i] for i in below)
        matched.append(Consultation(number=number, consult=consult, visit=trace.visits[at], steps=steps))
    return tuple(matched)


def unasked(trace: Trace) -> tuple[Visit, ...]:
    """Visits that called a chat model and belong to no consult of this trace."""
    claimed = {id(visit) for consultation in consultations(trace) for visit in consultation.visits}
    return tuple(visit for visit in trace.visits if visit.calls and id(visit) not in claimed)


def _answering(trace: Trace, consult: Consult) -> set[str]:
    """Names of nodes that may have answered."""
    if not 0 <= consult.reply_segment < len(trace.segments):
        return {consult.agent}
    reply = trace.segments[consult.reply_segment]
    return {consult.agent, reply.source} | ({NOTICE} if reply.role is Role.ENV else set())


def _find(visits: Sequence[Visit], names: set[str], taken: set[int]) -> int | None:
    """The first free visit of a node with one of `names`; the outermost, since agents may nest."""
    free = [
        (visit.path.count("/"), i)
        for i, visit in enumerate(visits)
        if i not in taken and visit.path.rpartition("/")[2] in names
    ]
    return min(free)[1] if free else None


def _below(visits: Sequence[Visit], at: int) -> list[int]:
    """Visits inside the execution `at`, which lasts until its node is executed again."""
    path = visits[at].path
    rest = takewhile(lambda i: visits[i].path != path, range(at + 1, len(visits)))
    return [i for i in rest if visits[i].path.startswith(f"{path}/")]


def silence_warning(rollouts: int) -> str:
    """The warning about so many assisted rollouts without a request."""
    return f"no agent was asked in {rollouts} assisted rollouts; {ASK_ADVICE}"
