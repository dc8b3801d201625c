"""Texts of a trace's tokens, without what the chat template puts around a question."""

import datetime
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from aipo.errors import LoadError, RunError
from aipo.policies.control_tokens import control_tokens, spells_control
from aipo.policies.text_tokenizer import TextTokenizer
from aipo.trace import Mode, Trace, concatenate
from aipo.trace.arrow import Stored
from aipo.trace.text import texts_of

if TYPE_CHECKING:
    from aipo.policies import Tokenizer
    from aipo.policies.tokenizer import HFTokenizer

_BEFORE = 64  # tokens that are enough to tell whether a segment begins with a space


class TokenTexts:
    """Texts of a run's tokens.

    Args:
        folder: of the policy's tokenizer; None when there is none, then only what was stored is known.
        date: the day that the chat template was told; None = today.
    """

    def __init__(self, folder: Path | None, date: datetime.date | None = None) -> None:
        self.folder, self._date = folder, date

    @cached_property
    def tokenizer(self) -> "HFTokenizer":
        """The policy's tokenizer.

        Raises:
            RunError: there is none.
            LoadError: it cannot be read.
        """
        if self.folder is None:
            raise RunError(
                "tokenizer: got none beside the traces, allowed --tokenizer DIR, or a run with a tokenizer/"
            )
        from transformers import AutoTokenizer

        from aipo.policies.tokenizer import HFTokenizer

        try:
            inner = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            return HFTokenizer(inner, date=self._date)
        except Exception as error:  # the libraries raise nothing more special
            raise LoadError(f"tokenizer in {self.folder}: got {error}, allowed a fast tokenizer") from error

    def tokenizer_of(self, trace: Trace) -> "Tokenizer":
        """The tokenizer of a trace's ids: the policy's, or that of a text.

        Raises:
            RunError, LoadError: see `tokenizer`.
        """
        return TextTokenizer() if trace.mode is Mode.TEXT else self.tokenizer

    def with_texts(self, stored: Stored) -> Stored:
        """The trace with the text of each segment, decoded if they were not stored."""
        if stored.texts is not None:
            return stored
        ids = [segment.token_ids for segment in stored.trace.segments]
        return Stored(stored.trace, texts_of(ids, self.tokenizer_of(stored.trace).decode))

    def head(self, stored: Stored, segment: int, stop: int) -> str:
        """Text of the first `stop` tokens of a segment."""
        before = concatenate(stored.trace.segments[:segment])[-_BEFORE:]
        ids = stored.trace.segments[segment].token_ids
        decode = self.tokenizer_of(stored.trace).decode
        return texts_of([before, ids[:stop], ids[stop:]], decode)[1] if stop else ""

    def question(self, trace: Trace, text: str) -> str | None:
        """The question in the text of a trace's prompt; None when the chat template cannot be taken off."""
        before, after = (
            ("", "") if trace.mode is Mode.TEXT else self._frame
        )  # a served model's is its server's
        if len(text) < len(before) + len(after) or not text.startswith(before) or not text.endswith(after):
            return None
        return text[len(before) : len(text) - len(after)]

    def spells_control(self, trace: Trace, text: str, token_ids: Iterable[int]) -> bool:
        """Does `text` spell a special token that its own `token_ids` do not hold? Encoded again it would be one. Without
        any tokenizer nobody knows the special tokens of a served model's reader."""
        if trace.mode is Mode.TEXT:
            return self.folder is not None and spells_control(text, (), self._controls)
        return spells_control(text, token_ids, self._controls)

    @cached_property
    def _controls(self) -> dict[int, str]:
        inner = self.tokenizer.inner
        return control_tokens(inner.added_tokens_decoder, inner.unk_token)

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """What the chat template puts before and after a question."""
        try:
            return self.tokenizer.frame
        except Exception as error:  # a template is anybody's code
            raise LoadError(
                f"chat template in {self.folder}: got {error}, allowed one that takes a question"
            ) from error
