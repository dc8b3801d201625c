"""Words: what a trace's tokens say, without what the chat template and the tokenizer put around them."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from aipo.errors import LoadError, RunError
from aipo.schema import Stored
from aipo.trace import Role

_CONTENT = "CONTENT-OF-THE-MESSAGE"


class Words:
    """Texts of a run's tokens.

    Args:
        folder: of the policy's tokenizer; None when there is none, then only what was stored is known.
        eos: text of the end-of-sequence token; None takes the tokenizer's.
    """

    def __init__(self, folder: Path | None, *, eos: str | None = None) -> None:
        self.folder = folder
        self._eos = eos

    def with_texts(self, stored: Stored) -> Stored:
        """The trace with the text of each segment, decoded if they were not stored.

        Raises:
            RunError: they were not stored, and there is no tokenizer.
        """
        if stored.texts is not None:
            return stored
        return Stored(stored.trace, tuple(self._decode(s.token_ids, stored) for s in stored.trace.segments))

    def head(self, stored: Stored, segment: int, stop: int) -> str:
        """Text of the first `stop` tokens of a segment.

        Raises:
            RunError: that takes a tokenizer, and there is none.
        """
        own = stored.trace.segments[segment].token_ids
        return self._decode(own[:stop], stored) if stop else ""

    def prompt(self, stored: Stored) -> str | None:
        """What the policy was asked; None when its chat template cannot be taken off."""
        assert stored.texts is not None
        pairs = zip(stored.trace.segments, stored.texts, strict=True)
        text = "".join(text for segment, text in pairs if segment.role is Role.PROMPT)
        before, after = self._frame
        if len(text) < len(before) + len(after) or not text.startswith(before) or not text.endswith(after):
            return None
        return text[len(before) : len(text) - len(after)]

    def eos(self, stored: Stored) -> str:
        """Text of the token that ends a sequence.

        Raises:
            RunError: nobody knows it.
        """
        known = self._eos if self._eos is not None else self._settings.get("eos_token")
        if known is None:
            raise RunError(
                f"end of sequence of trace {stored.trace.trace_id!r}: got no tokenizer beside the traces that "
                "tells its text, allowed --eos TEXT"
            )
        return str(known["content"] if isinstance(known, dict) else known)

    def _decode(self, token_ids: Sequence[int] | npt.NDArray[np.int32], stored: Stored) -> str:
        if self._tokenizer is None:
            raise RunError(
                f"text of trace {stored.trace.trace_id!r}: got token ids, and no tokenizer to read them, allowed "
                "a run with a tokenizer/ beside its traces"
            )
        return self._tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=False)

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        if self.folder is None:
            return None
        try:
            return Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing more special
            raise LoadError(f"tokenizer in {self.folder}: got {error}, allowed a tokenizer.json") from error

    @cached_property
    def _settings(self) -> dict[str, Any]:
        file = self.folder / "tokenizer_config.json" if self.folder else None
        return json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """What the chat template puts before and after a question."""
        if self.folder is None:
            return "", ""
        if not (self.folder / "chat_template.jinja").is_file() and "chat_template" not in self._settings:
            return "", ""
        from transformers import AutoTokenizer

        chat = [{"role": "user", "content": _CONTENT}]
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
            text: str = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template is anybody's code
            raise LoadError(
                f"chat template in {self.folder}: got {error}, allowed one that takes a question"
            ) from error
        before, _, after = text.partition(_CONTENT)
        return before, after
