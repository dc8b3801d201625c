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
    """Whole words, as sentencepiece marks them."""
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


A, B = plain_bytes().encode("ab").ids
FIRST, *MIDDLE, LAST = EURO
EUROS = [3 + byte for byte in "€".encode() * 8]


@pytest.mark.parametrize(
    ("decode", "segments", "texts"),
    [
        # The space at a seam is kept, and the first segment begins without one.
        (WORDS, [[1], [2, 3], [3], [4, 7]], ("so", " the answer", " answer", "s</s>")),
        (WORDS, [[2], [2]], ("the", " the")),
        (WORDS, [[], [2], [2]], ("", "the", " the")),
        (WORDS, [], ()),
        (WORDS, [[], []], ("", "")),
        # A character is text of the segment that completes it; bytes that nobody completes stay where they are.
        (BYTES, [[A, FIRST], [*MIDDLE, LAST, B]], ("a", "€b")),
        (BYTES, [[A, FIRST], MIDDLE, [LAST, B]], ("a", "", "€b")),
        (BYTES, [[A, *EURO], EURO], ("a€", "€")),
        (BYTES, [[A, FIRST], [B], [FIRST]], ("a\ufffd", "b", "\ufffd")),
        # A decoder that waits for the end of a run of bytes.
        (LLAMA, [[0, *EUROS], EUROS[:2], [*EUROS[2:], 0]], ("a€€€€€€€€", "", "€€€€€€€€ a")),
    ],
)
def test_texts_of_segments(decode: Decode, segments: list[list[int]], texts: tuple[str, ...]) -> None:
    assert texts_of([ids(*part) for part in segments], decode) == texts


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
