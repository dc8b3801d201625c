"""Secrets are masked wherever text is recorded or printed: `clean` and `error_text` of `aipo.util.text` do it.

A secret is what a configuration names as one, or what an agent's client takes from the environment. Errors and logs lose
what only looks like one, too (servers like to repeat what they were sent): so does the value of an environment variable
whose name says that it is a secret (`HF_TOKEN`). A reply that the policy is given is not changed by such a guess.
"""

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from functools import lru_cache, partial
from types import TracebackType
from typing import Any
from urllib.parse import quote

MASK = "***"
_WORD = re.compile(r".{0,5}|[a-zA-Z]{0,15}", re.DOTALL)
"""A secret that is none (EMPTY, none, secret): a word that any text may hold."""
_NAME = re.compile(
    r"(key|token|secret|passw(or)?d|passphrase|auth|authorization|bearer|cookie|signature|\bsig)$",
    re.IGNORECASE,
)
_VALUE = re.compile(r"(?=.*[a-zA-Z])(?=.*\d).{12,}", re.DOTALL)
"""What looks like a secret in an environment variable; 123456 or created_at does not."""
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_PARAMETER = re.compile(
    r"(?<=[?&])([\w.-]*(?:key|token|secret|password|signature|sig))=([^&\s\"'<>]+)", re.IGNORECASE
)
_HEADER = re.compile(
    r"(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?|bearer\s+(?=\S*\d))[^\s\"',;}]+",
    re.IGNORECASE,
)
_FIELD = re.compile(
    r"(['\"][\w-]*(?:api[_-]?key|token|secret|password)['\"]\s*:\s*)(['\"])[^'\"]+\2", re.IGNORECASE
)
_SHAPE = re.compile(r"\b(?:sk-[\w-]{8,}|hf_\w{10,})")
_known: set[str] = set()


def keep_secret(*values: str | None) -> None:
    """From now on these are masked, also as they stand in an address or in JSON."""
    for value in values:
        if value is not None and not _WORD.fullmatch(value):
            _known.update(_writings(value))


def mask(text: str) -> str:
    """`text` without the values of secrets that were kept."""
    return _without(_known, text)


def mask_error(text: str) -> str:
    """The text of an error without secrets, and without what looks like one: values of environment variables, logins and
    keys in addresses, headers, fields of JSON, keys by their shape."""
    guessed = [value for name, value in os.environ.items() if _NAME.search(name) and _VALUE.fullmatch(value)]
    text = _LOGIN.sub(MASK, _without(_known.union(*map(_writings, guessed)), text))
    text = _PARAMETER.sub(rf"\1={MASK}", text)
    text = _FIELD.sub(rf"\1\2{MASK}\2", text)
    return _SHAPE.sub(MASK, _HEADER.sub(rf"\1{MASK}", text))


def is_open_secret(key: str, value: object) -> bool:
    """Does a setting look like a secret, by the end of its key or by its value?"""
    return bool(_NAME.search(key) or (isinstance(value, str) and (in_address(value) or _SHAPE.search(value))))


def in_address(text: str) -> bool:
    """Is there a login or a key in an address?"""
    return bool(_LOGIN.search(text) or ("://" in text and _PARAMETER.search(text)))


def mask_output() -> None:
    """Masks what this process prints of errors that nobody caught, and what libraries log."""
    if sys.excepthook is not _uncaught:
        logging.setLogRecordFactory(partial(_record, logging.getLogRecordFactory()))
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread


def _record(make: Callable[..., logging.LogRecord], *args: Any, **named: Any) -> logging.LogRecord:
    record = make(*args, **named)
    try:
        text = record.getMessage()
    except Exception:  # arguments that do not fit: logging itself says so, and its caller goes on
        return record
    if (masked := mask_error(text)) != text:
        record.msg, record.args = masked, None
    return record


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):  # it ends a thread, and is no error
        _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(kind: type[BaseException], error: BaseException | None, at: TracebackType | None) -> None:
    sys.stderr.write(mask_error("".join(traceback.format_exception(kind, error, at))))


def _writings(value: str) -> set[str]:
    return {value, quote(value, safe=""), json.dumps(value)[1:-1]}


def _without(values: Collection[str], text: str) -> str:
    return _pattern(frozenset(values)).sub(MASK, text) if values else text


@lru_cache
def _pattern(values: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(values, key=len, reverse=True))))
