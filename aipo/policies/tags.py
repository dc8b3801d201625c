"""The tags of a graph in a policy's tokens: one token each, or whichever pieces spell them."""

import re
from collections.abc import Sequence
from functools import lru_cache
from string import Formatter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken

from aipo.errors import LoadError
from aipo.policies.base import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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


def add_tags(tokenizer: "PreTrainedTokenizerFast", tags: Sequence[str]) -> dict[int, list[int]]:
    """Makes each tag one token, which is not special, unless it is one already.

    Returns:
        The ids that spelled each new token until now, by its id.

    Raises:
        LoadError: the tokenizer does not take one of them.
    """
    inner: Any = tokenizer  # transformers types ids and texts as everything that they could be
    pieces = {tag: inner.encode(tag, add_special_tokens=False) for tag in tags}

    def is_token(tag: str, ids: list[int]) -> bool:
        return len(ids) == 1 and inner.decode(ids, skip_special_tokens=False) == tag

    lacking = [tag for tag in tags if not is_token(tag, pieces[tag])]
    inner.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in lacking])
    ids = {tag: inner.encode(tag, add_special_tokens=False) for tag in tags}
    if refused := [tag for tag in tags if not is_token(tag, ids[tag])]:
        raise LoadError(
            f"policy.add_tags: got a tokenizer that still cuts {refused} into several tokens, allowed one that takes tokens "
            "(or policy.add_tags=false)"
        )
    return {ids[tag][0]: pieces[tag] for tag in lacking}


@lru_cache
def _pattern(templates: tuple[str, ...]) -> re.Pattern[str]:
    def of(template: str) -> str:
        parts = Formatter().parse(template)
        return "".join(re.escape(text) + (_NAME if name is not None else "") for text, name, _, _ in parts)

    return re.compile("|".join(map(of, templates)))
