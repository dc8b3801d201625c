"""What becomes of a LangGraph agent's chat: does the model's template go on from what was sampled, as rollouts do?

A rollout keeps the ids of every turn and renders only what is new. Another server renders the whole chat again. Each known
trap is tried, and the check says where both differ.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from aipo.doctor.check import Check, in_words
from aipo.errors import AipoError
from aipo.policies.tokenizer import HFTokenizer
from aipo.rollout.chat.graph import AnyGraph, is_chat_graph
from aipo.rollout.chat.messages import Message
from aipo.rollout.chat.template import ChatTemplate, template_of

_WHAT = "chat"
_TOOL: Message = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
_QUESTION: Message = {"role": "user", "content": "What is a lynx?"}
_CALL: Message = {
    "type": "function",
    "id": "a1b2c3d4e",
    "function": {"name": "look_up", "arguments": {"word": "lynx"}},
}
_RESULT: Message = {"role": "tool", "name": "look_up", "tool_call_id": "a1b2c3d4e", "content": "a cat"}
_THINKING = {"reasoning_content": "I look it up."}


class Trap(NamedTuple):
    """A chat in which templates are known to write a turn anew: the turn, and the message behind it."""

    name: str
    turn: Message
    behind: Message
    spaces: bool = False


TRAPS = (
    Trap("a further question", {"role": "assistant", "content": "A cat."}, _QUESTION),
    Trap("a tool's result", {"role": "assistant", "content": "", "tool_calls": [_CALL]}, _RESULT),
    Trap(
        "a tool call in other spaces",
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        _RESULT,
        spaces=True,
    ),
    Trap(
        "thinking before a tool's result",
        {"role": "assistant", "content": "", "tool_calls": [_CALL], **_THINKING},
        _RESULT,
    ),
    Trap(
        "thinking before a further question",
        {"role": "assistant", "content": "A cat.", **_THINKING},
        _QUESTION,
    ),
)


def check_chat(graph: AnyGraph, tokenizer: HFTokenizer) -> Iterator[Check]:
    """The checks of a graph that calls the policy as a chat model; none of any other graph."""
    if not is_chat_graph(graph):
        return
    try:
        template = template_of(tokenizer, "policy")
        yield _check_tools(template)
        yield from _check_traps(template, tokenizer)
    except AipoError as error:
        yield Check("fail", _WHAT, in_words(error))
        return
    found = (
        "other tools, another system prompt, a summarised or shortened past and sub-agents with a history of their own begin "
        "another history: a further row of the same rollout"
    )
    yield Check("ok", _WHAT, found)


def _check_tools(template: ChatTemplate) -> Check:
    if template.parses_tools:
        return Check("ok", "tool calls", "can be read in what the model writes")
    found = "nobody can read tool calls in what the model writes; an agent without tools needs none"
    return Check(
        "warn",
        "tool calls",
        found,
        "a model of which TRL knows the template, or a tokenizer with a response_template",
    )


def _check_traps(template: ChatTemplate, tokenizer: HFTokenizer) -> Iterator[Check]:
    same, otherwise = list[str](), list[str]()
    for trap in TRAPS:
        if "tool_calls" in trap.turn and not template.parses_tools:
            continue
        kept, rendered = both(template, tokenizer, trap)
        (same if kept == rendered else otherwise).append(trap.name)
    if same:
        yield Check("ok", _WHAT, f"goes on as the template renders it: {', '.join(same)}")
    if otherwise:
        found = (
            f"stays as it was sampled, where the template would write the turn anew: {', '.join(otherwise)}"
        )
        advice = (
            "nothing for training and `aipo eval`, which keep what was sampled; a server that renders whole chats shows the model "
            "the other text"
        )
        yield Check("warn", _WHAT, found, advice)


def both(template: ChatTemplate, tokenizer: HFTokenizer, trap: Trap) -> tuple[str, str]:
    """The text of a chat as rollouts have it, and as the template renders the whole of it.

    Raises:
        PolicyError: the template refuses such a chat, or does not show it.
    """
    tools: Sequence[Message] = [_TOOL] if "tool_calls" in trap.turn else []
    prompt = tokenizer.decode(np.array(template.begin([_QUESTION], tools, [True]), np.int32))
    turn = template.render([_QUESTION, trap.turn], tools, opened=False).removeprefix(prompt)
    turn = turn.partition(template.end)[0] + template.end
    written = turn.replace('": ', '":') if trap.spaces else turn
    new = template.extend([trap.behind], tools, calls=trap.turn.get("tool_calls", ()), ended=True)
    behind = tokenizer.decode(np.array([i for ids in new for i in ids], np.int32))
    return prompt + written + behind, template.render([_QUESTION, trap.turn, trap.behind], tools)
