"""The first page: every run and evaluation at a glance."""

import os
import re
from pathlib import Path

import pytest

from aipo.viewer.data.library import RunLibrary
from aipo.viewer.links import Links
from aipo.viewer.pages.home import home_page


def lines(root: Path, *, live: bool = True, now: float | None = 0.0) -> list[str]:
    """Rows of the table as text."""
    html = home_page(RunLibrary(root), Links(0, live=live), now=now)
    rows = re.findall(r"<tr data-row.*?</tr>", html, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in rows]


def test_a_line_says_what_was_trained_how_far_and_how_well(little_runs: Path) -> None:
    aipo, after, grpo = lines(little_runs, live=False, now=None)
    assert aipo.startswith("aipo consult × independent")
    assert aipo.endswith("group × constant 2 / 2 32 reward last step 0.00 1.00 finished")
    assert re.fullmatch(r"after evaluation 4 easy pass@1 0\.\d\d 1\.00 finished", after)
    assert grpo.endswith("1 / 1 16 reward last step 0.00 – finished")


def test_a_run_of_before_runs_for_a_minute_after_it_has_written_and_then_finished_or_stopped(
    own_runs: Path,
) -> None:
    grpo = own_runs / "grpo"
    os.utime(grpo / "traces", (1000.0, 1000.0))
    os.utime(grpo / "metrics.jsonl", (1030.0, 1030.0))
    assert lines(own_runs, now=1089.0)[-1].endswith(" running")
    assert lines(own_runs, now=1091.0)[-1].endswith(" finished")
    (grpo / "config.yaml").write_text(
        (grpo / "config.yaml").read_text().replace("  steps: 1\n", "  steps: 9\n")
    )
    last = lines(own_runs, live=False, now=None)[-1]
    assert "1 / 9 16" in last and last.endswith(" stopped")


def test_a_run_that_cannot_be_read_hides_no_other(own_runs: Path) -> None:
    (own_runs / "aipo" / "manifest.json").write_text("<script>\n")
    aipo, _, grpo = lines(own_runs)
    assert aipo.startswith("aipo manifest.json: got Expecting value")
    assert grpo.endswith("finished") or grpo.endswith("running")


def test_what_was_measured_and_cannot_be_taken_is_said(own_runs: Path) -> None:
    with (own_runs / "aipo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "reward/solo": "<b>"}\n')
    (own_runs / "aipo" / "evaluations" / "after.json").write_text('{"easy": [1]}')
    aipo, after, _ = lines(own_runs, live=False, now=None)
    assert "metrics.jsonl, line 3: reward/solo: got &#39;&lt;b&gt;&#39;, allowed a finite number." in aipo
    assert "evaluations/after.json: easy: got [1]: Input should be an object." in after
    assert aipo.endswith("2 / 2 32 reward last step 0.00 1.00 finished")


def test_any_two_can_be_compared_by_a_form_or_in_a_static_site_by_links(little_runs: Path) -> None:
    library = RunLibrary(little_runs)
    live = home_page(library, Links(0), now=0.0)
    assert live.count('type="radio"') == 6
    assert re.search(r'name="left"[^>]*value="aipo" checked', live)
    assert re.search(r'name="right"[^>]*value="grpo" checked', live)
    static = home_page(library, Links(0, live=False), now=None)
    assert "radio" not in static and "data-live" not in static
    assert re.findall(r'href="(compare/[^"]*)"', static) == [
        "compare/aipo/aipo_2Fevaluations_2Fafter.html",
        "compare/aipo/grpo.html",
        "compare/aipo_2Fevaluations_2Fafter/grpo.html",
    ]


@pytest.mark.parametrize("live", [True, False])
def test_an_empty_folder_says_how_to_begin(tmp_path: Path, live: bool) -> None:
    html = home_page(RunLibrary(tmp_path), Links(0, live=live), now=0.0)
    assert "No runs here yet" in html and "<form" not in html.partition("<dialog")[0]
