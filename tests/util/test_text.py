"""Words for numbers and errors."""

import pytest

from aipo.util.text import counted, error_text


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens"), (1200, "1,200 tokens")]
)
def test_a_count_agrees_with_its_noun(count: int, words: str) -> None:
    assert counted(count, "token") == words


def test_a_group_of_errors_says_what_is_in_it() -> None:
    """As a task group raises, which says no more than how many there are."""
    inner = ExceptionGroup("b", [KeyError("k")])
    assert error_text(ExceptionGroup("a", [ValueError("v"), inner])) == (
        "ExceptionGroup: a (2 sub-exceptions): ValueError: v; ExceptionGroup: b (1 sub-exception): KeyError: 'k'"
    )
