"""Keys and values of contexts that the model has seen, in blocks of tokens, found by the ids up to a block's end.

A rollout that comes back from an agent has its old context and a few tokens more, and the rollouts of a group begin
with one prompt: what they share is computed once. (vLLM caches prefixes by blocks, too: arXiv 2309.06180, section 4.4.)
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ids = npt.NDArray[np.int64]

# Tokens of a block. What a context has behind its last whole block is computed anew.
BLOCK = 16


class PrefixCache:
    """Blocks of keys and values, the least recently used of which make room.

    A block is known by the block before it and by its own ids, so that equal ids behind different contexts are
    different blocks. Valid for one state of the weights.

    Args:
        shape: (layers, 2, heads, width) of the keys and values of one token.
        like: a tensor that has their type and device.
    """

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        layers, two, heads, width = shape
        self._pool = like.new_empty((0, layers, two, heads, BLOCK, width))
        self._blocks: OrderedDict[tuple[int, bytes], tuple[int, int]] = OrderedDict()
        self._names = count(1)
        self._asked = self._found = 0  # tokens

    def __len__(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    @property
    def share(self) -> float:
        """The share of the tokens of all contexts so far that it knew; 0 without any."""
        return self._found / max(self._asked, 1)

    def match(self, ids: Ids) -> list[int]:
        """The places of the blocks that `ids` begin with; they count as used."""
        keys = self._path(ids)
        self._use(keys)
        self._asked += len(ids)
        self._found += len(keys) * BLOCK
        return [self._blocks[key][1] for key in keys]

    def read(self, places: Sequence[int]) -> Tensor:
        """Keys and values of the blocks, shape (layers, 2, heads, `BLOCK` · len(places), width)."""
        blocks = self._pool[torch.tensor(places, device=self._pool.device)]
        return blocks.permute(1, 2, 3, 0, 4, 5).flatten(3, 4)

    def write(self, ids: Ids, states: Tensor, limit: int) -> None:
        """Keeps what is not yet known of a context.

        Args:
            states: keys and values of `ids`, shape (layers, 2, heads, len(ids), width).
            limit: the most blocks that the cache may have.

        Raises:
            torch.OutOfMemoryError: there is no memory for them; nothing that is known is right any more, see `clear`.
        """
        keys = self._path(ids)
        first, end = len(keys), min(len(ids) // BLOCK, limit)
        if first >= end:
            return
        self._use(keys)  # or it could lose its beginning to its end
        places = self._room(end - first, limit)
        new = states[:, :, :, first * BLOCK : end * BLOCK].unflatten(3, (end - first, BLOCK))
        self._pool[torch.tensor(places, device=self._pool.device)] = new.permute(3, 0, 1, 2, 4, 5)
        name = self._blocks[keys[-1]][0] if keys else 0
        for index, place in zip(range(first, end), places, strict=True):
            key = (name, ids[index * BLOCK : (index + 1) * BLOCK].tobytes())
            name = next(self._names)
            self._blocks[key] = (name, place)
            keys.append(key)
        self._use(keys)

    def clear(self) -> None:
        """Forgets everything and gives the memory back."""
        self._blocks.clear()
        self._pool = self._pool[:0].clone()

    def _use(self, keys: Sequence[tuple[int, bytes]]) -> None:
        """Counts the blocks of a context as used."""
        for key in reversed(keys):  # a block outlives those behind it, which cannot be found without it
            self._blocks.move_to_end(key)

    def _path(self, ids: Ids) -> list[tuple[int, bytes]]:
        """The keys of the blocks that `ids` begin with."""
        keys: list[tuple[int, bytes]] = []
        name = 0
        for begin in range(0, len(ids) - BLOCK + 1, BLOCK):
            key = (name, ids[begin : begin + BLOCK].tobytes())
            if key not in self._blocks:
                break
            name = self._blocks[key][0]
            keys.append(key)
        return keys

    def _room(self, number: int, limit: int) -> list[int]:
        """Places for new blocks: new ones, then those of the blocks that nobody used for longest."""
        used = len(self._blocks)  # they have the places 0 to `used` - 1
        size = len(self._pool)
        if used + number > size < limit:
            grown = min(limit, max(2 * size, used + number))
            self._pool = torch.cat([self._pool, self._pool.new_empty((grown - size, *self._pool.shape[1:]))])
        places = list(range(used, min(used + number, len(self._pool))))
        while len(places) < number:
            places.append(self._blocks.popitem(last=False)[1][1])
        return places
