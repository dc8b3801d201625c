"""Bodies of servers' answers: the error that one with status 200 holds, and whether one is a chat completion."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from aipo.errors import AnswerError

_NUMBERS = ("code", "status", "status_code", "statusCode", "http_status")
_ERROR = 500
_KINDS = (
    # First: such a request fits at no time, whatever else is said of quotas.
    (400, r"context.?(length|window|size)|(prompt|input|request|sequence).?(is )?too.?(long|large)"),
    (429, r"rate.?limit|too.?many|resource.?exhausted|throttl|quota"),
    (503, r"overload|unavailable|capacity|busy|try again"),
    (504, r"time.?out|timed out|deadline.?exceeded"),
    (401, r"unauthori[sz]ed|authenticat|api.?key"),
    (403, r"forbidden|permission|access.?denied"),
    (404, r"not.?found|does not exist|no such"),
    (422, r"validation|unprocessable"),
    (400, r"invalid|bad.?request|unsupported"),
    (_ERROR, r"server.?error|internal"),
)
"""Statuses of errors that say none, by words of their code, type or text; the first that fits."""
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")


def status_said(body: bytes) -> int | None:
    """The status of the error that `body` is; None if it is an answer, or nothing that says so.

    Gateways send `{"error": {"code": 429, ...}}`, `{"error": "overloaded"}` or `{"detail": ...}` with status 200. An
    error of no known kind is the server's own, 500.
    """
    if b'"choices"' in body and b'"error"' not in body:
        return None  # the usual answer: not read twice
    answer = _object(body)
    first = _first_choice(answer)
    error = answer.get("error") or answer.get("errors") or (isinstance(first, dict) and first.get("error"))
    if not error:
        told = answer.get("object") == "error" or not answer.keys().isdisjoint(
            {"detail", "message", "msg", "fault"}
        )
        if first is not None or not told:
            return None
    return error_status(error, answer)


def error_status(error: object, answer: Mapping[str, Any] | None = None) -> int | None:
    """The status that an error in a body is about; None if there is no error, and nothing names one.

    Args:
        answer: the body around it, which may say it in its stead.
    """
    places = list(_places(error, answer or {}))
    for place in places:
        for name in _NUMBERS:
            number = str(place.get(name, ""))
            if re.fullmatch("[45][0-9][0-9]", number):
                return int(number)
    # A code says most; a message is prose, and counts only where neither code nor type is known.
    names = ("code", "status", "type", "error_type", "message", "detail", "msg")
    texts = [text for name in names for place in places if isinstance(text := place.get(name), str)]
    for text in [*texts, error] if isinstance(error, str) else texts:
        for status, words in _KINDS:
            if re.search(words, text, re.IGNORECASE):
                return status
    return _ERROR if error else None


def _places(error: object, answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Where an error may say its status: in itself, or beside."""
    for one in [*error] if isinstance(error, list) else [error]:
        if isinstance(one, dict):
            yield one
    yield answer


def chat_answer(body: bytes, where: str) -> bytes:
    """The chat completion that `body` is. Usage that is no numbers of tokens is left out, since it is not known then; a
    message without a role is the assistant's.

    Args:
        where: of the server, for the error.

    Raises:
        AnswerError: it is none.
    """
    answer = _object(body)
    first = _first_choice(answer)
    message: Any = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict) or not isinstance(message.get("content", ""), str | list | None):
        got = body[:300].decode("utf-8", "replace")
        raise AnswerError(
            f"answer of {where}: got {got!r}, allowed a chat completion with a message in choices[0]"
        )
    usage = _counted(answer.get("usage"))
    if usage == answer.get("usage") and isinstance(message.get("role"), str):
        return body
    message["role"] = message.get("role") or "assistant"
    return json.dumps(answer | {"usage": usage}).encode()


def _first_choice(answer: Mapping[str, Any]) -> Any:
    """`choices[0]`, whatever it is; None where there is none."""
    choices = answer.get("choices")
    return choices[0] if isinstance(choices, list) and choices else None


def _counted(usage: object) -> dict[str, Any] | None:
    if not isinstance(usage, dict):
        return None
    counts = {name: tokens(usage.get(name)) for name in _COUNTS[:2]}
    if None in counts.values():
        return None
    total = tokens(usage.get("total_tokens"))
    details = {
        name: {key: count for key, count in usage[name].items() if tokens(count) is not None}
        for name in _DETAILS
        if isinstance(usage.get(name), dict)
    }
    return counts | ({} if total is None else {"total_tokens": total}) | details


def tokens(count: object) -> int | None:
    """A number of tokens as a server says it; None where it cannot be one."""
    if isinstance(count, bool) or not isinstance(count, int | float):
        return None
    return int(count) if 0 <= count < 2**53 and count == int(count) else None


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; an empty one where it holds something else. As the openai client reads it: with half
    emojis and NaN."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(answer, list) and answer and isinstance(answer[0], dict) and "error" in answer[0]:
        return answer[0]  # as Google sends it
    return answer if isinstance(answer, dict) else {}
