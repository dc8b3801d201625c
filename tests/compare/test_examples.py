"""Which traces a report shows, and that its captions say no more than they do."""

from aipo.compare.examples import choose_examples
from aipo.trace import Consult, Mode, Role, StopReason, Trace, segment


def trace(task: str, setting: str, reward: float | None, *agents: str, **rest: object) -> Trace:
    consults = tuple(
        Consult(agent=a, request="?", reply="!", request_segment=0, request_start=0, reply_segment=1)
        for a in agents
    )
    values: dict[str, object] = {
        "trace_id": f"{task}/{setting}",
        "run_id": "r",
        "group_id": "g",
        "task_id": task,
        "step": 0,
        "index": 0,
        "mode": Mode.ASSISTED if setting == "assisted" else Mode.SOLO,
        "forbidden_ids": (3,) if setting == "suppressed" else (),
        "task": {},
        "seed": 0,
        "sampling": {},
        "segments": (segment(Role.PROMPT, "prompt", [1]),),
        "consults": consults,
        "reward": reward,
        "stop_reason": StopReason.EOS,
    }
    return Trace(**(values | rest))  # type: ignore[arg-type]


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


def test_among_equals_the_first_task_is_shown() -> None:
    same = [trace(t, "solo", 0.0) for t in ("a", "b")]
    assert captions(same, same)[0][0] == "a"


def test_only_the_first_trace_of_a_setting_is_used() -> None:
    before = [trace("a", "solo", 0.0), trace("a", "solo", 1.0)]
    assert captions(before, [trace("a", "assisted", 1.0)]) == [("a", "Before training, solo: wrong")]


def test_a_failed_rollout_is_called_failed() -> None:
    broken = trace("b", "solo", None, stop_reason=StopReason.ERROR, error="x")
    shown = captions([trace("a", "solo", 0.0)], [trace("a", "solo", 0.0), broken])
    assert shown[-1] == ("b", "Another task after training, solo: the rollout failed")


def test_an_agent_that_gave_no_reply_did_not_help() -> None:
    silent = Consult(
        agent="verify", request="?", reply=None, request_segment=0, request_start=0, reply_segment=1
    )
    shown = captions([trace("a", "assisted", 1.0, consults=(silent,))], [trace("a", "solo", 1.0)])
    assert shown[0] == ("a", "Before training, with agents: right")


def test_no_shared_task_is_no_story() -> None:
    assert choose_examples([], []) == []
    assert choose_examples([trace("a", "solo", 0.0)], [trace("b", "solo", 0.0)]) == []
