"""Is one mathematical expression as good as another? What a worker of the sandbox runs, by math-verify.

math-verify's own time limits are off: they are signals, which raise in threads and cannot stop C-level work.
"""

from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

_BOX = (LatexExtractionConfig(boxed_match_priority=0),)


def matches(canonical: str, answer: str) -> bool:
    """Are the two, in LaTeX, the same number, set, tuple, ... or at least the same text?

    Raises:
        ValueError: nothing can be read out of the canonical answer.
    """
    expected = _read(canonical)
    if not expected:
        raise ValueError(f"canonical answer: got {canonical!r}, allowed one that math-verify can read")
    return verify(expected, _read(answer), timeout_seconds=None, raise_on_error=True)


def _read(latex: str) -> list[Any]:
    """The expression and its text; only the text where it is no mathematics; nothing where it is nothing."""
    return parse("\\boxed{" + latex.strip().removesuffix(".") + "}", _BOX, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
