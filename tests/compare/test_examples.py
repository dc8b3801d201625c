"""Which traces a report shows, and that its captions say no more than they do."""

import pytest

from aipo.compare.examples import choose_examples
from aipo.trace import Mode, StopReason, Trace
from kit import handmade


def trace(task: str, kind: str, reward: float | None, *agents: str, reply: str | None = "!") -> Trace:
    """A trace without a reward has failed."""
    return handmade.trace(
        handmade.prompt(),
        trace_id=f"{task}/{kind}",
        task_id=task,
        mode=Mode.ASSISTED if kind == "assisted" else Mode.SOLO,
        forbidden_ids=(3,) if kind == "suppressed" else (),
        consults=tuple(handmade.consult(0, 0, 1, agent=agent, reply=reply) for agent in agents),
        reward=reward,
        stop_reason=StopReason.ERROR if reward is None else StopReason.EOS,
    )


def captions(before: list[Trace], after: list[Trace]) -> list[tuple[str, str]]:
    return [(e.trace.task_id, e.caption) for e in choose_examples(before, after)]


def test_the_task_that_help_made_solvable_is_shown() -> None:
    before = [
        trace("known", "solo", 1.0),
        trace("known", "assisted", 1.0, "knowledge"),
        trace("learned", "solo", 0.0),
        trace("learned", "assisted", 1.0, "knowledge", "verify", "knowledge"),
    ]
    after = [
        trace("known", "solo", 1.0),
        trace("learned", "solo", 1.0),
        trace("learned", "suppressed", 1.0),
        trace("hard", "solo", 0.0),
    ]
    assert captions(before, after) == [
        ("learned", "Before training, solo: wrong"),
        ("learned", "Before training, with agents: asks knowledge and verify, and is right"),
        ("learned", "After training, solo: right"),
        ("learned", "After training, solo, consult tags suppressed: right"),
        ("hard", "Another task after training, solo: wrong"),
    ]


WRONG = trace("a", "solo", 0.0)


@pytest.mark.parametrize(
    ("before", "after", "last"),
    [
        # among equals the first task is shown
        ([WRONG, trace("b", "solo", 0.0)], [WRONG], ("a", "After training, solo: wrong")),
        # only the first trace of a setting is used
        ([WRONG, trace("a", "solo", 1.0)], [trace("a", "assisted", 1.0)], ("a", "Before training, solo: wrong")),
        ([WRONG], [WRONG, trace("b", "solo", None)], ("b", "Another task after training, solo: the rollout failed")),
        # an agent that gave no reply did not help
        ([trace("a", "assisted", 1.0, "verify", reply=None)], [trace("a", "suppressed", 0.0)],
         ("a", "After training, solo, consult tags suppressed: wrong")),
    ],
)  # fmt: skip
def test_what_is_shown_last(before: list[Trace], after: list[Trace], last: tuple[str, str]) -> None:
    assert captions(before, after)[-1] == last


def test_no_shared_task_is_no_story() -> None:
    assert captions([], []) == captions([WRONG], [trace("b", "solo", 0.0)]) == []
