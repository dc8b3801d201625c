"""Consults find the visits that answered them, in anybody's graph."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.render.consults import consultations, unasked
from aipo.trace import Consult, Mode, Segment, Trace, Visit
from kit import handmade
from kit.handmade import agent, call, consult, env, policy, prompt


def visit(path: str, calls: int = 1) -> Visit:
    return handmade.visit(path, 0.0, 1.0, "ok", *[call(0.0, 0.5)] * calls)


def asked(name: str, at: int) -> Consult:
    return consult(at, 0, at + 1, agent=name)


ASKS, PROMPT, NOTICE, ANSWER = policy("ab"), prompt("ab"), env("ab"), agent("ab", source="verify")


def trace(segments: Sequence[Segment], consults: tuple[Consult, ...], *visits: Visit, **rest: Any) -> Trace:
    return handmade.trace(*segments, consults=consults, visits=visits, mode=Mode.ASSISTED, **rest)


def test_each_consult_has_its_own_execution_of_the_agent() -> None:
    nodes = ["policy", "verify", "verify/check", "policy", "verify", "verify/find", "verify/check", "score"]
    visits = [visit(node, calls=node.count("/")) for node in nodes]  # only nodes of the agent call a model
    segments = (PROMPT, ASKS, ANSWER, ASKS, ANSWER, ASKS)
    twice = trace(segments, (asked("verify", 1), asked("verify", 3)), *visits)
    first, second = consultations(twice)
    assert (first.number, second.number) == (0, 1)
    assert first.visit is visits[1] and second.visit is visits[4]
    assert [v.path for v in first.steps] == ["verify/check"]
    assert [v.path for v in second.steps] == ["verify/find", "verify/check"]
    assert (len(first.calls), len(second.calls)) == (1, 2)
    assert unasked(twice) == ()


@pytest.mark.parametrize(
    ("replies", "nodes", "fork", "expected"),
    [
        # Unknown agents and failed ones are answered by a notice.
        ({"sum": NOTICE, "verify": NOTICE}, "policy notice policy verify verify/check", None, "notice verify,verify/check"),
        # An inner node of an agent's name answers nobody.
        ({"answer": agent("ab", source="answer")}, "knowledge knowledge/answer answer", None, "answer"),
        # An agent inside another graph is found.
        ({"verify": ANSWER}, "peers peers/verify peers/verify/check peers/x", None, "peers/verify,peers/verify/check"),
        # Visits that do not match are left alone.
        ({"verify": ANSWER}, "oracle", None, ""),
        # A replay runs its graph from the start: its visits are its own, before the fork, too.
        ({"verify": ANSWER}, "policy verify verify/check policy", 6, "verify,verify/check"),
    ],
)  # fmt: skip
def test_visits_belong_to_the_consult_that_they_answer(
    replies: dict[str, Segment], nodes: str, fork: int | None, expected: str
) -> None:
    segments = [PROMPT, *(s for reply in replies.values() for s in (ASKS, reply))]
    consults = tuple(asked(name, 1 + 2 * i) for i, name in enumerate(replies))
    one = trace(segments, consults, *map(visit, nodes.split()), fork_token=fork)
    assert [",".join(v.path for v in c.visits) for c in consultations(one)] == expected.split(" ")
    assert [v.path for v in unasked(one)] == [n for n in nodes.split() if n not in re.split("[ ,]", expected)]


NODES = st.sampled_from(["a", "b", "notice", "a/x", "a/a", "b/x/y", "policy", "?"])


CONSULTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 9)))


@given(st.lists(NODES), CONSULTS, st.none() | st.integers(0, 12))
def test_no_visit_answers_twice_and_nothing_is_invented(
    nodes: list[str], consults: list[tuple[str, int]], fork: int | None
) -> None:
    any_graph = trace(
        (PROMPT, ASKS, agent("ab", source="a"), ASKS, NOTICE),
        tuple(asked(name, at) for name, at in consults),
        *map(visit, nodes),
        fork_token=fork,
    )
    matched = consultations(any_graph)
    assert [c.consult for c in matched] == list(any_graph.consults)
    claimed = [id(v) for c in matched for v in c.visits]
    assert len(claimed) == len(set(claimed))
    rest = [id(v) for v in unasked(any_graph)]
    assert sorted([*claimed, *rest]) == sorted(map(id, any_graph.visits))
