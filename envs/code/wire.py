"""Python values as JSON and back, unchanged: what a solution is called with, and what it returns.

This file runs outside of the sandbox and inside, so it imports nothing of ours.
"""

from typing import Any


def encode(value: Any) -> Any:
    """What JSON can hold. A subclass of a type (a Counter is a dict) becomes that type.

    Raises:
        TypeError: no plain data.
    """
    if value is None or isinstance(value, bool):
        return value
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    for name, kind in _ITERABLE.items():
        if isinstance(value, kind):
            return {name: [encode(item) for item in value]}
    raise TypeError(f"got {type(value).__name__}, allowed plain data")


def decode(value: Any) -> Any:
    """The value that `encode` was given.

    Raises:
        ValueError, TypeError: `encode` wrote no such thing.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(name, items)] = value.items()
    if name == "dict":
        return {decode(key): decode(item) for key, item in items}
    if name == "complex":
        return complex(*items)
    if name not in _ITERABLE:
        raise ValueError(f"got {name!r}, allowed dict, complex, {', '.join(_ITERABLE)}")
    return _ITERABLE[name](decode(item) for item in items)


_ITERABLE: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset, "bytes": bytes}
