"""The graph panel, the group page and the pages that compare, in Chromium."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aipo.viewer.data.library import RunLibrary
from aipo.viewer.links import Links

if TYPE_CHECKING:
    from playwright.sync_api import Page

LINKS = Links(0)

# Text whose contrast with what lies behind it is below 4.5 : 1, or 3 : 1 where it is large. Each distinct pair once.
FAINT = """() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const f = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const found = new Set();
  for (const element of document.querySelectorAll("main *")) {
    if (element.closest("svg") || !element.checkVisibility()) continue;
    if (![...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(rgb(style.color)), light(behind(element))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.add(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return [...found];
}"""


def names(root: Path) -> tuple[str, str, str]:
    """A trace that asked, one of its group that did not, and the group."""
    found = RunLibrary(root).run("aipo").index.traces()
    asked = next(t for t in found if t.agents)
    other = next(t for t in found if t.group_id == asked.group_id and not t.agents)
    return asked.trace_id, other.trace_id, asked.group_id


def top_of(page: "Page", selector: str) -> float:
    return page.locator(selector).first.bounding_box()["y"]  # type: ignore[index]


def test_a_node_leads_to_its_segments(page: "Page", address: str, little_runs: Path) -> None:
    page.goto(f"{address}/{LINKS.trace('aipo', names(little_runs)[0])}")
    graph = page.locator(".panel-graph")
    graph.locator('[data-node="policy"]').click()
    assert page.evaluate("location.hash") == "#s1"
    assert 0 <= top_of(page, "#s1") < 800


def test_a_node_can_be_reached_with_the_keyboard(page: "Page", address: str, little_runs: Path) -> None:
    page.goto(f"{address}/{LINKS.trace('aipo', names(little_runs)[0])}")
    page.locator('.panel-graph a[data-node="prompt"]').focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.node") == "policy"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#s1"


def test_each_bar_of_the_timeline_leads_to_its_own_segment(
    page: "Page", address: str, little_runs: Path
) -> None:
    page.goto(f"{address}/{LINKS.trace('aipo', names(little_runs)[0])}")
    page.locator('.timeline a[data-node="policy"]').nth(1).click()
    assert page.evaluate("location.hash") == "#s3"


def test_pointing_at_a_node_shows_its_bars(page: "Page", address: str, little_runs: Path) -> None:
    page.goto(f"{address}/{LINKS.trace('aipo', names(little_runs)[0])}")
    shown = page.locator(".timeline .shown")
    assert shown.count() == 0
    page.locator('.panel-graph [data-node="policy"]').hover()
    assert shown.count() == 2
    page.locator('.timeline [data-node="prompt"]').hover()
    assert page.locator(".panel-graph .shown").get_attribute("data-node") == "prompt"


def test_who_is_left_where_follows_what_is_picked(page: "Page", address: str, little_runs: Path) -> None:
    page.goto(f"{address}/{LINKS.group('aipo', names(little_runs)[2])}")
    cards = page.locator(".rollout")
    assert cards.count() == 4
    majority = int(page.locator("#reference").input_value())
    assert cards.nth(majority).locator(".leaves").count() == 0
    other = (majority + 2) % 4
    page.locator("#reference").select_option(str(other))
    assert cards.nth(other).locator(".leaves").count() == 0
    assert cards.nth(other).locator("[data-where]").inner_text() == "the others are compared with it"
    for number in {0, 1, 2, 3} - {other}:
        said = cards.nth(number).locator("[data-where]").inner_text()
        same = said == f"the same as #{other}"
        assert same or re.fullmatch(rf"leaves #{other} at token \d+", said)
        assert cards.nth(number).locator(".leaves").count() == (not same)
    page.locator("#reference").select_option(str(majority))
    assert "with whom most go" in page.locator("[data-reference]").inner_text()


def test_rollouts_and_groups_are_walked_with_the_keyboard(
    page: "Page", address: str, little_runs: Path
) -> None:
    page.goto(f"{address}/{LINKS.group('aipo', names(little_runs)[2])}")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.id") == "r1"
    page.keyboard.press("Enter")
    page.wait_for_url("**/trace/**")
    page.go_back()
    before = page.url
    page.locator("main").click(position={"x": 5, "y": 5})
    page.keyboard.press("n")
    page.wait_for_url(lambda url: url != before)
    page.keyboard.press("p")
    page.wait_for_url(before)


def test_differences_are_walked_and_the_same_is_opened(page: "Page", address: str, little_runs: Path) -> None:
    asked, other, _ = names(little_runs)
    page.goto(f"{address}/{LINKS.compare('aipo', asked, 'aipo', other)}")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.parentElement.className") == "diff"
    same = page.goto(f"{address}/{LINKS.compare('aipo', asked, 'aipo', asked)}")
    assert same is not None and same.ok
    first = page.locator(".diff details").first
    assert not first.locator("pre").is_visible()
    first.locator("summary").click()
    assert first.locator("pre").is_visible()


def pages(root: Path) -> list[str]:
    asked, other, group = names(root)
    return [
        LINKS.group("aipo", group),
        LINKS.compare("aipo", asked, "aipo", other),
        LINKS.compare("aipo", "grpo"),
        LINKS.compare("aipo", "aipo/evaluations/after"),
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_are_wide_enough_and_their_text_is_readable(
    page: "Page", address: str, little_runs: Path, theme: str
) -> None:
    for path in pages(little_runs):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        answer = page.goto(f"{address}/{path}")
        assert answer is not None and answer.ok, path
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280, path
        assert page.evaluate(FAINT) == [], path
        assert page.title() != "owned"


def test_every_link_of_the_pages_leads_somewhere(page: "Page", address: str, little_runs: Path) -> None:
    for path in pages(little_runs):
        page.goto(f"{address}/{path}")
        found = page.evaluate("[...new Set([...document.querySelectorAll('main a')].map((a) => a.href))]")
        links = found if isinstance(found, list) else []
        assert links
        for link in links[:12]:
            if isinstance(link, str) and not link.startswith("#"):
                assert page.request.get(link.partition("#")[0]).ok, link
