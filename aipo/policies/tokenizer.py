"""A transformers tokenizer behind the `Tokenizer` protocol, safe for text that is not trusted.

`split_special_tokens=True` protects special tokens only; a tokenizer's other added tokens (Qwen's
`<tool_call>`, a project's own tags) would still be recognised in anybody's text, and a word-level model may
hold them in its own vocabulary. So untrusted text goes through a copy of the tokenizer from which every
added token has been taken out.
"""

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from aipo.errors import LoadError, PolicyError
from aipo.policies.control_tokens import control_tokens
from aipo.policies.template_date import with_date

# Stands in for a question while the prompt around it is rendered: characters that no text may hold.
PLACE = "\ufdd2question\ufdd3"


class HFTokenizer:
    """Implements `aipo.policies.base.Tokenizer`.

    Args:
        tokenizer: a fast tokenizer with an end token.
        date: the day that the chat template is told; None = today.

    Raises:
        LoadError: it is not a fast one, or has no end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, date: datetime.date | None = None) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise LoadError(f"tokenizer: got {type(tokenizer).__name__}, allowed a fast tokenizer")
        # Any: transformers types ids and texts as everything that they could be.
        inner: Any = tokenizer
        if inner.eos_token_id is None:
            raise LoadError(f"end token of tokenizer {inner.name_or_path!r}: got None, allowed a token")
        self.inner = inner
        self.date = date or datetime.date.today()
        self.eos_id: int = inner.eos_token_id
        self.pad_id: int = self.eos_id if inner.pad_token_id is None else inner.pad_token_id
        self._controls = control_tokens(inner.added_tokens_decoder, inner.unk_token)
        self._added = frozenset(self._controls)
        self._size = 1 + max(inner.get_vocab().values())
        self._definition: dict[str, Any] = json.loads(inner.backend_tokenizer.to_str())
        self._plain = Backend.from_str(json.dumps(without_added_tokens(self._definition, self._added)))

    def __len__(self) -> int:
        return self._size

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """See `aipo.policies.base.Tokenizer.encode`. Untrusted text yields no id of an added token, special or
        not, that controls anything (`aipo.policies.control_tokens`).

        Raises:
            PolicyError: the text spells the stand-in of an added token.
        """
        if control:
            return self.inner.encode(text, add_special_tokens=False, split_special_tokens=False)
        token_ids = self._plain.encode(text, add_special_tokens=False).ids
        if not self._added.isdisjoint(token_ids):
            raise PolicyError(f"untrusted text: got an added token, allowed plain text, in {text[:200]!r}")
        return token_ids

    def encode_prompt(self, text: str, *, untrusted: str = "") -> list[int]:
        """See `aipo.policies.base.Tokenizer.encode_prompt`.

        Raises:
            PolicyError: the chat template leaves out what the user says, or a question that spells control tokens does
                not stand in the prompt as it is.
        """
        if untrusted and self.control_in(untrusted):
            found = untrusted if untrusted in text else untrusted.strip()  # a prompt may trim the question
            if not (count := text.count(found)):
                raise PolicyError(_changed(untrusted))
            placed = self._templated(text.replace(found, PLACE))
            return [*self._beginning, *self.woven(placed, [found] * count)]
        return [*self._beginning, *self.encode(self._templated(text), control=True)]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a chat with an agent, open for the assistant: through the chat template where there is one, else line
        by line. A message that spells special tokens (ends of turns) is encoded as plain text.

        Raises:
            PolicyError: such a message does not stand in the chat as it is.
        """
        contents = [message["content"] for message in messages]
        controls = {text for content in contents for text in self.control_in(content)}
        forged = controls & {str(token) for token in self.inner.all_special_tokens}
        if forged:
            messages = [{**message, "content": PLACE} for message in messages]
        lines = "\n".join(message["content"] for message in messages)
        text = self.chat_text(messages) if self.inner.chat_template else lines
        return self.woven(text, contents) if forged else self.encode(text, control=True)

    def control_in(self, text: str) -> list[str]:
        """See `aipo.policies.base.Tokenizer.control_in`."""
        ids = dict.fromkeys(self.encode(text, control=True))
        return [self._controls[i] for i in ids if i in self._controls]

    def woven(self, text: str, contents: Sequence[str]) -> list[int]:
        """Ids of a prompt in which `contents` are plain text; `text` has a place for each of them.

        Raises:
            PolicyError: the chat template has no place for one, or more places.
        """
        first, *parts = text.split(PLACE)
        if len(parts) != len(contents):
            raise PolicyError(_changed(contents[0]))
        token_ids = self.encode(first, control=True)
        for content, part in zip(contents, parts, strict=True):
            token_ids += self._encode_behind(content) if token_ids else self.encode(content)
            token_ids += self._encode_behind(part, control=True)
        return token_ids

    def _encode_behind(self, text: str, *, control: bool = False) -> list[int]:
        """Ids of a text that stands behind another one: SentencePiece puts a space before the first word only."""
        token_ids = self.encode(text, control=control)
        behind = self.encode(f"\n{text}", control=control)
        begin = self.encode("\n", control=control)
        # An unknown line break would be one token with unknown characters behind it.
        apart = behind[: len(begin)] == begin and self.inner.unk_token_id not in begin
        if not (self._begins_with_space and apart):
            return token_ids
        return behind[len(begin) :]

    @cached_property
    def _begins_with_space(self) -> bool:
        """Does it put a space before a text?"""
        begin = self.encode("\n")
        return self.encode("\na")[len(begin) :] != self.encode("a")

    def _templated(self, text: str) -> str:
        if not self.inner.chat_template:
            return text
        if not self._shows_messages:
            raise PolicyError(
                f"chat template of {self.inner.name_or_path!r}: got one that leaves out a message which is text, allowed one "
                "that shows it (some templates want a list of parts)"
            )
        return self.chat_text([{"role": "user", "content": text}])

    @cached_property
    def _shows_messages(self) -> bool:
        return PLACE[0] in self.chat_text([{"role": "user", "content": PLACE}])

    @cached_property
    def frame(self) -> tuple[str, str]:
        """What the chat template puts before and behind a user's message; nothing without a template.

        Raises:
            Exception: the template is anybody's program.
        """
        if not self.inner.chat_template:
            return "", ""
        before, _, after = self.chat_text([{"role": "user", "content": PLACE}]).partition(PLACE)
        return before, after

    @property
    def turn(self) -> tuple[str, str]:
        """See `aipo.policies.base.Tokenizer.turn`."""
        return self._turn

    @cached_property
    def _turn(self) -> tuple[str, str]:
        """What the chat template puts around a further message.

        Raises:
            PolicyError: the chat template does not show an answer and a further message.
        """
        if not self.inner.chat_template:
            return "", ""
        answer, further = f"{PLACE}1", f"{PLACE}2"
        chat = [
            {"role": "user", "content": PLACE},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": further},
        ]
        _, shown, rest = self.chat_text(chat).partition(answer)
        before, again, after = rest.partition(further)
        if not (shown and again):
            raise PolicyError(
                f"chat template of {self.inner.name_or_path!r}: got one that leaves out an answer or the message after it, "
                "allowed one that shows a chat of several turns"
            )
        return before.removeprefix(self.inner.eos_token), after  # the answer's end was sampled

    def chat_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        opened: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The text of a chat through the chat template, which is told the tokenizer's day.

        Args:
            opened: it ends where the assistant begins.
            tools: JSON schemas of functions that the assistant may call.

        Raises:
            Exception: the template is anybody's program.
        """
        template = with_date(self.inner.get_chat_template(), self.date)
        return self.inner.apply_chat_template(
            [*messages],
            tools=[*tools] or None,
            chat_template=template,
            add_generation_prompt=opened,
            tokenize=False,
        )

    @cached_property
    def _beginning(self) -> list[int]:
        """Ids that the tokenizer itself puts before a text, such as BOS; a chat template brings its own."""
        if self.inner.chat_template:
            return []
        plain: list[int] = self.inner.encode("a", add_special_tokens=False)
        whole: list[int] = self.inner.encode("a", add_special_tokens=True)
        places = [i for i in range(len(whole)) if whole[i : i + len(plain)] == plain]
        return whole[: places[0]] if places else []

    def decode(self, token_ids: Sequence[int] | npt.NDArray[np.int32]) -> str:
        return self.inner.decode(
            [int(i) for i in token_ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def token_id(self, text: str) -> int | None:
        token_ids = self.encode(text, control=True)
        return token_ids[0] if len(token_ids) == 1 and self.decode(token_ids) == text else None

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Text of each id by itself."""
        return tuple(self.decode([i]) for i in range(len(self)))

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of everything that decides how text is encoded."""
        settings = {k: v for k, v in self._definition.items() if k not in ("truncation", "padding")}
        text = json.dumps([settings, self.inner.chat_template], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _changed(question: str) -> str:
    return (
        f"prompt: got another text in place of the question {question[:200]!r}, which spells control tokens, allowed the "
        "question as it is"
    )


def without_added_tokens(definition: dict[str, Any], added: frozenset[int]) -> dict[str, Any]:
    """A tokenizer's definition in which no text stands for the ids `added`.

    In the model's own vocabulary they get a stand-in of characters that no text may hold (Unicode
    noncharacters), so that every other id stays what it was.
    """
    model = dict(definition["model"])
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        renamed = {text for text, i in vocab.items() if i in added}
        model["vocab"] = {_stand_in(i) if i in added else text: i for text, i in vocab.items()}
    else:
        renamed = {text for i, (text, _) in enumerate(vocab) if i in added}
        model["vocab"] = [
            [_stand_in(i) if i in added else text, score] for i, (text, score) in enumerate(vocab)
        ]
    if "merges" in model:
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [(a, b) for a, b in pairs if not {a, b, a + b} & renamed]
    rest = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return {**definition, "model": model, **rest}


def _stand_in(token_id: int) -> str:
    return f"\ufdd0{token_id}\ufdd1"
