"""Aligned differences: nothing is lost, the same is found, and producers are never mixed up."""

from collections.abc import Sequence
from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.viewer.pages.compare.diff import (
    Block,
    DiffKind,
    DiffSpan,
    SegmentPair,
    align,
    common_prefix,
    raw_spans,
    spans,
)

POLICY, KNOWLEDGE, VERIFY = ("policy", "policy"), ("agent", "knowledge"), ("agent", "verify")


def block(producer: tuple[str, str], text: str) -> Block:
    return Block(producer, tuple(text))


def test_equal_contexts_are_the_same_everywhere() -> None:
    context = [block(POLICY, "a?"), block(KNOWLEDGE, "b"), block(POLICY, "c")]
    assert align(context, context) == [SegmentPair(DiffKind.SAME, i, i) for i in range(3)]


def test_an_answer_that_changed_is_a_change_and_what_follows_is_aligned() -> None:
    left = [block(POLICY, "8@3?"), block(KNOWLEDGE, "553"), block(POLICY, "#623")]
    right = [block(POLICY, "8@3?"), block(KNOWLEDGE, "551"), block(POLICY, "#621")]
    assert align(left, right) == [
        SegmentPair(DiffKind.SAME, 0, 0),
        SegmentPair(DiffKind.CHANGED, 1, 1),
        SegmentPair(DiffKind.CHANGED, 2, 2),
    ]


def test_a_consult_more_was_added() -> None:
    left = [block(POLICY, "8@3?"), block(POLICY, "#623")]
    right = [block(POLICY, "8@3?"), block(KNOWLEDGE, "553"), block(POLICY, "553+70?"), block(POLICY, "#623")]
    assert [p.kind for p in align(left, right)] == [
        DiffKind.SAME,
        DiffKind.ADDED,
        DiffKind.ADDED,
        DiffKind.SAME,
    ]


def test_agents_are_not_compared_with_each_other() -> None:
    left, right = [block(KNOWLEDGE, "553")], [block(VERIFY, "553")]
    assert [p.kind for p in align(left, right)] == [DiffKind.REMOVED, DiffKind.ADDED]


def test_the_segment_that_is_most_alike_is_the_partner() -> None:
    left = [block(POLICY, "abcdef")]
    right = [block(POLICY, "zzz"), block(POLICY, "abcdeg")]
    assert align(left, right) == [SegmentPair(DiffKind.ADDED, None, 0), SegmentPair(DiffKind.CHANGED, 0, 1)]


def test_tokens_that_changed_stand_for_each_other() -> None:
    assert spans("553+70", "551+70") == [
        DiffSpan(True, (0, 2), (0, 2)),
        DiffSpan(False, (2, 3), (2, 3)),
        DiffSpan(True, (3, 6), (3, 6)),
    ]


def test_common_prefix() -> None:
    assert (common_prefix([1, 2, 3], [1, 2, 4]), common_prefix([], [1]), common_prefix([1], [1, 2])) == (
        2,
        0,
        1,
    )


tokens = st.lists(st.integers(0, 3), max_size=8).map(tuple)
contexts = st.lists(st.builds(Block, st.sampled_from([POLICY, KNOWLEDGE, VERIFY]), tokens), max_size=6)


@given(contexts, contexts)
def test_every_segment_is_there_once_and_in_order(left: list[Block], right: list[Block]) -> None:
    pairs = align(left, right)
    assert [p.left for p in pairs if p.left is not None] == list(range(len(left)))
    assert [p.right for p in pairs if p.right is not None] == list(range(len(right)))
    for pair in pairs:
        if pair.left is None or pair.right is None:
            assert (pair.kind is DiffKind.ADDED) == (pair.left is None) and pair.left != pair.right
        else:
            a, b = left[pair.left], right[pair.right]
            assert a.producer == b.producer and (pair.kind is DiffKind.SAME) == (a == b)


@given(contexts, contexts)
def test_the_sides_of_a_diff_are_the_tokens_of_the_contexts(left: list[Block], right: list[Block]) -> None:
    sides: tuple[list[object], list[object]] = ([], [])
    for pair in align(left, right):
        a = () if pair.left is None else left[pair.left].tokens
        b = () if pair.right is None else right[pair.right].tokens
        for span in spans(a, b):
            sides[0].extend(a[slice(*span.left)])
            sides[1].extend(b[slice(*span.right)])
            assert not span.same or a[slice(*span.left)] == b[slice(*span.right)]
    for context, side in zip((left, right), sides, strict=True):
        assert list(chain.from_iterable(b.tokens for b in context)) == side


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([1, 2, 3] * 5400, [1, 2, 3, 4] * 4100),  # compared one by one this would take minutes
        ("1 2 3 " * 2700, "1 2 3 4 " * 2050),
        ([1, 2] * 30_000, [2, 2, 1] * 20_000),
    ],
)
def test_loops_are_compared_like_anything_else(left: Sequence[object], right: Sequence[object]) -> None:
    found = spans(left, right)
    for side, text in enumerate((left, right)):
        ends = [span.right if side else span.left for span in found]
        assert [start for start, _ in ends] == [0, *(end for _, end in ends[:-1])] and ends[-1][1] == len(
            text
        )
    assert all(left[slice(*s.left)] == right[slice(*s.right)] for s in found if s.same)


@given(st.text("ab", max_size=9), st.text("ab", max_size=9))
def test_as_much_is_the_same_as_can_be(left: str, right: str) -> None:
    kept = [(left[slice(*s.left)], right[slice(*s.right)]) for s in raw_spans(left, right) if s.same]
    common = [set(chain.from_iterable(combinations(t, n) for n in range(len(t) + 1))) for t in (left, right)]
    assert all(a == b for a, b in kept)
    assert sum(len(a) for a, _ in kept) == max(map(len, common[0] & common[1]))


def test_long_contexts_take_no_time_to_speak_of() -> None:
    left = [i * i % 97 for i in range(16_000)]
    right = [*left[:8000], 5, 6, 7, *left[8000:]]
    found = spans(left, right)
    assert [s for s in found if not s.same] == [DiffSpan(False, (8000, 8000), (8000, 8003))]
