"""The trace page of a run that the demo made, in a real browser."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from aipo.demo.demos import DEMOS, MINIATURE
from aipo.demo.run import run_demo
from aipo.trace.filters import Filter
from aipo.trace.index import TraceIndex
from aipo.viewer.links import trace_path

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCREENSHOT = Path(__file__).with_name("viewer.png")
SMALL = [
    "policy.options.steps=900",  # enough to ask agents, and to be right now and then
    "train.steps=3", "train.tasks_per_step=8",
    "evaluate.samples=1", "evaluate.ks=[1]", "evaluate.splits=[heldout]",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `aipo demo` leaves, at a size that takes half a minute."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEMOS, "miniature", replace(MINIATURE, plan=(*MINIATURE.plan, *SMALL)))
        run_demo(out, seed=0, arms=("aipo_distil",), console=Console(quiet=True))
    return out


def test_a_trace_shows_its_consult_and_tokens(page: "Page", runs: Path, serve, tmp_path: Path) -> None:
    """With AIPO_SCREENSHOT=1 it takes the picture that the README shows."""
    where = Filter(agent="knowledge", reward=(0.5, None))
    asked = TraceIndex(runs / "aipo_distil" / "traces").traces(where, limit=100)
    helped = next(s for s in asked if s.advantage and s.advantage > 0 and not s.consult_errors)
    page.goto(f"{serve(runs)}/{trace_path('aipo_distil', helped.trace_id)}")
    picture = SCREENSHOT if os.environ.get("AIPO_SCREENSHOT") else tmp_path / "viewer.png"
    page.screenshot(path=picture, full_page=True)
    width = slice(16, 20)  # of a PNG, in its header
    assert picture.read_bytes()[width] == SCREENSHOT.read_bytes()[width] == (1280).to_bytes(4, "big")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "tests/viewer/viewer.png" in readme
    card = page.locator("details#consult-0")
    request, reply = card.locator("summary").inner_text().split("→")[:2]
    assert "knowledge" in request and re.search(r"\d@\d=\d+", reply)
    card.locator("summary").click()
    assert "answer" in card.inner_text() and "envs.miniature.agents:knowledge" in card.inner_text()
    page.get_by_role("button", name="Tokens").click()
    page.locator("#token-list [data-t]").nth(helped.tokens - helped.policy_tokens).hover()
    facts = page.locator("#inspector").inner_text()
    for fact in ("log-prob", "entropy", "advantage", "coefficient", "ratio", "clipped"):
        assert fact in facts.lower()
