"""What all tests share: a cache of their own, no network, quiet libraries."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("aipo", deadline=None)  # how busy a machine is says nothing about the code
settings.load_profile("aipo")

# Set before anything imports transformers. A model that an earlier run cached must not make a test pass.
_CACHE = tempfile.mkdtemp(prefix="aipo-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

pytest.register_assert_rewrite("mathruns")


@pytest.fixture(scope="session", autouse=True)
def _own_cache() -> Iterator[None]:
    yield
    shutil.rmtree(_CACHE, ignore_errors=True)
