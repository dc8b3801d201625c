"""Filters: words become conditions, and what is no filter is refused by name."""

import pytest

from aipo.errors import ConfigError
from aipo.trace.filters import Filter, parse_filter


def test_words_become_a_filter():
    words = [
        "step=3..7",
        "reward=0.5..",
        "agent=verify",
        "failed=no",
        "flawed=yes",
        "text=a=b",
        "kind=solo",
        "stop=eos",
    ]
    assert parse_filter(words) == Filter(
        step=(3, 7),
        reward=(0.5, None),
        agent="verify",
        failed=False,
        flawed=True,
        text="a=b",
        kind="solo",
        stop="eos",
    )
    assert parse_filter([]) == Filter()


@pytest.mark.parametrize(
    ("words", "splits"),
    [
        ("", False),
        ("step=3 task=q group=g", False),
        ("reward=1", True),
        ("step=3 kind=solo", True),
        ("failed=no", True),
    ],
)
def test_some_conditions_part_the_rollouts_of_a_group(words: str, splits: bool):
    assert parse_filter(words.split()).splits_groups is splits


@pytest.mark.parametrize(
    ("text", "ends"), [("3", (3, 3)), ("3..", (3, None)), ("..3", (None, 3)), ("1..2", (1, 2))]
)
def test_ranges(text: str, ends: tuple[int | None, int | None]):
    assert parse_filter([f"step={text}"]).step == ends


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("step=1 step=2", "the filter: got a key twice"),
        ("agents=verify", "the filter: got 'agents', allowed step=, task=, group=, agent=, "),
        ("verify", "the filter: got 'verify', allowed step="),
        ("step=x", "step: got 'x', allowed a number, or a range like 3..7"),
        ("step=..", "step: got '..', allowed a number"),
        ("step=1.5", "step: got '1.5', allowed"),
        ("step=7..3", "step: got 7..3, allowed a range that does not end before it begins"),
        ("flawed=1", "flawed: got '1', allowed yes, no"),
        ("failed=maybe", "failed: got 'maybe', allowed yes, no"),
        ("kind=alone", "kind: got 'alone', allowed assisted, solo, suppressed, expert, replay"),
        ("stop=tired", "stop: got 'tired', allowed eos, length, unscored, error, deadline, cancelled"),
    ],
)
def test_what_is_no_filter_is_refused(words: str, message: str):
    with pytest.raises(ConfigError) as caught:
        parse_filter(words.split())
    assert message in str(caught.value)
