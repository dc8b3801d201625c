"""The graph panel, the group page and the page that compares two traces, in Chromium."""

from typing import TYPE_CHECKING

import pytest

from aipo.viewer.links import Links
from viewer.conftest import Pair

if TYPE_CHECKING:
    from playwright.sync_api import Page

LINKS = Links(0)


@pytest.fixture
def asked_page(page: "Page", address: str, pair: Pair) -> "Page":
    page.goto(f"{address}/{LINKS.trace('aipo', pair[0].trace_id)}")
    return page


def test_a_node_leads_to_its_segments_by_pointer_and_keyboard(asked_page: "Page") -> None:
    asked_page.locator('.panel-graph [data-node="policy"]').click()
    assert asked_page.evaluate("location.hash") == "#s1"
    assert 0 <= asked_page.locator("#s1").first.bounding_box()["y"] < 800  # type: ignore[index]
    asked_page.evaluate("location.hash = ''")
    asked_page.locator('.panel-graph a[data-node="prompt"]').focus()
    asked_page.keyboard.press("Tab")
    assert asked_page.evaluate("document.activeElement.dataset.node") == "policy"
    asked_page.keyboard.press("Enter")
    assert asked_page.evaluate("location.hash") == "#s1"


def test_bars_of_the_timeline_lead_to_their_segments_and_show_their_node(asked_page: "Page") -> None:
    asked_page.locator('.timeline a[data-node="policy"]').nth(1).click()
    assert asked_page.evaluate("location.hash") == "#s3"
    asked_page.locator("h1").hover()
    shown = asked_page.locator(".timeline .shown")
    asked_page.locator('.panel-graph [data-node="policy"]').hover()
    assert shown.count() == 2
    asked_page.locator('.timeline [data-node="prompt"]').hover()
    assert shown.count() == 1
    assert asked_page.locator(".panel-graph .shown").get_attribute("data-node") == "prompt"


def test_rollouts_and_groups_are_walked_with_the_keyboard(page: "Page", address: str, pair: Pair) -> None:
    page.goto(f"{address}/{LINKS.group('aipo', pair[0].group_id)}")
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


def test_differences_are_walked_and_the_same_is_opened(page: "Page", address: str, pair: Pair) -> None:
    asked, other = (one.trace_id for one in pair)
    page.goto(f"{address}/{LINKS.compare('aipo', asked, 'aipo', other)}")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.parentElement.className") == "diff"
    same = page.goto(f"{address}/{LINKS.compare('aipo', asked, 'aipo', asked)}")
    assert same is not None and same.ok
    first = page.locator(".diff details").first
    assert not first.locator("pre").is_visible()
    first.locator("summary").click()
    assert first.locator("pre").is_visible()
