"""What a file of traces can hold: JSON, and text without half an emoji."""

import orjson

ERROR_LIMIT = 2000
"""Characters that are kept of an error."""


def to_json(value: object) -> bytes:
    """One line of JSON, as traces are written.

    Raises:
        orjson.JSONEncodeError: a set, an integer of more than 64 bits, a lone surrogate, ...
    """
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def fits_json(value: object) -> bool:
    """Can it be written?"""
    try:
        to_json(value)
    except orjson.JSONEncodeError:
        return False
    return True


def clean(text: str) -> str:
    """`text` with '?' for every lone surrogate (half an emoji), which no file and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def error_text(error: BaseException) -> str:
    """What a trace says of an error: 'ValueError: its text', clean and not endless."""
    try:
        said = str(error)
    except Exception as worse:  # an error is anybody's code, too
        said = f"no text, but a {type(worse).__name__}"
    return clean(f"{type(error).__name__}: {said}")[:ERROR_LIMIT]
