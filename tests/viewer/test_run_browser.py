"""The page of a run in a real browser: choosing, searching, sorting, and keeping up with a run."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from aipo.config.build import load_experiment
from aipo.run import RunFolder
from aipo.viewer.bundle import write_bundle
from aipo.viewer.data.library import RunLibrary
from kit.recorded import write_step
from kit.viewing import point
from viewer.conftest import Serve

if TYPE_CHECKING:
    from playwright.sync_api import Page

RUN = "/run/aipo/index.html"


def rows(page: "Page") -> list[str]:
    """Ids of the rows that are shown."""
    return page.locator("[data-row]:visible").evaluate_all("rows => rows.map(row => row.dataset.row)")


def chips(page: "Page") -> list[str]:
    texts = page.locator("[data-chip]").all_text_contents()
    return [re.sub(r"\s+", " ", text).removesuffix(" ×, remove") for text in texts]


def where(page: "Page") -> str:
    return page.url.partition("index.html")[2]


def test_an_agent_is_chosen_and_taken_back_by_its_chip(page: "Page", address: str) -> None:
    page.goto(address + RUN)
    assert len(rows(page)) == 8
    page.select_option("#f-agent", "verify")
    page.wait_for_url("**?agent=verify#rollouts")
    assert rows(page) == ["00001-000", "00001-001", "00000-001"]
    assert chips(page) == ["agent verify"]
    page.get_by_role("link", name="Traces").click()
    page.wait_for_url("**?agent=verify&view=traces#rollouts")
    assert len(rows(page)) == 6
    page.locator("[data-chip=agent]").click()
    page.wait_for_url("**?view=traces#rollouts")
    assert len(rows(page)) == 32 and chips(page) == []


def test_searching_and_sorting(page: "Page", address: str) -> None:
    page.goto(address + RUN)
    page.keyboard.press("/")
    page.keyboard.type("808+1")
    page.keyboard.press("Enter")
    page.wait_for_url("**?text=808%2B1#rollouts")
    assert rows(page) == ["00001-000"]
    assert page.locator("#count").inner_text() == "1 group with a rollout that matches; pale ones do not"
    page.goto(address + RUN)
    page.get_by_role("link", name="step", exact=True).click()
    page.wait_for_url("**?sort=step#rollouts")
    assert rows(page)[:2] == ["00000-000", "00000-001"]
    page.get_by_role("link", name="failed", exact=True).click()
    page.wait_for_url("**?sort=failed#rollouts")
    assert rows(page)[0] == "00000-001"


def test_a_static_page_has_values_but_no_choices(page: "Page", little_runs: Path, tmp_path: Path) -> None:
    write_bundle(RunLibrary(little_runs), tmp_path / "site")
    page.goto((tmp_path / "site").as_uri() + RUN)
    page.mouse.move(*point(page, 0.95))
    assert page.locator(".chart-tip b").inner_text() == "step 1"
    page.mouse.click(*point(page, 0.95))
    page.locator("dialog[open] .uplot").wait_for()  # here a click enlarges
    page.keyboard.press("Escape")
    assert where(page) == "" and page.locator("#filters").count() == 0 and len(rows(page)) == 8
    page.get_by_title("2: solo · no reward · ended by error").click()
    page.wait_for_url("**/trace/aipo_2F00000-001_2F2.html")


def test_a_curve_tells_its_values_and_leads_to_the_step(page: "Page", address: str) -> None:
    page.goto(address + RUN)
    place = point(page, 0.95)
    page.mouse.move(*place)
    tip = page.locator(".chart-tip")
    assert tip.locator("b").inner_text() == "step 1"
    assert tip.locator("td").all_text_contents() == ["solo", "0", "assisted", "1"]
    assert page.locator(".u-cursor-x:visible").count() == page.locator("figure:visible").count()
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    page.mouse.click(*place)
    page.wait_for_url("**?step=1#rollouts")
    assert rows(page) == ["00001-000", "00001-001", "00001-002", "00001-003"]
    assert page.locator("figure:first-child .chosen").count() >= 1


def test_a_page_keeps_up_with_its_run_and_disturbs_nobody(page: "Page", own_runs: Path, serve: Serve) -> None:
    folder = RunFolder(own_runs / "aipo")
    experiment = load_experiment(str(folder.config), ["train.steps=4"])
    address = serve(own_runs)
    with page.expect_response("**/version"):
        page.goto(f"{address}{RUN}?view=traces&kind=assisted")
    page.locator("#more-curves summary").or_(page.locator("#fold-graph summary")).first.click()
    page.locator("#f-text").fill("half a sen")
    before = len(rows(page))

    write_step(folder, experiment, 2, seal=False)
    page.locator("[data-row]").nth(before + 7).wait_for()
    assert page.locator("tr:has-text('…')").count() == 8  # no advantage before the step is complete

    write_step(folder, experiment, 3)
    page.locator("[data-row]").nth(before + 15).wait_for()
    page.locator("#steps-done", has_text="4").wait_for()
    assert chips(page) == ["kind assisted"] and where(page) == "?view=traces&kind=assisted"
    assert page.locator("#f-text").input_value() == "half a sen"
    assert page.evaluate("document.activeElement.id") == "f-text"
    assert page.locator("details[open]").count() == 1

    page.locator("figure").first.scroll_into_view_if_needed()
    page.mouse.move(*point(page, 1.0))
    assert page.locator(".chart-tip b").inner_text() == "step 3"  # the pointer knows the new numbers
