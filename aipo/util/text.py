"""Text from any source: cleaned for storing in a file, and made safe to show."""

import difflib
import os
import re
import traceback
from typing import Any

import orjson

from aipo.errors import TraceError
from aipo.util.http.errors import http_details
from aipo.util.masking import mask, mask_error

ERROR_LIMIT = 2000
"""Characters that are kept of an error."""
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LIBRARY = re.compile(rf"<frozen|{re.escape(os.path.dirname(os.__file__))}/(?!site-packages|dist-packages)")


def to_json(value: object) -> bytes:
    """One line of JSON, as traces are written.

    Raises:
        orjson.JSONEncodeError: a set, an integer of more than 64 bits, a lone surrogate, ...
    """
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def parse_line(line: bytes | str, where: str) -> Any:
    """What a line of JSON holds.

    Raises:
        TraceError: it is torn; names `where`.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise TraceError(f"{where} is torn: {error}") from error


def fits_json(value: object) -> bool:
    """Can it be written?"""
    try:
        to_json(value)
    except orjson.JSONEncodeError:
        return False
    return True


def clean(text: str) -> str:
    """`text` with '?' for every lone surrogate (half an emoji), which no file and no tokenizer takes, and without the
    values of secrets."""
    return mask(text.encode("utf-8", "replace").decode())


def error_text(error: BaseException) -> str:
    """The text of an error in a trace: 'ValueError: its text', clean, without secrets and not endless. An HTTP client's
    error also says what it leaves out: cause, address, proxy."""
    try:
        said = str(error)
    except Exception as worse:  # an error is anybody's code, too
        said = f"no text, but a {type(worse).__name__}"
    if isinstance(error, BaseExceptionGroup):
        said += f": {'; '.join(map(error_text, error.exceptions))}"
    details = http_details(error)
    text = mask_error(f"{type(error).__name__}: {said}{f' ({details})' if details else ''}")
    return clean(text)[:ERROR_LIMIT]


def place(error: BaseException, *, without: str | None = None) -> str:
    """`file:line` that an error comes from: the innermost one outside Python's own library and the file `without`."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != without]
    frame = next((f for f in reversed(frames) if not _LIBRARY.match(f.filename)), frames[-1])
    return f"{frame.filename}:{frame.lineno}"


def visible(text: str) -> str:
    """`text` with every character that would steer the reader's eye or terminal shown by its code."""
    return _STEERING.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def cut(text: str, length: int) -> str:
    """The first `length` characters at most; an ellipsis is the last of them where some are missing."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def counted(count: int, noun: str) -> str:
    """'1 token', '1,200 tokens'; the noun's plural ends with s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """'4.2 ms', '288 ms', '1.24 s' or '3 min 20 s'."""
    if seconds < 0.0995:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 99.995:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def age(seconds: float) -> str:
    """'42 s', '3 min', '5 h' or '12 d'."""
    for unit, length, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{max(0, seconds) // length:.0f} {unit}"
    return f"{seconds // 86400:.0f} d"


def nearest(name: str, allowed: list[str], at: list[str]) -> str:
    """'; did you mean ...?' with the name of `allowed` that is most like `name`, its sections before it; or nothing."""
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.4)
    return f"; did you mean {'.'.join([*at, near[0]])!r}?" if near else ""
