"""LangChain's messages as a chat template reads them, and what is compared of them."""

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

from aipo.errors import PolicyError, one_of

Message = dict[str, Any]
_ROLES = {HumanMessage: "user", AIMessage: "assistant", SystemMessage: "system", ToolMessage: "tool"}
_TEXT = frozenset({"text", "reasoning", "thinking", "tool_use", "tool_call"})


def openai_role(kind: str) -> str:
    """The role of a message in a request, by the kind that a `Call` says."""
    return {"human": "user", "ai": "assistant"}.get(kind, kind)


def for_template(message: BaseMessage) -> Message:
    """A message as chat templates take it.

    Raises:
        PolicyError: a kind of message, or a part of one, that has no place in a text.
    """
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": _text(message)}
    role = next((name for kind, name in _ROLES.items() if isinstance(message, kind)), None)
    if role is None:
        kinds = "messages of the system, a human, an AI or a tool"
        raise PolicyError(one_of("message", type(message).__name__, kinds, "a call of policy_chat"))
    content: Message = {"role": role, "content": _text(message)}
    if isinstance(message, ToolMessage):
        return content | {"name": message.name or "", "tool_call_id": message.tool_call_id}
    if not isinstance(message, AIMessage):
        return content
    if message.tool_calls:
        content["tool_calls"] = tool_calls(message.tool_calls)
    if reasoning := message.additional_kwargs.get("reasoning_content"):
        content["reasoning_content"] = reasoning
    return content


def tool_calls(calls: Sequence[ToolCall]) -> list[Message]:
    """Tool calls as chat templates take them: arguments are a mapping."""
    return [
        {"type": "function", "id": call["id"], "function": {"name": call["name"], "arguments": call["args"]}}
        for call in calls
    ]


def _text(message: BaseMessage) -> str:
    parts: Sequence[Any] = [message.content] if isinstance(message.content, str) else message.content
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else "text"
        if kind not in _TEXT:
            where = f"a message of kind {message.type!r} to policy_chat (the policy reads text)"
            raise PolicyError(one_of("part", kind, "text", where))
    return str(message.text)


def exact_form(message: BaseMessage) -> str:
    """All of a message that a chat template could show, and whose message it is."""
    calls = [[call["name"], call["args"], call["id"]] for call in getattr(message, "tool_calls", ())]
    identity = message.id if isinstance(message, AIMessage) else getattr(message, "name", None)
    return _json([message.type, _text(message), calls, identity])


def loose_form(message: BaseMessage) -> str:
    """As `exact_form`; of an AI's message only the words and the tool calls, however they are written."""
    if not isinstance(message, AIMessage):
        return exact_form(message)
    calls = [[call["name"], call["args"]] for call in message.tool_calls]
    return _json([message.type, _text(message).split(), calls])


def chained(start: str, forms: Sequence[str]) -> list[str]:
    """A digest for each beginning of a list of messages, behind what stands before them."""
    digests: list[str] = []
    for form in forms:
        start = blake2b(f"{start}\x1f{form}".encode(errors="surrogatepass"), digest_size=16).hexdigest()
        digests.append(start)
    return digests


def tools_form(tools: Sequence[Message]) -> str:
    """What is compared of a call's tools."""
    return _json(tools)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)
