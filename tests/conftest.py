"""What all tests share: a cache of their own, no network, quiet libraries."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("aipo", deadline=None)  # how busy a machine is says nothing about the code
settings.load_profile("aipo")

# Set before anything imports transformers. A model that an earlier run cached must not make a test pass; processes of
# one run (`-n 2`) share a cache.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # with more threads than cores, a minute becomes ten
else:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="aipo-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

pytest.register_assert_rewrite("kit.mathruns")


_TOGETHER = ("servers", "viewer", "policies")
"""Folders whose tests share what is dear to start."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup`: the tests of a file, or of these folders, run in one process."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        together = place.parts[0] in _TOGETHER
        item.add_marker(pytest.mark.xdist_group(place.parts[0] if together else str(place)))


def pytest_unconfigure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
