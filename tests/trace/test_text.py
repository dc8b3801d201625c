"""Texts of segments: joined they are the text of the context, whatever the tokenizer does at the seams."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Metaspace

from aipo.policies.scripted import CharTokenizer
from aipo.trace.text import Decode, Ids, texts_of

CHARACTERS = CharTokenizer(specials=("<consult:verify>", "</consult>"))


def words() -> Tokenizer:
    """FullWeights words, as sentencepiece marks them."""
    vocab = {"<unk>": 0, "▁so": 1, "▁the": 2, "▁answer": 3, "s": 4, "▁": 5, ".": 6}
    made = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens([AddedToken("</s>", special=True)])
    return made


def llama() -> Tokenizer:
    """The decoder of Llama 2: bytes for what it has no token for."""
    vocab = {"▁a": 0, "b": 1, "▁": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    made = Tokenizer(BPE(vocab, [], byte_fallback=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def plain_bytes() -> Tokenizer:
    """One token per byte."""
    made = Tokenizer(BPE({letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<eos>", special=True)])
    return made


def decoder(tokenizer: Tokenizer) -> Decode:
    return lambda ids: tokenizer.decode(ids.tolist(), skip_special_tokens=False)


WORDS, LLAMA, BYTES = (decoder(made()) for made in (words, llama, plain_bytes))
EURO = plain_bytes().encode("€").ids


def ids(*values: int) -> Ids:
    return np.array(values, np.int32)


def test_the_space_at_a_seam_is_kept() -> None:
    assert texts_of([ids(1), ids(2, 3), ids(3), ids(4, 7)], WORDS) == (
        "so",
        " the answer",
        " answer",
        "s</s>",
    )
    assert WORDS(ids(1)) + WORDS(ids(2, 3)) == "sothe answer"


def test_the_first_segment_begins_without_a_space() -> None:
    assert texts_of([ids(2), ids(2)], WORDS) == ("the", " the")
    assert texts_of([ids(), ids(2), ids(2)], WORDS) == ("", "the", " the")


def test_a_character_is_text_of_the_segment_that_completes_it() -> None:
    a, b = plain_bytes().encode("ab").ids
    first, *middle, last = EURO
    assert texts_of([ids(a, first), ids(*middle, last, b)], BYTES) == ("a", "€b")
    assert texts_of([ids(a, first), ids(*middle), ids(last, b)], BYTES) == ("a", "", "€b")
    assert texts_of([ids(a, *EURO), ids(*EURO)], BYTES) == ("a€", "€")


def test_bytes_that_are_never_completed_stay_where_they_are() -> None:
    a, b = plain_bytes().encode("ab").ids
    assert texts_of([ids(a, EURO[0]), ids(b), ids(EURO[0])], BYTES) == ("a\ufffd", "b", "\ufffd")


def test_a_decoder_that_waits_for_the_end_of_a_run_of_bytes() -> None:
    euros = [3 + byte for byte in "€".encode() * 8]
    assert texts_of([ids(0, *euros), ids(*euros[:2]), ids(*euros[2:], 0)], LLAMA) == (
        "a€€€€€€€€",
        "",
        "€€€€€€€€ a",
    )


def test_no_segments_have_no_texts() -> None:
    assert texts_of([], WORDS) == ()
    assert texts_of([ids(), ids()], WORDS) == ("", "")


def test_time_is_linear() -> None:
    """Few tokens are decoded besides the segments' own."""
    decoded: list[int] = []

    def counted(own: Ids) -> str:
        decoded.append(len(own))
        return WORDS(own)

    texts_of([ids(1, 2, 3)] * 1000, counted)
    assert sum(decoded) < 3000 * 20


def cut(values: Sequence[int], places: Sequence[int]) -> list[Ids]:
    ends = sorted(place % (len(values) + 1) for place in places)
    return [ids(*values[begin:end]) for begin, end in pairwise([0, *ends, len(values)])]


PLACES = st.lists(st.integers(0, 100), max_size=6)


def exact(segments: Sequence[Ids], decode: Decode) -> tuple[str, ...]:
    """By whole prefixes, never mind the time."""
    whole = decode(np.concatenate(segments))
    ends = [0]
    for stop in range(1, len(segments)):
        before = decode(np.concatenate(segments[:stop]))
        same = (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b)
        ends.append(next(same, min(len(before), len(whole))))
    return tuple(whole[begin:end] for begin, end in pairwise([*accumulate(ends, max), len(whole)]))


@given(st.lists(st.integers(0, 7), max_size=40), PLACES)
def test_words_join_to_the_whole(values: list[int], places: list[int]) -> None:
    segments = cut(values, places)
    assert texts_of(segments, WORDS) == exact(segments, WORDS)
    assert "".join(texts_of(segments, WORDS)) == WORDS(ids(*values))


@given(st.text("aé€😀\ufffd", max_size=12), PLACES)
def test_bytes_of_a_text_join_to_the_text(text: str, places: list[int]) -> None:
    segments = cut(plain_bytes().encode(text).ids, places)
    assert "".join(texts_of(segments, BYTES)) == text
    assert texts_of(segments, BYTES) == exact(segments, BYTES)


@pytest.mark.parametrize("decode", [BYTES, LLAMA])
@given(values=st.lists(st.integers(0, 256), max_size=40), places=PLACES)
def test_any_bytes_join_to_the_whole(decode: Decode, values: list[int], places: list[int]) -> None:
    assert "".join(texts_of(cut(values, places), decode)) == decode(ids(*values))


@given(st.text("ab<eos/:cnultvrify>€", max_size=30), PLACES)
def test_characters_are_what_each_segment_says_by_itself(text: str, places: list[int]) -> None:
    segments = cut(CHARACTERS.encode(text, control=True), places)
    assert texts_of(segments, CHARACTERS.decode) == tuple(map(CHARACTERS.decode, segments))
