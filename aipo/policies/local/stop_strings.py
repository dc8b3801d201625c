"""Stop strings: finds the token that completes one.

Decoding every row at every step would cost more than the model. Only a token whose own text holds the
last character of a stop string can complete it; for those the row's last tokens are decoded exactly.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from aipo.policies.base import Tokenizer

# A character may be spread over four tokens of one byte each.
_TOKENS_PER_CHARACTER = 4


def may_complete(stop: tuple[str, ...], texts: Sequence[str]) -> Iterator[int]:
    """Ids that can be the last token of a stop string; `texts` has the text of each id by itself.

    Part of a character shows as U+FFFD, and some tokenizers show a lone space as nothing: both may.
    """
    last = {s[-1] for s in stop} | {"\ufffd"}
    return (i for i, text in enumerate(texts) if not text or not last.isdisjoint(text))


def completes(stop: tuple[str, ...], token_ids: npt.NDArray[np.int32], tokenizer: Tokenizer) -> bool:
    """Does the last of `token_ids` complete a stop string? None of the earlier ones did."""
    window = _TOKENS_PER_CHARACTER * max(map(len, stop)) + 1
    text = tokenizer.decode(token_ids[-window:])
    return any(s in text for s in stop)


def first_end(stop: tuple[str, ...], token_ids: npt.NDArray[np.int32], tokenizer: Tokenizer) -> int | None:
    """How many of `token_ids` a sampler writes up to the first stop string; None if there is none."""
    text = tokenizer.decode(token_ids[:-1])
    if any(s in text for s in stop):
        for size in range(1, len(token_ids)):
            if completes(stop, token_ids[:size], tokenizer):
                return size
    return len(token_ids) if completes(stop, token_ids, tokenizer) else None
