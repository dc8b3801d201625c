"""Questions from a file, a folder or the hub, with a verdict by name.

The class is imported at its first use. The processes that run a user's verdict import `envs.file.python` alone.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envs.file.env import File

__all__ = ["File"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("envs.file.env"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
