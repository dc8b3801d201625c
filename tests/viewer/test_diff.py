"""Aligned differences: nothing is lost, the same is found, and producers are never mixed up."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.viewer.pages.compare.diff import Block, DiffSpan, align, spans

PRODUCERS = {"p": ("policy", "policy"), "k": ("agent", "knowledge"), "v": ("agent", "verify")}


def blocks(*texts: str) -> list[Block]:
    """From 'k553': who made it, and the text."""
    return [Block(PRODUCERS[text[0]], text[1:]) for text in texts]


@pytest.mark.parametrize(
    ("left", "right", "kinds"),
    [
        (["pa?", "kb", "pc"], ["pa?", "kb", "pc"], "same same same"),
        (["p8@3?", "k553", "p#623"], ["p8@3?", "k551", "p#621"], "same changed changed"),
        (["p8@3?", "p#623"], ["p8@3?", "k553", "p553+70?", "p#623"], "same added added same"),
        (["k553"], ["v553"], "removed added"),  # agents are not compared with each other
        (["pabc"], ["pabd", "kx", "pzzz"], "changed added added"),
    ],
)
def test_segments_that_belong_together(left: list[str], right: list[str], kinds: str) -> None:
    assert [str(pair.kind) for pair in align(blocks(*left), blocks(*right))] == kinds.split()


@pytest.mark.parametrize(("left", "right", "end"), [("553+70", "551+70", 3), ("abXcYde", "abUcVde", 5)])
def test_a_short_stretch_between_changes_is_a_part_of_them(left: str, right: str, end: int) -> None:
    cuts = [(True, (0, 2)), (False, (2, end)), (True, (end, len(left)))]
    assert spans(left, right) == [DiffSpan(same, place, place) for same, place in cuts]


contexts = st.lists(st.builds(Block, st.sampled_from([*PRODUCERS.values()]), st.text("abcd", max_size=8)), max_size=6)  # fmt: skip


@given(contexts, contexts)
def test_every_segment_is_there_once_and_in_order(left: list[Block], right: list[Block]) -> None:
    pairs = align(left, right)
    assert [p.left for p in pairs if p.left is not None] == list(range(len(left)))
    assert [p.right for p in pairs if p.right is not None] == list(range(len(right)))
    for pair in pairs:
        if pair.left is None or pair.right is None:
            assert str(pair.kind) == ("added" if pair.left is None else "removed")
        else:
            a, b = left[pair.left], right[pair.right]
            assert a.producer == b.producer and (pair.kind == "same") == (a == b)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([1, 2, 3] * 5400, [1, 2, 3, 4] * 4100),  # compared one by one this would take minutes
        ("1 2 3 " * 2700, "1 2 3 4 " * 2050),
        ([1, 2] * 30_000, [2, 2, 1] * 20_000),
        ([i * i % 97 for i in range(16_000)], [5, *(i * i % 97 for i in range(16_000))]),
        ("", "ab"),
    ],
)
def test_sides_are_whole_and_the_same_is_the_same(left: Sequence[object], right: Sequence[object]) -> None:
    found = spans(left, right)
    for side, text in (("left", left), ("right", right)):
        ends = [getattr(span, side) for span in found]
        assert [start for start, _ in ends] == [0, *(end for _, end in ends[:-1])]
        assert ends[-1][1] == len(text)
    assert all(left[slice(*s.left)] == right[slice(*s.right)] for s in found if s.same)
