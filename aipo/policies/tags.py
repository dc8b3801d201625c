"""The tags of a graph in a policy's tokens: one token each, or whichever pieces spell them."""

import re
from functools import lru_cache
from string import Formatter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aipo.policies.base import Tokenizer

_NAME = r"[\w.-]{1,64}"


class Tags(NamedTuple):
    """Tags that a policy writes.

    Args:
        ids: of those that are one token.
        templates: their texts, with `{agent}` for any agent's name.
        tokenizer: what tells which tokens spell them; None = only `ids` are known.
    """

    ids: tuple[int, ...] = ()
    templates: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None

    def are_in(self, token_ids: npt.NDArray[np.int32]) -> bool:
        """Is one of them among the tokens, or spelled by several?"""
        return bool(np.isin(token_ids, self.ids).any()) or self._first(token_ids) is not None

    def before(self, token_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32] | None:
        """The tokens before the first of them. Where a token holds the beginning of the tag and the end of the text before
        it, that end is encoded by itself. None if there is no tag, or if no tokens have exactly that text."""
        start = self._first(token_ids)
        if start is None or self.tokenizer is None:
            return None
        decode = self.tokenizer.decode
        text = decode(token_ids)[:start]
        for count in range(len(token_ids) - 1, -1, -1):
            whole = decode(token_ids[:count])
            if text.startswith(whole):
                rest = self.tokenizer.encode(text[len(whole) :])
                made = np.concatenate([token_ids[:count], np.array(rest, np.int32)])
                return made if decode(made) == text and len(made) <= len(token_ids) else None
        return None

    def _first(self, token_ids: npt.NDArray[np.int32]) -> int | None:
        """The character at which the first of them begins."""
        if self.tokenizer is None or not self.templates:
            return None
        found = _pattern(self.templates).search(self.tokenizer.decode(token_ids))
        return found and found.start()


@lru_cache
def _pattern(templates: tuple[str, ...]) -> re.Pattern[str]:
    def of(template: str) -> str:
        parts = Formatter().parse(template)
        return "".join(re.escape(text) + (_NAME if name is not None else "") for text, name, _, _ in parts)

    return re.compile("|".join(map(of, templates)))
