"""Texts of a trace's tokens, without what the chat template and the tokenizer put around them."""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from aipo.errors import LoadError, RunError
from aipo.policies.control_tokens import control_tokens, spells_control
from aipo.trace import concatenate
from aipo.trace.arrow import Stored
from aipo.trace.text import Decode, texts_of

_CONTENT = "CONTENT-OF-THE-MESSAGE"
_BEFORE = 64  # tokens that are enough to tell whether a segment begins with a space


class TokenTexts:
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
        ids = [segment.token_ids for segment in stored.trace.segments]
        return Stored(stored.trace, texts_of(ids, self._decoder(stored)))

    def head(self, stored: Stored, segment: int, stop: int) -> str:
        """Text of the first `stop` tokens of a segment.

        Raises:
            RunError: that takes a tokenizer, and there is none.
        """
        before = concatenate(stored.trace.segments[:segment])[-_BEFORE:]
        ids = stored.trace.segments[segment].token_ids
        return texts_of([before, ids[:stop], ids[stop:]], self._decoder(stored))[1] if stop else ""

    def question(self, text: str) -> str | None:
        """The question in the text of a prompt; None when the chat template cannot be taken off."""
        before, after = self._frame
        if len(text) < len(before) + len(after) or not text.startswith(before) or not text.endswith(after):
            return None
        return text[len(before) : len(text) - len(after)]

    def eos(self, stored: Stored) -> str:
        """Text of the token that ends a sequence.

        Raises:
            RunError: it is not known.
        """
        end = self._eos if self._eos is not None else self._special("eos_token")
        if end is None:
            raise RunError(
                f"end of sequence of trace {stored.trace.trace_id!r}: got no tokenizer_config.json that tells its "
                "text, allowed --eos TEXT"
            )
        return end

    def spells_control(self, text: str, token_ids: Iterable[int]) -> bool:
        """Does `text` spell a special token that its own `token_ids` do not hold? Encoded again it would be one."""
        return spells_control(text, token_ids, self._controls)

    def _decoder(self, stored: Stored) -> Decode:
        tokenizer = self._tokenizer
        if tokenizer is None:
            raise RunError(
                f"text of trace {stored.trace.trace_id!r}: got token ids, and no tokenizer to read them, allowed "
                "--tokenizer DIR, or a run with a tokenizer/"
            )
        return lambda ids: tokenizer.decode(ids.tolist(), skip_special_tokens=False)

    @cached_property
    def _controls(self) -> dict[int, str]:
        added = {} if self._tokenizer is None else self._tokenizer.get_added_tokens_decoder()
        return control_tokens(added, self._special("unk_token"))

    def _special(self, name: str) -> str | None:
        """Text of a special token, if the tokenizer's settings tell it."""
        text = self._settings.get(name)
        return text["content"] if isinstance(text, dict) else text

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
            raise RunError(
                "chat template: got no tokenizer beside the traces that tells it, allowed --tokenizer DIR, or a "
                "run with a tokenizer/"
            )
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
