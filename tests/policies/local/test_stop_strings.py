"""Which tokens may complete a stop string, and which do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.policies.local.stop_strings import completes, first_end, may_complete
from kit.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer()


def test_a_token_may_complete_a_stop_that_ends_in_one_of_its_characters():
    texts = ["a", ">", "x>y", "</", "", "\ufffd"]
    # "" is how some tokenizers show a lone space, U+FFFD is part of a character
    assert list(may_complete(("</consult>",), texts)) == [1, 2, 4, 5]
    assert list(may_complete(("ba", "/"), texts)) == [0, 3, 4, 5]


@given(text=st.text(alphabet="ab>é€😀"), stop=st.sampled_from(["b>", "é", "€😀", "😀b"]))
def test_the_first_token_that_completes_is_found_and_was_a_candidate(text: str, stop: str):
    """Every character but the letters is several tokens of one byte."""
    ids = np.array(TOKENIZER.encode(text), np.int32)
    candidates = set(may_complete((stop,), TOKENIZER.texts))
    found = [
        n
        for n in range(1, len(ids) + 1)
        if ids[n - 1] in candidates and completes((stop,), ids[:n], TOKENIZER)
    ]
    assert first_end((stop,), ids, TOKENIZER) == next(iter(found), None)
    if stop not in text:
        assert not found
    else:
        assert TOKENIZER.decode(ids[: found[0]]) == text[: text.index(stop) + len(stop)]


@pytest.mark.parametrize("before", [0, 1, 5, 200])
def test_only_the_end_of_a_long_row_is_decoded(before: int):
    ids = np.array(TOKENIZER.encode("é" * before + "a😀>"), np.int32)
    assert completes(("a😀>",), ids, TOKENIZER)
    assert not completes(("a😀>",), ids[:-1], TOKENIZER)
