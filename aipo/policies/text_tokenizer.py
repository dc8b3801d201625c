"""A tokenizer for models of which only text is known: a token is a character."""

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class TextTokenizer:
    """Implements `aipo.policies.base.Tokenizer`; its ids are those in traces of kind `text`."""

    eos_id = sys.maxunicode + 1
    turn = "", ""

    def __len__(self) -> int:
        return self.eos_id + 1

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """See `aipo.policies.base.Tokenizer.encode`; nothing in a text is control."""
        return list(map(ord, text))

    def encode_prompt(self, text: str, *, untrusted: str = "") -> list[int]:
        """See `aipo.policies.base.Tokenizer.encode_prompt`; the server has the chat template."""
        return self.encode(text)

    def control_in(self, text: str) -> list[str]:
        """See `aipo.policies.base.Tokenizer.control_in`; which tokens are control only the server knows."""
        return []

    def decode(self, token_ids: Sequence[int] | npt.NDArray[np.int32]) -> str:
        return "".join("" if i == self.eos_id else chr(i) for i in token_ids)

    def token_id(self, text: str) -> int | None:
        return ord(text) if len(text) == 1 else None
