"""The package stays small and plain: those measures of the house whose bar is reached."""

import tomllib

import pytest

from kit.house import ROOT, Measure, measures

REACHED = (
    "files directly in aipo/",
    "lines of the longest file",
    "modules that import the configuration's classes",
    "class names defined twice or more",
    "bytes of the README",
)


@pytest.mark.parametrize("measure", [m for m in measures() if m.name in REACHED], ids=lambda m: m.name)
def test_the_house_is_in_order(measure: Measure) -> None:
    assert measure.number <= measure.most, f"{measure.name}: {measure.culprits}"


def test_the_files_that_must_be_covered_are_there() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = settings["tool"]["coverage"]["run"]["include"]
    assert files and not [file for file in files if not (ROOT / file).is_file()]
