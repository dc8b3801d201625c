"""Real parts that some tests need: skipped by name where one is missing, a failure where it is required."""

import os
from typing import NoReturn

import pytest


def lacking(part: str, why: str) -> NoReturn:
    """Ends the test: `part` is not here. Fails it if the variable AIPO_REQUIRE lists the part."""
    if part in os.environ.get("AIPO_REQUIRE", "").split(","):
        pytest.fail(f"{why}, and AIPO_REQUIRE lists {part}")
    pytest.skip(why)
