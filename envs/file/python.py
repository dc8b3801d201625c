"""A user's function as a verdict: what workers of the sandbox run."""

import asyncio
import inspect
from collections.abc import Awaitable, Mapping
from functools import cache
from typing import Any

from aipo.util.imports import Loaded, load
from aipo.util.text import error_text


def judge(name: str, text: str, answer: str | None, others: Mapping[str, Any]) -> dict[str, float] | None:
    """Named reward parts; None where the function returned None.

    Args:
        name: of the function, 'file.py:function' or 'module:function'.
        others: what the function gets besides, if it takes an argument of the name.

    Raises:
        RuntimeError: the function raised.
        TypeError: it returned neither a number, nor True or False, nor parts by name, nor None.
    """
    function = _loaded(name).function
    parameters = inspect.signature(function).parameters
    keywords = {key: value for key, value in others.items() if key in parameters}
    try:
        result = function(text=text, answer=answer, **keywords)
        if isinstance(result, Awaitable):
            result = asyncio.run(_awaited(result))
    except Exception as error:  # anybody's code
        raise RuntimeError(f"{name} raised {error_text(error)}") from error
    if result is None:
        return None
    parts = result if isinstance(result, Mapping) else {"correct": result}
    if not parts or not all(isinstance(value, int | float) for value in parts.values()):
        raise TypeError(f"got {result!r}, allowed True or False, a number, numbers by name, or None")
    return {str(part): float(value) for part, value in parts.items()}


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


@cache
def _loaded(name: str) -> Loaded:
    return load(name)
