"""Consults find the visits that answered them, in anybody's graph."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aipo.render.consults import consultations, unasked
from aipo.trace import Call, Consult, Mode, Role, Segment, Trace, Visit, segment
from kit import handmade


def said(role: Role, source: str) -> Segment:
    return segment(role, source, [1, 2], logprobs=[-0.1, -0.1] if role is Role.POLICY else None)


ASKS = said(Role.POLICY, "policy")
PROMPT = said(Role.PROMPT, "prompt")
NOTICE = said(Role.ENV, "notice")


def call(agent: str = "verify", **rest: object) -> Call:
    values: dict[str, object] = {
        "agent": agent,
        "visit": "?",
        "model": "m",
        "messages": ({"role": "human", "content": "?"},),
        "reply": "!",
        "tokens_in": 10,
        "tokens_out": 2,
        "started": 0.0,
        "seconds": 0.5,
    }
    return Call(**(values | rest))  # type: ignore[arg-type]


def visit(path: str, *calls: Call, seconds: float | None = 1.0, outcome: str = "ok") -> Visit:
    return Visit(path=path, started=0.0, seconds=seconds, outcome=outcome, calls=calls)


def asked(agent: str, at: int, *, reply: str | None = "yes") -> Consult:
    return Consult(
        agent=agent, request="?", reply=reply, request_segment=at, request_start=0, reply_segment=at + 1
    )


def trace(segments: tuple[Segment, ...], consults: tuple[Consult, ...], *visits: Visit, **rest: Any) -> Trace:
    values = {"consults": consults, "visits": visits, "mode": Mode.ASSISTED, "reward": None}
    return handmade.trace(*segments, **(values | rest))


def paths(one: Trace) -> list[list[str]]:
    return [[v.path for v in c.visits] for c in consultations(one)]


def test_each_consult_has_its_own_execution_of_the_agent() -> None:
    answer = said(Role.AGENT, "verify")
    twice = trace(
        (PROMPT, ASKS, answer, ASKS, answer, ASKS),
        (asked("verify", 1), asked("verify", 3)),
        visit("prompt"),
        visit("policy"),
        visit("verify", seconds=3.0),
        visit("verify/check", call()),
        visit("policy"),
        visit("verify", seconds=4.0),
        visit("verify/find", call()),
        visit("verify/check", call()),
        visit("score"),
    )
    first, second = consultations(twice)
    assert (first.number, first.seconds, [v.path for v in first.steps]) == (0, 3.0, ["verify/check"])
    assert (second.number, second.seconds) == (1, 4.0)
    assert [v.path for v in second.steps] == ["verify/find", "verify/check"]
    assert unasked(twice) == ()


def test_unknown_agents_and_failed_ones_are_answered_by_a_notice() -> None:
    failing = trace(
        (PROMPT, ASKS, NOTICE, ASKS, NOTICE, ASKS),
        (asked("calculator", 1, reply=None), asked("verify", 3, reply=None)),
        visit("policy"),
        visit("notice"),
        visit("policy"),
        visit("verify", outcome="ok"),
        visit("verify/check", call(error="refused", tokens_in=None, tokens_out=None, attempts=3)),
    )
    assert paths(failing) == [["notice"], ["verify", "verify/check"]]
    second = consultations(failing)[1]
    assert (second.tokens_in, second.tokens_out, second.retries) == (None, None, 2)


def test_an_inner_node_of_an_agents_name_answers_nobody() -> None:
    nested = trace(
        (PROMPT, ASKS, said(Role.AGENT, "answer"), ASKS),
        (asked("answer", 1),),
        visit("knowledge"),
        visit("knowledge/answer"),
        visit("answer"),
    )
    assert paths(nested) == [["answer"]]


def test_an_agent_inside_another_graph_is_found() -> None:
    nested = trace(
        (PROMPT, ASKS, said(Role.AGENT, "verify"), ASKS),
        (asked("verify", 1),),
        visit("peers"),
        visit("peers/verify"),
        visit("peers/verify/check"),
        visit("peers/other"),
    )
    assert paths(nested) == [["peers/verify", "peers/verify/check"]]


def test_visits_that_do_not_match_are_left_alone() -> None:
    strange = trace(
        (PROMPT, ASKS, said(Role.AGENT, "verify"), ASKS),
        (asked("verify", 1), asked("verify", 9)),
        visit("oracle", call()),
    )
    assert paths(strange) == [[], []]
    assert [c.seconds for c in consultations(strange)] == [None, None]
    assert [v.path for v in unasked(strange)] == ["oracle"]


def test_before_the_fork_the_visits_are_the_parents() -> None:
    answer = said(Role.AGENT, "verify")
    forked = trace(
        (PROMPT, ASKS, answer, ASKS, answer, ASKS),
        (asked("verify", 1), asked("verify", 3)),
        visit("policy"),
        visit("verify", call()),
        fork_token=7,
    )
    assert paths(forked) == [[], ["verify"]]


def test_calls_add_up_and_what_is_unknown_stays_so() -> None:
    one = trace(
        (PROMPT, ASKS, said(Role.AGENT, "verify"), ASKS),
        (asked("verify", 1),),
        visit("verify", call(cached=True)),
        visit("verify/check", call(cached=True, attempts=2, tokens_out=None)),
    )
    (consultation,) = consultations(one)
    assert (consultation.tokens_in, consultation.tokens_out) == (20, 2)
    assert (consultation.retries, consultation.cached) == (1, True)
    bare = consultations(trace((PROMPT, ASKS, NOTICE), (asked("x", 1),)))[0]
    assert (bare.calls, bare.cached, bare.tokens_in) == ((), False, None)


NODES = st.sampled_from(["a", "b", "notice", "a/x", "a/a", "b/x/y", "policy", "?"])


@given(
    st.lists(NODES),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 9))),
    st.none() | st.integers(0, 12),
)
def test_no_visit_answers_twice_and_nothing_is_invented(
    nodes: list[str], consults: list[tuple[str, int]], fork: int | None
) -> None:
    any_graph = trace(
        (PROMPT, ASKS, said(Role.AGENT, "a"), ASKS, NOTICE),
        tuple(asked(agent, at) for agent, at in consults),
        *(visit(path, call()) for path in nodes),
        fork_token=fork,
    )
    found = consultations(any_graph)
    assert [c.consult for c in found] == list(any_graph.consults)
    claimed = [id(v) for c in found for v in c.visits]
    assert len(claimed) == len(set(claimed))
    left = [id(v) for v in unasked(any_graph)]
    assert sorted([*claimed, *left]) == sorted(map(id, any_graph.visits))
