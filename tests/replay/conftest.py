"""Runs that the tests of replay only read, and a copy for those that change one."""

import shutil
from pathlib import Path

import pytest

from aipo.run import RunFolder
from kit import tiny_run
from kit.recorded import recorded_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Rollouts of a scripted policy, with random weights as the trained ones."""
    return recorded_run(tmp_path_factory.mktemp("runs") / "aipo", trained=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on three steps."""
    return tiny_run.train(tiny_run.config(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def copy(run: RunFolder, tmp_path: Path) -> RunFolder:
    """The run once more, to be changed."""
    return RunFolder(shutil.copytree(run.path, tmp_path / "run"))


@pytest.fixture
def trained_copy(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")
