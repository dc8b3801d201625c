"""The hierarchical reward: form before correctness, and a bonus for having used several agents."""

import pytest

from aipo.trace import Consult, Fault, StopReason
from graphs.rewards import hierarchical

pytestmark = pytest.mark.fast

WEIGHTS = {"correct": 0.0, "correct_in_form": 1.0, "malformed": -1.0, "several_agents": 0.1}


def asked(agent: str, fault: Fault | None = None) -> Consult:
    reply = None if fault else "yes"
    return Consult(
        agent=agent,
        request="?",
        reply=reply,
        request_segment=1,
        request_start=0,
        reply_segment=2,
        fault=fault,
    )


@pytest.mark.parametrize(
    ("correct", "consults", "stop", "reward"),
    [
        (1.0, [], "eos", 1.0),
        (0.0, [], "eos", 0.0),
        (0.4, [asked("verify"), asked("knowledge")], "eos", 0.5),
        (1.0, [asked("verify"), asked("verify")], "eos", 1.0),  # twice the same
        (0.0, [asked("verify"), asked("knowledge")], "eos", 0.0),  # no bonus for a wrong answer
        (1.0, [asked("verify"), asked("knowledge", Fault.UNAVAILABLE)], "eos", 1.0),
        (1.0, [asked("verify", Fault.SPENT)], "eos", 1.0),  # its form is right
        (1.0, [asked("nobody", Fault.UNKNOWN)], "eos", -1.0),
        (1.0, [], "length", -1.0),
        (1.0, [], None, -1.0),
    ],
)
def test_the_weighted_sum_is_the_papers(
    correct: float, consults: list[Consult], stop: str | None, reward: float
):
    parts = hierarchical({"correct": correct, "derivation": 1.0}, consults, stop and StopReason(stop))
    assert parts is not None and (parts["derivation"], parts["correct"]) == (1.0, correct)
    assert sum(WEIGHTS.get(name, 0.0) * value for name, value in parts.items()) == pytest.approx(reward)


def test_what_was_not_scored_stays_so():
    assert hierarchical(None, [], StopReason.EOS) is None
