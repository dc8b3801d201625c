"""Tests of imports work in an empty folder."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aipo.util import working_directory


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, from which modules are imported; nothing of it is left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(working_directory._FINDER, "packages", {"graphs", "envs"})
    monkeypatch.setattr(working_directory._LAST_FINDER, "place", None)
    for name in ("mine", "mine.graph"):  # another test's file of that name
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
