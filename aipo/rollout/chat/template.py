"""A chat template, rendered once for each history and then only extended; and what a model wrote, parsed.

What was sampled is never rendered again. Behind a sampled turn come the new messages alone: they are rendered behind a
stand-in of the turn, and what the template puts behind the stand-in's end is what the policy is told.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from aipo.errors import ConfigError, PolicyError
from aipo.policies import Tokenizer
from aipo.policies.tokenizer import PLACE, HFTokenizer
from aipo.rollout.chat.messages import Message

_TURN = "\ufdd2turn\ufdd3"  # stands in for a sampled turn: characters that no text may hold
_USER: Message = {"role": "user", "content": "-"}
_PREFIX = 64  # tokens before a reply, which tell its parser what the template has begun


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A parsed turn. `fault` says why tool calls could not be read; None = there are none, or all could."""

    content: str
    reasoning: str | None = None
    tool_calls: Sequence[Message] = field(default_factory=tuple[Message, ...])
    fault: str | None = None


@lru_cache(maxsize=16)
def template_of(tokenizer: Tokenizer, name: str) -> "ChatTemplate":
    """The chat template of the tokenizer of policy `name`.

    Raises:
        ConfigError: it has none.
    """
    if not isinstance(tokenizer, HFTokenizer) or not tokenizer.inner.chat_template:
        raise ConfigError(
            f"chat template of policy {name!r}: got none ({type(tokenizer).__name__}), allowed a model with one: policy_chat "
            "renders messages by it (instruct models have one; or set tokenizer.chat_template and save the tokenizer)"
        )
    return ChatTemplate(tokenizer)


class ChatTemplate:
    """The chat template of one tokenizer."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        self._tokenizer = tokenizer
        self._response = _response_template(tokenizer)
        self._end: str | None = None
        self._shown: set[tuple[int | str, ...]] = set()

    @property
    def parses_tools(self) -> bool:
        """Can tool calls be read in what the model writes?"""
        return self._response is not None

    @property
    def end(self) -> str:
        """The control text that ends a turn of the assistant in the middle of a chat.

        Raises:
            PolicyError: the template does not show a chat of several turns, or ends no turn.
        """
        if self._end is None:
            answer: Message = {"role": "assistant", "content": _TURN}
            rest = self.render([_USER, answer, _USER], (), opened=False).rpartition(_TURN)[2]
            ends = self._tokenizer.control_in(rest)
            if not ends:
                raise PolicyError(
                    f"chat template of {self._tokenizer.inner.name_or_path!r}: got no control token behind an answer, "
                    "allowed a template that ends the assistant's turn with one"
                )
            self._end = ends[0]
        return self._end

    def begin(
        self, messages: Sequence[Message], tools: Sequence[Message], trusted: Sequence[bool]
    ) -> list[int]:
        """Ids of a history, open for the assistant.

        Args:
            trusted: of each message, whether its text may be control text.

        Raises:
            PolicyError: see `render`; or a text that spells control tokens does not stand in the chat as it is.
        """
        messages, contents = self._placed(messages, trusted)
        return self._encode(self.render(messages, tools), contents)

    def extend(
        self, messages: Sequence[Message], tools: Sequence[Message], *, calls: Sequence[Message], ended: bool
    ) -> list[list[int]]:
        """Ids of new messages behind a sampled turn, open for the assistant: one list for each message, and one where there is
        none.

        Args:
            calls: tool calls of that turn.
            ended: whether its end was sampled; else it is put in front.

        Raises:
            PolicyError: the template does not show the messages behind the turn.
        """
        turn: Message = {"role": "assistant", "content": _TURN}
        if calls:
            turn["tool_calls"] = [_without_arguments(call) for call in calls]
        self._check_shown([_USER, turn], messages)
        messages, contents = self._placed(messages, [False] * len(messages))
        texts = [
            self._behind(self.render([_USER, turn, *messages[:count]], tools, opened=count == len(messages)))
            for count in range(min(1, len(messages)), len(messages) + 1)
        ]
        cuts = [0, *accumulate((_shared(text, texts[-1]) for text in texts), max)]
        parts = [texts[-1][a:b] for a, b in pairwise(cuts)]
        parts[0] = ("" if ended else self.end) + parts[0]
        return self._encode_parts(parts, contents)

    def parse(
        self, token_ids: npt.NDArray[np.int32], tools: Sequence[Message], before: npt.NDArray[np.int32]
    ) -> ParsedTurn:
        """What a model wrote: by transformers' response templates, those that the tokenizer brings or TRL knows.

        Args:
            before: the context.
        """
        decode, ends = self._tokenizer.decode, {self._tokenizer.eos_id, self._tokenizer.token_id(self.end)}
        text = decode(token_ids[:-1] if int(token_ids[-1]) in ends else token_ids)
        if self._response is None:
            return ParsedTurn(text)
        inner: Any = self._tokenizer.inner
        try:
            parsed = inner.parse_response(
                decode(token_ids),
                schema=self._response,
                prefix=decode(before[-_PREFIX:]),
                tools=[*tools] or None,
            )
            calls = [_checked(call) for call in parsed.get("tool_calls") or ()]
        except (ValueError, TypeError) as error:
            return ParsedTurn(text, fault=str(error))
        return ParsedTurn(str(parsed.get("content") or ""), parsed.get("reasoning_content"), calls)

    def _behind(self, text: str) -> str:
        """The part of a rendered chat behind the end of the stand-in's turn."""
        return text.rpartition(_TURN)[2].partition(self.end)[2]

    def _check_shown(self, start: Sequence[Message], messages: Sequence[Message]) -> None:
        """Refuses a template that does not show such messages behind a turn's end; looks once for each list of roles."""
        roles = (len(start[1]), *(message["role"] for message in messages))
        if roles not in self._shown:
            places = [message | {"content": PLACE} for message in messages]
            text = self._behind(self.render([*start, *places], ()))
            if text.count(PLACE) != len(messages):
                raise PolicyError(
                    f"chat template of {self._tokenizer.inner.name_or_path!r}: got one that does not show {list(roles[1:])} "
                    "behind the end of an answer, allowed one that shows a chat of several turns (see `aipo doctor`)"
                )
            self._shown.add(roles)

    def _placed(
        self, messages: Sequence[Message], trusted: Sequence[bool]
    ) -> tuple[Sequence[Message], list[str] | None]:
        """The messages; and texts that are plain text whatever they spell, with places for them in the messages. None =
        no text spells anything."""
        untrusted = [m["content"] for m, safe in zip(messages, trusted, strict=True) if not safe]
        if not any(map(self._tokenizer.control_in, untrusted)):
            return messages, None
        pairs = zip(messages, trusted, strict=True)
        return [m if safe else {**m, "content": PLACE} for m, safe in pairs], untrusted

    def _encode(self, text: str, contents: Sequence[str] | None) -> list[int]:
        if contents is None:
            return self._tokenizer.encode(text, control=True)
        return self._tokenizer.woven(text, contents)

    def _encode_parts(self, parts: Sequence[str], contents: Sequence[str] | None) -> list[list[int]]:
        """Ids of a text, cut where its parts meet. A token that belongs to two parts is the second one's."""
        whole = self._encode("".join(parts), contents)
        starts, text = [0], ""
        for part in parts[:-1]:
            text += part
            ids = self._encode(text, contents and contents[: text.count(PLACE)])
            starts.append(max(starts[-1], _shared(ids, whole)))
        return [whole[a:b] for a, b in pairwise([*starts, len(whole)])]

    def render(self, messages: Sequence[Message], tools: Sequence[Message], *, opened: bool = True) -> str:
        """The text of a chat.

        Raises:
            PolicyError: the template, which is anybody's program, refuses it.
        """
        try:
            return self._tokenizer.chat_text(messages, opened=opened, tools=tools)
        except Exception as error:
            roles = [message["role"] for message in messages]
            raise PolicyError(
                f"chat template of {self._tokenizer.inner.name_or_path!r}: got messages of {roles}, which it refuses ({error})"
            ) from error


def _response_template(tokenizer: HFTokenizer) -> dict[str, Any] | None:
    """How replies are parsed: as the tokenizer says, or as TRL knows of its chat template."""
    from trl.chat_template_utils import add_response_schema

    inner: Any = tokenizer.inner
    if (own := getattr(inner, "response_template", None)) is not None:
        return own
    try:
        return add_response_schema(copy(inner)).response_template
    except ValueError:  # TRL does not know it
        return None


def _checked(call: Any) -> Message:
    """A tool call with a name and arguments.

    Raises:
        ValueError: it has none.
    """
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"a tool call without a name: {call!r}")
    arguments = function.get("arguments")
    if not isinstance(arguments, dict | None):
        raise ValueError(f"arguments of tool {function['name']!r}: {arguments!r}, which is no object")
    return {"name": function["name"], "args": arguments or {}}


def _without_arguments(call: Message) -> Message:
    return {**call, "function": {**call["function"], "arguments": {}}}


def _shared(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
