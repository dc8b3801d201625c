"""A rollout that a teacher wrote: its traces say so wherever they are read."""

import pytest

from aipo.errors import TraceError
from aipo.method.metrics import rollout_metrics
from aipo.method.rows import Code, distillable, rows_of
from aipo.render.display import show
from aipo.rollout.recorder import check_context
from aipo.trace import Fault, Mode, Role, Segment, Trace
from kit.handmade import agent, asking, consult, ids, policy, prompt, said, stored, trace


def teacher(text: str) -> Segment:
    return said(Role.TEACHER, "env", text)


@pytest.fixture
def taught() -> Trace:
    segments = (prompt("q"), teacher("1+1?"), agent("2"), teacher("#2"))
    return trace(*segments, mode=Mode.ASSISTED, consults=(consult(1, 0, 2),))


def test_its_kind_and_author_come_from_its_segments(taught: Trace) -> None:
    assert (taught.kind, taught.author, taught.mode) == ("taught", Role.TEACHER, Mode.ASSISTED)
    assert Trace.from_json(taught.to_json()) == taught
    assert (asking().kind, asking().author) == ("assisted", Role.POLICY)


def test_the_teachers_tokens_are_learned_as_agents_are_and_agents_are_context(taught: Trace) -> None:
    (row,) = rows_of(taught)
    codes = [Code.PROMPT, *[Code.AGENT] * 4, Code.CONTEXT, Code.AGENT, Code.AGENT]
    assert row.token_ids_T.tolist() == ids("q1+1?2#2") and row.codes_T.tolist() == codes
    assert (row.policy_tokens, row.agent_tokens) == (6, 0)
    assert not distillable(taught)


def test_a_teachers_request_of_a_wrong_form_is_context() -> None:
    """The answer is right, so it is learned; how its teacher asked is not."""
    notice = said(Role.ENV, "graph", "!")
    segments = (prompt("q"), teacher("<1"), notice, teacher("#2"))
    wrong = consult(1, None, 2, reply=None, error="malformed: !", fault=Fault.MALFORMED)
    (row,) = rows_of(trace(*segments, mode=Mode.ASSISTED, consults=(wrong,)))
    assert row.codes_T.tolist() == [Code.PROMPT, *[Code.CONTEXT] * 2, Code.ENV, Code.AGENT, Code.AGENT]


def test_metrics_count_it_apart(taught: Trace) -> None:
    metrics = rollout_metrics([taught, asking()], ["knowledge"])
    assert (metrics["rollouts/taught"], metrics["rollouts/assisted"], metrics["reward/taught"]) == (1, 1, 1)
    assert metrics["consults/knowledge"] == 1  # of two rollouts that may ask
    assert metrics["length/teacher"] == 6
    assert "length/teacher" not in rollout_metrics([asking()])


def test_it_is_shown_with_who_wrote_it(taught: Trace) -> None:
    shown = show(stored(taught))
    assert "taught" in str(shown.__rich__()) and 'class="teacher"' in shown._repr_html_()
    assert "teacher env" in shown._repr_html_()


def test_a_policy_and_a_teacher_never_share_a_rollout() -> None:
    with pytest.raises(TraceError, match="got 1, allowed none in a demonstration"):
        check_context("policy", (prompt("q"), teacher("a"), policy("b")), (), Mode.ASSISTED)
