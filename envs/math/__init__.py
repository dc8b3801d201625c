"""Mathematics with one right answer.

The class is imported at its first use. The processes that compare answers import `envs.math.verdict` alone, and so they
start in half the time.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envs.math.answer import explain_answer, final_answer
    from envs.math.env import Math

__all__ = ["Math", "explain_answer", "final_answer"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"envs.math.{'env' if name == 'Math' else 'answer'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
