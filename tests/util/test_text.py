"""Words for numbers."""

import pytest

from aipo.util.text import counted


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens"), (1200, "1,200 tokens")]
)
def test_a_count_agrees_with_its_noun(count: int, words: str) -> None:
    assert counted(count, "token") == words
