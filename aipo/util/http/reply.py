"""What a chat model replied: its answer, the thinking before it, and whether its server cut it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aipo.util.text import clean

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

THINKING_TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "<mm:think>": "</mm:think>",  # MiniMax
    "[THINK]": "[/THINK]",  # Magistral
    "◁think▷": "◁/think▷",  # Kimi
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
    "<|begin_of_thought|>": "<|end_of_thought|>",  # OpenThinker
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",  # gpt-oss
    "<|channel>thought": "<channel|>",  # Gemma 4
}
"""Tags around thinking, opening → closing, as models write them. `<thought>` or `<reason>` are none: prompts ask for them."""

_CUT = {"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"}
_FINISH_KEYS = ("finish_reason", "stop_reason", "done_reason", "finishReason", "stopReason")
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of a chat model.

    Args:
        text: the answer, without thinking.
        thinking: what it thought, in the reply or apart from it; None = nothing.
        finish: why it ended, in its server's word; None = its server does not say.
    """

    text: str
    thinking: str | None
    finish: str | None

    @property
    def cut(self) -> bool:
        """Did a limit on its tokens end it?"""
        return is_cut(self.finish)


def is_cut(finish: str | None) -> bool:
    """Is it the word of a server that a limit on its tokens ended a reply?"""
    return finish is not None and finish.lower() in _CUT


def read_reply(message: "BaseMessage", tags: Mapping[str, str]) -> Reply:
    """Reads a chat model's message.

    Args:
        tags: around thinking, opening → closing.
    """
    text, within = split_thinking(clean(str(message.text)), tags)
    thoughts = [thought for thought in (_apart(message), within) if thought]
    return Reply(text, "\n\n".join(thoughts) or None, _finish(message.response_metadata))


def split_thinking(text: str, tags: Mapping[str, str]) -> tuple[str, str | None]:
    """The text without what stands between `tags`, and what stood there; None = there is no tag.

    Thinking that is never closed goes to the end of the text: its server cut it. Before a closing tag without an
    opening one everything is thinking: many chat templates write the opening tag themselves.
    """
    if not tags:
        return text, None
    closings = {opening.lower(): closing.lower() for opening, closing in tags.items()}
    marks = sorted({*closings, *closings.values()}, key=len, reverse=True)
    answer, thoughts, closing, seen = "", list[str](), None, 0
    for mark in re.finditer("|".join(map(re.escape, marks)), text, re.IGNORECASE):
        name, before = mark[0].lower(), text[seen : mark.start()]
        if closing is None and name in closings:
            answer, closing = answer + before, closings[name]
        elif closing is None and thoughts and not text[mark.end() :].strip():
            answer += before  # a closing tag behind the answer is one too many
        elif closing is None or name == closing:
            thoughts.append(before if closing else answer + before)
            answer, closing = answer if closing else "", None
        else:
            continue  # another tag within thinking is a part of it
        seen = mark.end()
    if not seen:
        return text, None
    rest = text[seen:]
    answer, thoughts = (answer + rest, thoughts) if closing is None else (answer, [*thoughts, rest])
    return answer.strip(), "\n\n".join(filter(None, map(str.strip, thoughts)))


def _apart(message: "BaseMessage") -> str:
    """Thinking that the server gave beside the answer: in a field of its own, or as blocks of the content."""
    fields = (message.additional_kwargs.get(key) for key in _THINKING_KEYS)
    blocks = [block for block in message.content if isinstance(block, dict)]
    thoughts = [*fields, *(block.get(key) for block in blocks for key in _THINKING_KEYS)]
    return clean("\n\n".join(thought for thought in thoughts if isinstance(thought, str) and thought))


def _finish(metadata: Mapping[str, Any]) -> str | None:
    details = metadata.get("incomplete_details")
    words = [details.get("reason") if isinstance(details, Mapping) else None]
    words += [metadata.get(key) for key in _FINISH_KEYS]
    return next((clean(word) for word in words if isinstance(word, str) and word), None)
