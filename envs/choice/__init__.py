"""Multiple choice: GPQA-Diamond, MMLU-Pro, or questions of your own with options.

The class is imported at its first use, as `envs.file.items` needs the options alone.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envs.choice.env import Choice

__all__ = ["Choice"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("envs.choice.env"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
