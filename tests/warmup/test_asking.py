"""How often a policy asks, counted and shown."""

from aipo.trace import Fault, Mode, StopReason
from aipo.warmup.asking import asking, table
from kit.handmade import consult, policy, prompt, trace


def test_rollouts_that_ask_requests_of_a_wrong_form_and_right_answers_are_counted() -> None:
    given = {"mode": Mode.ASSISTED, "reward_parts": {"correct": 1.0}}
    wrong, spent = (consult(1, 0, 2, fault=fault, reply=None) for fault in (Fault.UNCLOSED, Fault.SPENT))
    segments = (prompt(), policy("a"))
    rollouts = [
        trace(*segments, consults=(consult(1, 0, 2), wrong), **given),
        trace(*segments, consults=(consult(1, 0, 2), spent), **given),
        trace(*segments, **given),
        trace(*segments, mode=Mode.ASSISTED, reward=0.0, reward_parts={"correct": 0.0}),
        trace(*segments, mode=Mode.ASSISTED, reward=None, stop_reason=StopReason.ERROR, error="e"),
    ]
    counted = asking(rollouts)
    assert counted == {"rollouts": 4, "requests": 4, "asking": 0.5, "malformed": 0.25, "solved": 0.75}
    assert asking([]) == {"rollouts": 0, "requests": 0, "asking": None, "malformed": None, "solved": None}


def test_the_table_has_a_line_for_each_split_where_there_are_several() -> None:
    numbers = {"rollouts": 2, "requests": 0, "asking": 0.0, "malformed": None, "solved": 0.5}
    before = {**numbers, "by_split": {"hard": 0.0, "easy": 0.0}}
    after = {**numbers, "asking": 0.5, "by_split": {"hard": 1.0, "easy": 0.0}}
    shown = table({"before": before, "after": after})
    assert shown.columns == ["the policy on held-out tasks", "before", "after"]
    assert [row[1:] for row in shown.rows[:5]] == [
        ["0.0%", "50.0%"],
        ["0.0%", "100.0%"],
        ["0.0%", "0.0%"],
        ["–", "–"],
        ["50.0%", "50.0%"],
    ]
    one = table({"before": {**numbers, "by_split": {"hard": 0.0}}})
    assert [row[0] for row in one.rows] == [row[0] for row in shown.rows if not row[0].startswith("  ")]
