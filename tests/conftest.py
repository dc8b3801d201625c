"""What all tests share: a cache of their own, no network, quiet libraries."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

import aipo  # noqa: F401  before torch: it says how threads wait
from kit.parts import smollm2_folder

settings.register_profile("aipo", deadline=None)  # how busy a machine is says nothing about the code
settings.load_profile("aipo")

# Set before anything imports transformers. A model that an earlier run cached must not make a test pass; processes of
# one run (`-n 2`) share a cache.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # with more threads than cores, a minute becomes ten
else:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="aipo-tests-")
# pytest-xdist sets both; a console that a module makes when it is imported would keep them.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

pytest.register_assert_rewrite("kit.mathruns")


_TOGETHER = ("servers", "viewer", "policies")
"""Folders whose tests share what is dear to start."""

_SLOW = (
    "compare/test_demo.py",
    "compare/test_run.py",
    "rollout/workers/test_pool.py",
    "servers",
    "train/test_ranks.py",
    "viewer/test_demo_run.py",
)
"""Files and folders that take minutes: whole runs, several ranks, real vLLM servers."""

_MIDDLING = (
    "compare",
    "config/test_build.py",
    "config/test_build_server.py",
    "envs/code/test_cheats.py",
    "envs/code/test_env.py",
    "envs/gym/test_env.py",
    "envs/isolation/test_attacks.py",
    "envs/isolation/test_run.py",
    "envs/math/test_env.py",
    "envs/miniature/test_agents.py",
    "envs/miniature/test_model.py",
    "envs/test_sandbox.py",
    "envs/test_smollm2.py",
    "export",
    "graphs/test_replayed.py",
    "graphs/test_verify_python.py",
    "policies/local/test_policy.py",
    "policies/test_lora.py",
    "policies/test_tokenizer.py",
    "replay/questions",
    "replay/test_cli.py",
    "rollout/test_engine.py",
    "rollout/test_reference_chat.py",
    "test_cli.py",
    "test_imports.py",
    "test_notebooks.py",
    "test_readme.py",
    "trace/test_index.py",
    "trace/test_store.py",
    "train/test_default.py",
    "train/test_math_run.py",
    "train/test_run.py",
    "train/test_token_stats.py",
    "train/test_trainer.py",
    "train/test_trl_loss.py",
    "viewer/test_app.py",
    "viewer/test_bundle.py",
    "viewer/test_compare_page.py",
    "viewer/test_group_page.py",
    "viewer/test_run_page.py",
)
"""Files and folders that take seconds, or start other processes."""

_FIXTURES = {"address", "browser", "little_runs", "own_runs", "serve", "smollm2"}
"""Whoever takes one of these needs a server, a browser, the network, or runs that take seconds to make."""

_SERVERS = ("kit.servers", "kit.vllm", "kit.tiny_vllm", "kit.workers")
"""Whoever imports from these asks servers."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tiers `fast` and `slow`. With `-n 2 --dist loadgroup` the tests of a file, or of some folders, run in one process."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent).as_posix()
        folder = place.partition("/")[0]
        item.add_marker(pytest.mark.xdist_group(folder if folder in _TOGETHER else place))
        if place.startswith(_SLOW):
            item.add_marker(pytest.mark.slow)
        elif not place.startswith(_MIDDLING) and not _needs_more(item):
            item.add_marker(pytest.mark.fast)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m fast` does not even import what is not in it."""
    place = collection_path.relative_to(Path(__file__).parent).as_posix()
    return True if config.option.markexpr == "fast" and place.startswith(_SLOW + _MIDDLING) else None


def _needs_more(item: pytest.Item) -> bool:
    """Does a test need more than its own process?"""
    names = vars(item.module).values() if isinstance(item, pytest.Function) else ()
    asks_servers = any(getattr(value, "__module__", None) in _SERVERS for value in names)
    return asks_servers or not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of a real language model; a test that takes it is skipped by name where there is none."""
    return smollm2_folder()


def pytest_unconfigure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
