"""Blocks of keys and values are found by everything before them, and the least recently used make room."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from aipo.policies.local.prefix_cache import BLOCK, PrefixCache


def states(ids: np.ndarray) -> torch.Tensor:
    """Numbers that tell a token's context, as keys and values do; shape (1, 2, 1, T, 1)."""
    sums = np.array([hash(ids[: i + 1].tobytes()) % 2**20 for i in range(len(ids))], np.float32)
    return torch.from_numpy(np.stack([sums, -sums]))[None, :, None, :, None]


def tokens(*blocks: int, rest: int = 0) -> np.ndarray:
    """A context of blocks of one id each, and some tokens that fill no block."""
    return np.repeat(np.array([*blocks, 9]), [BLOCK] * len(blocks) + [rest])


def empty() -> PrefixCache:
    return PrefixCache((1, 2, 1, 1), torch.zeros(0))


def test_whole_blocks_are_known_again():
    cache, context = empty(), tokens(1, 2, rest=5)
    cache.write(context, states(context), limit=8)
    places = cache.match(tokens(1, 2, 3))
    assert len(cache) == len(places) == 2
    torch.testing.assert_close(cache.read(places), states(context)[:, :, :, : 2 * BLOCK], atol=0, rtol=0)


def test_equal_ids_behind_another_context_are_another_block():
    cache = empty()
    for context in (tokens(1, 2), tokens(3, 2)):
        cache.write(context, states(context), limit=8)
    assert len(cache) == 4
    assert cache.match(tokens(2)) == []
    assert len(cache.match(tokens(3, 2))) == 2


def test_the_least_recently_used_makes_room():
    cache = empty()
    for context in (tokens(1, 2), tokens(3)):
        cache.write(context, states(context), limit=3)
    cache.match(tokens(1, 2))
    cache.write(tokens(4), states(tokens(4)), limit=3)
    assert [len(cache.match(c)) for c in (tokens(1, 2), tokens(3), tokens(4))] == [2, 0, 1]


def test_no_block_outlives_the_one_before_it():
    cache = empty()
    for i in range(20):
        cache.write(tokens(i, 1, 2), states(tokens(i, 1, 2)), limit=20)
    assert sum(len(cache.match(tokens(i, 1, 2))) for i in range(20)) == len(cache) == 20


def test_of_a_context_that_is_too_long_the_beginning_is_kept():
    cache, context = empty(), tokens(1, 2, 3)
    cache.write(context, states(context), limit=2)
    assert len(cache.match(context)) == 2


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=30), st.integers(1, 12))
def test_whatever_is_written_is_what_is_read(contexts: list[list[int]], limit: int):
    cache = empty()
    for blocks in contexts:
        context = tokens(*blocks, rest=3)
        cache.write(context, states(context), limit)
        places = cache.match(context)
        assert len(places) == min(len(blocks), limit)
        assert len(cache) <= limit
        if places:
            expected = states(context)[:, :, :, : BLOCK * len(places)]
            torch.testing.assert_close(cache.read(places), expected, atol=0, rtol=0)
