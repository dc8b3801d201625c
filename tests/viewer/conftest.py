"""What the viewer's tests share: a little library of runs, a server of it, and a real browser."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aipo.trace.index import Summary
from aipo.viewer.data.library import RunLibrary
from kit.parts import lacking
from kit.recorded import LEARNED, make_evaluation, make_run
from kit.viewing import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = [
    "--no-sandbox",  # tests may run as root
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # nothing but our own server is to be asked for anything
    "--disable-component-update",
    "--disable-sync",
]

Serve = Callable[..., str]
Pair = tuple[Summary, Summary]


@pytest.fixture(scope="session")
def little_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `aipo` (with the evaluation `after`) and `grpo`. Not to be changed."""
    root = tmp_path_factory.mktemp("runs")
    make_evaluation(make_run(root / "aipo", **LEARNED), "after")
    make_run(root / "grpo", "grpo", steps=1)
    return root


@pytest.fixture
def own_runs(little_runs: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(little_runs, tmp_path / "runs"))


@pytest.fixture(scope="session")
def pair(little_runs: Path) -> Pair:
    """A trace of the run `aipo` that asked, and one of its group that did not."""
    traces = RunLibrary(little_runs).run("aipo").index.traces()
    asked = next(t for t in traces if t.agents)
    return asked, next(t for t in traces if t.group_id == asked.group_id and not t.agents)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that serves a folder and returns the address, without a slash at its end."""
    with ExitStack() as stack:
        yield lambda root, **gate: stack.enter_context(serving(root, **gate))


@pytest.fixture(scope="session")
def address(little_runs: Path) -> Iterator[str]:
    """Where the little library is served."""
    with serving(little_runs) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Chromium. While Playwright is open an event loop runs in this thread, in which no other file's test could run."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if chromium is None or sync_playwright is None:
        missing = "chromium is not installed" if chromium is None else "playwright is not installed"
        lacking("chromium", missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console said that is wrong; a test that provokes it clears the list."""
    return []


@pytest.fixture
def page(browser: "Browser", complaints: list[str]) -> "Iterator[Page]":
    """A page of 1280 × 800 in the light; errors in its console, a broken policy among them, fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert complaints == []
