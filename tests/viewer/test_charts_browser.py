"""Charts in a real browser: hovering shows values, dragging zooms, colours follow the theme, live data arrives."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from aipo.render.charts import Chart, Line, data_block, figure, inline_assets
from kit.viewing import point
from viewer.conftest import Serve

if TYPE_CHECKING:
    from playwright.sync_api import Page

RUN = "/run/aipo/index.html"


def write_metrics(root: Path, steps: int) -> None:
    rows = ({"step": i + 1, "reward/solo": i / 100, "loss": -0.5} for i in range(steps))
    (root / "aipo" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def x_range(page: "Page", chart: int = 0) -> list[float]:
    return page.evaluate("i => { const x = aipoCharts.plots()[i].scales.x; return [x.min, x.max]; }", chart)


def pixels(page: "Page", colour: tuple[int, int, int]) -> int:
    """How many pixels of the first chart are of this colour."""
    return page.evaluate(
        """wanted => {
          const canvas = document.querySelector("figure canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4) if (wanted.every((c, k) => data[i + k] === c)) count += 1;
          return count;
        }""",
        list(colour),
    )


def until(page: "Page", condition: str) -> None:
    """Waits for it. The page's policy forbids what Playwright's own wait does from its second try on."""
    for _ in range(150):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never: {condition}")


def test_dragging_zooms_and_a_double_click_goes_back(page: "Page", own_runs: Path, serve: Serve) -> None:
    write_metrics(own_runs, 100)
    page.goto(serve(own_runs) + RUN)
    page.locator("#more-curves summary").click()
    page.locator("figure canvas").nth(1).wait_for()
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(*point(page, 0.25))
    page.mouse.down()
    page.mouse.move(*point(page, 0.75), steps=3)
    page.mouse.up()
    for chart in (0, 1):
        low, high = x_range(page, chart)
        assert 20 < low < 30 and 70 < high < 80
    page.mouse.move(*point(page, 0.5))
    assert page.locator(".chart-tip b").inner_text() in ("step 49", "step 50")
    assert "?step" not in page.url  # a drag is no click

    # New data does not undo the zoom; it is there after a double click.
    write_metrics(own_runs, 120)
    page.locator("#steps-done", has_text="120").wait_for()
    assert x_range(page)[1] < 80
    page.evaluate("document.querySelector('.u-over').dispatchEvent(new MouseEvent('dblclick'))")
    page.wait_for_function("aipoCharts.plots()[0].scales.x.max === 119")
    page.mouse.move(*point(page, 1.0))
    cells = page.locator(".chart-tip td").all_text_contents()
    assert cells == ["solo", "1.19", "1.16"]  # as it is, and smoothed


def test_arrow_keys_move_the_pointer_and_say_both_values(page: "Page", own_runs: Path, serve: Serve) -> None:
    write_metrics(own_runs, 100)
    page.goto(serve(own_runs) + RUN)
    chart = page.get_by_role("slider", name="chart: Reward")
    chart.focus()
    tip = page.locator(".chart-tip")
    for key, head, cells in [
        ("ArrowRight", "step 0", ["solo", "0", "0.025"]),
        ("ArrowRight", "step 1", ["solo", "0.01", "0.03"]),
        ("End", "step 99", ["solo", "0.99", "0.965"]),
        ("ArrowLeft", "step 98", ["solo", "0.98", "0.96"]),
        ("Home", "step 0", ["solo", "0", "0.025"]),
    ]:
        chart.press(key)
        assert (tip.locator("b").inner_text(), tip.locator("td").all_text_contents()) == (head, cells)
        assert chart.get_attribute("aria-valuetext") == f"{head}, solo {cells[1]}, smoothed {cells[2]}"
    page.mouse.move(*point(page, 50 / 99))  # a mouse that moves takes over, and keys go on from there
    assert tip.locator("b").inner_text() == "step 50"
    page.keyboard.press("ArrowRight")
    assert tip.locator("b").inner_text() == "step 51"
    page.keyboard.press("Enter")  # leads to the rollouts, as a click does
    page.wait_for_url("**?step=51#rollouts")


def test_a_chart_enlarges_stays_large_while_training_and_closes(
    page: "Page", own_runs: Path, serve: Serve
) -> None:
    write_metrics(own_runs, 100)
    page.goto(serve(own_runs) + RUN)
    figure = page.locator("figure").first
    small = figure.locator("canvas").bounding_box()
    figure.get_by_role("button", name="enlarge").click()
    large = page.locator("dialog[open] .u-over")
    until(page, "document.querySelector('dialog canvas')?.offsetHeight > 400")
    box = large.bounding_box()
    assert small is not None and box is not None and box["width"] > 2 * small["width"]
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 100)
    assert page.locator("dialog .chart-tip b").inner_text() == "step 99"  # it is not behind the dialog
    write_metrics(own_runs, 120)
    page.locator("#steps-done", has_text="120").wait_for(state="attached")
    until(page, "document.querySelector('dialog canvas') && aipoCharts.plots()[0].data[0].length === 120")
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")
    until(page, "document.querySelector('#live [data-chart=\"0\"] canvas')?.offsetHeight === 190")
    assert page.locator("#live figure").first.locator("figcaption b").inner_text() == "Reward"
    figure.locator("figcaption b").click()  # so does a click on its name; one beside the dialog closes it
    page.locator("dialog[open]").wait_for()
    page.mouse.click(5, 5)
    page.locator("dialog[open]").wait_for(state="detached")


def saved(page: "Page", figure: int) -> tuple[str, list[str]]:
    """Name and lines of the file that a chart's data come as."""
    with page.expect_download() as download:
        page.locator("figure").nth(figure).get_by_role("button", name="CSV").click()
    return download.value.suggested_filename, download.value.path().read_text(encoding="utf-8").splitlines()


def test_the_data_of_a_chart_can_be_saved(page: "Page", own_runs: Path, serve: Serve) -> None:
    write_metrics(own_runs, 60)
    page.goto(serve(own_runs) + RUN)
    page.locator("figure canvas").first.wait_for()
    name, lines = saved(page, 0)
    assert (name, len(lines)) == ("reward.csv", 61)
    assert page.locator("#more-curves summary").inner_text() == "1 more curve"
    assert lines[:3] == ['step,solo,"solo, smoothed"', "0,0,0.015", "1,0.01,0.02"]
    write_metrics(own_runs, 800)  # two steps are one point
    page.goto(page.url)
    page.locator("figure canvas").first.wait_for()
    _, lines = saved(page, 0)
    assert lines[0].startswith("first step,last step,solo") and lines[2].startswith("2,3,0.025,")


def test_colours_follow_the_theme_and_names_hide_lines(page: "Page", own_runs: Path, serve: Serve) -> None:
    light, dark = (0x0A, 0x66, 0xB7), (0x6D, 0xB5, 0xF5)
    write_metrics(own_runs, 100)
    page.goto(serve(own_runs) + RUN)
    page.locator("figure canvas").first.wait_for()
    assert pixels(page, light) > 50 and pixels(page, dark) == 0
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)
    assert pixels(page, dark) > 50 and pixels(page, light) == 0
    page.locator("#theme").click()  # says light, whatever the system says
    page.wait_for_timeout(100)
    assert pixels(page, light) > 50 and pixels(page, dark) == 0
    name = page.locator("figure").first.get_by_role("button", name="solo")
    for pressed in ("false", "true"):
        name.click()
        page.wait_for_timeout(50)
        assert name.get_attribute("aria-pressed") == pressed
        assert (pixels(page, light) > 50) == (pressed == "true")


def test_a_page_that_stands_alone_draws_and_says_its_values(page: "Page", tmp_path: Path) -> None:
    band = [(0.4, 0.6), (0.5, 0.7), (0.6, 0.8), (0.7, 0.9)]
    scores = Line(name="aipo", colour="c1", x=[1, 2, 4, 8], y=[0.5, 0.6, 0.7, 0.8], band=band)
    costs = [
        Line(name="grpo", colour="c1", x=[0, 0], y=[0.25, 0.5], joined=False),
        Line(name="aipo", colour="c2", x=[8, 4], y=[0.75, 1.0], joined=False),
    ]
    charts = [
        Chart(title="pass@k", x_label="k, samples", log=True, y_range=(0, 1), lines=[scores]),
        Chart(title="costs", x_label="calls, thousands", x_range=(0, 0), y_range=(0, 1), lines=costs),
        Chart(title="nothing", x_label="step", lines=[]),
        Chart(
            title="lengths",
            x_label="step",
            lines=[
                Line(name="long", colour="c1", x=[0, 10, 20, 30, 40], y=[0.0, 0.1, 0.2, 0.3, 0.4]),
                Line(name="short", colour="c2", x=[0, 8, 16], y=[0.5, 0.6, 0.7], band=[(0.4, 0.6)] * 3),
            ],
        ),
    ]
    assets = inline_assets()
    figures = "".join(figure(i, chart) for i, chart in enumerate(charts))
    style = ":root{--page:#fff;--ink:#000;--soft:#555;--line:#ddd;--c1:#0a66b7;--c2:#a34a00}"
    file = tmp_path / "page.html"
    file.write_text(
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{assets["policy"]}">'
        f"<style>{style}{assets['style']}</style>{figures}{data_block(charts)}{assets['scripts']}",
        encoding="utf-8",
    )
    page.goto(file.as_uri())
    assert page.locator("figure canvas").count() == 3
    assert page.locator("figure").nth(2).inner_text().split() == ["nothing", "nothing", "recorded"]
    page.mouse.move(*point(page, 2 / 3))
    tip = page.locator(".chart-tip")
    assert tip.inner_text().split() == ["k", "4", "aipo", "0.7", "[0.6,", "0.8]"]
    assert pixels(page, (0x0A, 0x66, 0xB7)) > 50

    assert saved(page, 0) == ("pass@k.csv", ["k,aipo,\"aipo, low\",\"aipo, high\"", "1,0.5,0.4,0.6", "2,0.6,0.5,0.7",
                                           "4,0.7,0.6,0.8", "8,0.8,0.7,0.9"])  # fmt: skip
    points = ["calls,grpo,aipo", "0,0.25,", "0,0.5,", "4,,1", "8,,0.75"]
    assert saved(page, 1) == ("costs.csv", points)  # two points of one x are two lines
    assert page.locator("figure").nth(2).get_by_role("button").count() == 0
    page.locator("figure .uplot").nth(1).focus()
    for value in ("0.25", "0.5", "1", "0.75"):
        page.keyboard.press("ArrowRight")
        assert tip.locator("td").nth(1).inner_text() == value
    page.locator("figure .uplot").nth(2).focus()
    page.keyboard.press("ArrowRight")
    for long, short in [("0", "0.5"), ("0.1", "0.6"), ("0.2", "0.7"), ("0.3", None)]:
        shown = f"{short} [0.4, 0.6]" if short else "–"  # what ended has no value
        assert tip.locator("td").all_text_contents() == ["long", long, "short", shown]
        page.keyboard.press("ArrowRight")
    page.mouse.move(0, 0)
    page.mouse.click(*point(page, 0.5))  # points that lead nowhere: a click is for the chart
    page.locator("dialog[open] .uplot").wait_for()
    page.keyboard.press("Escape")
    until(page, "document.querySelector('body > [data-chart=\"0\"] canvas')?.offsetHeight === 190")

    # Points that share their place are told apart.
    places = [(0, 0.25, "grpo 0.25"), (0, 0.5, "grpo 0.5"), (0.5, 1.0, "aipo 1"), (1, 0.75, "aipo 0.75")]
    for x, y, text in places:
        page.mouse.move(*point(page, x, 1, y))
        assert " ".join(tip.locator("td").all_text_contents()) == text
    page.mouse.move(*point(page, 0.25, 1, 0.1))
    assert tip.is_hidden()
