"""What a researcher does with a run that the demo made, in a real browser."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from aipo.compare import demo
from aipo.trace.filters import Filter
from aipo.trace.index import Summary, TraceIndex
from aipo.viewer.links import compare_path, group_path, run_path, trace_path

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCREENSHOT = Path(__file__).with_name("viewer.png")
SMALL = [
    "policy.options.steps=500",  # enough to ask agents, and to be right now and then
    "train.steps=3",
    "train.tasks_per_step=8",
    "evaluate.samples=1",
    "evaluate.ks=[1]",
    "evaluate.splits=[heldout]",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `aipo demo` leaves, at a size that takes half a minute."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "OVERRIDES", (*demo.OVERRIDES, *SMALL))
        demo.run_demo(out, seed=0, arms=("aipo", "grpo"), console=Console(quiet=True))
    return out


@pytest.fixture(scope="module")
def index(runs: Path) -> TraceIndex:
    return TraceIndex(runs / "aipo" / "traces")


@pytest.fixture(scope="module")
def helped(index: TraceIndex) -> Summary:
    """A rollout that asked, was told, and was better than its group."""
    asked = index.traces(Filter(agent="knowledge", reward=(0.5, None)), limit=100)
    return next(s for s in asked if s.advantage and s.advantage > 0 and not s.consult_errors)


@pytest.fixture
def demo_address(runs: Path, serve) -> Iterator[str]:
    yield serve(runs)


def test_runs_are_listed_and_two_are_compared(page: "Page", demo_address: str) -> None:
    page.goto(demo_address)
    assert page.get_by_role("link", name="aipo", exact=True).is_visible()
    page.goto(f"{demo_address}/{compare_path('aipo', 'grpo')}")
    assert page.get_by_text("method.assist_share", exact=True).is_visible()


def test_the_run_page_has_curves_filters_and_groups(
    page: "Page", demo_address: str, index: TraceIndex
) -> None:
    page.goto(f"{demo_address}/{run_path('aipo')}")
    titles = page.locator("figure.chart b").all_text_contents()
    for title in ("Reward", "Accuracy", "Consults", "Loss, by role", "Clip", "Mismatch"):
        assert title in titles
    first = index.groups(limit=1)[0].group_id
    assert page.locator("[data-row]").first.get_attribute("data-row") == first
    page.select_option("#f-agent", "knowledge")
    page.wait_for_url("**agent=knowledge**")
    matching = index.group_count(Filter(agent="knowledge"))
    assert page.locator("#count").inner_text() == f"{matching} groups match"


def test_a_trace_shows_its_consult_its_path_and_what_was_learned_from_each_token(
    page: "Page", demo_address: str, helped: Summary
) -> None:
    page.goto(f"{demo_address}/{trace_path('aipo', helped.trace_id)}")
    card = page.locator("details#consult-0")
    request, reply = card.locator("summary").inner_text().split("→")[:2]
    assert "knowledge" in request and re.search(r"\d@\d=\d+", reply)
    card.locator("summary").click()
    assert "answer" in card.inner_text() and "envs.miniature.agents:knowledge" in card.inner_text()
    lit = page.locator("#graph svg a[href='#s2']").first
    lit.click()
    assert page.url.endswith("#s2")
    page.get_by_role("button", name="Tokens").click()
    spoken = page.locator("#token-list [data-t]").nth(helped.tokens - helped.policy_tokens)
    spoken.hover()
    facts = page.locator("#inspector").inner_text()
    for fact in ("log-prob", "entropy", "advantage", "coefficient", "ratio", "clipped"):
        assert fact in facts.lower()


def test_the_group_page_says_where_rollouts_part(page: "Page", demo_address: str, helped: Summary) -> None:
    page.goto(f"{demo_address}/{group_path('aipo', helped.group_id)}")
    assert page.locator("[data-row]").count() == 8
    assert page.get_by_role("heading", name="Where they part").is_visible()


def test_the_readme_shows_the_trace_page(
    browser: "Browser", demo_address: str, helped: Summary, tmp_path: Path
) -> None:
    """With AIPO_SCREENSHOT=1 it takes the picture that the README shows."""
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
    page.goto(f"{demo_address}/{trace_path('aipo', helped.trace_id)}")
    taken = SCREENSHOT if os.environ.get("AIPO_SCREENSHOT") else tmp_path / "viewer.png"
    page.screenshot(path=taken, full_page=True)
    page.close()
    width = slice(16, 20)  # of a PNG, in its header
    assert taken.read_bytes()[width] == SCREENSHOT.read_bytes()[width] == (1280).to_bytes(4, "big")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "tests/viewer/viewer.png" in readme
