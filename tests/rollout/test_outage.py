"""FailureLimit: what counts as an agent's own failure, and from which share of consults on a run stops."""

import pytest

from aipo.errors import LimitError
from aipo.rollout.outage import ENOUGH, WINDOW, FailureLimit
from aipo.trace import Consult, Fault, Trace
from kit.handmade import consult, policy, prompt, trace

OK = consult(1, 0, 2)
DOWN = consult(1, 0, 2, reply=None, error="ConnectionError: refused", fault=Fault.UNAVAILABLE)
WRONG = consult(1, 0, 2, reply=None, error="unknown: No agent", fault=Fault.UNKNOWN)


def rollout(*consults: Consult) -> Trace:
    return trace(prompt(2), policy(3), policy(4), consults=consults)


def test_it_stops_as_soon_as_enough_have_been_seen() -> None:
    outage = FailureLimit(0.5)
    for _ in range(ENOUGH - 1):
        outage.add(rollout(DOWN))
    with pytest.raises(
        LimitError,
        match=r"got 32 of the last 32 \(knowledge 32 of 32\), allowed a share of 0\.5 \(rollout\.failure_limit\).*"
        r"The last one: knowledge: ConnectionError: refused.*--resume",
    ):
        outage.add(rollout(DOWN))


def test_a_share_within_the_limit_goes_on() -> None:
    outage = FailureLimit(0.5)
    for _ in range(WINDOW):
        outage.add(rollout(OK, DOWN))
    with pytest.raises(LimitError, match="got 33 of the last 64"):
        outage.add(rollout(DOWN, DOWN))  # one good and one bad consult leave the window


def test_what_the_policy_asked_wrongly_does_not_count() -> None:
    outage = FailureLimit(0.0)
    for _ in range(2 * WINDOW):
        outage.add(rollout(WRONG))
    for _ in range(ENOUGH - 1):
        outage.add(rollout(OK))
    with pytest.raises(LimitError, match="got 1 of the last 32"):
        outage.add(rollout(DOWN))


def test_agents_are_told_apart() -> None:
    outage = FailureLimit(0.25)
    other = consult(1, 0, 2, agent="verify")
    with pytest.raises(LimitError, match=r"got 16 of the last 32 \(knowledge 16 of 16\)"):
        outage.add(rollout(*[DOWN, other] * 16))


def test_without_a_limit_nothing_stops() -> None:
    outage = FailureLimit(None)
    outage.add(rollout(*[DOWN] * WINDOW))
