"""The first page: every run and evaluation at a glance."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from aipo.util.files import exclusive
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.links import Links
from aipo.viewer.pages.home import home_page
from aipo.viewer.pages.run import run_page
from aipo.viewer.site import Site
from kit.handmade import rows_of, text_of


def lines(root: Path, *, live: bool = True, now: float | None = 0.0) -> list[str]:
    """Rows of the table as text."""
    return rows_of(home_page(RunLibrary(root), Links(0, live=live), now=now))


def test_a_line_says_what_was_trained_how_far_and_how_well(little_runs: Path) -> None:
    aipo, after, grpo = lines(little_runs, live=False, now=None)
    assert aipo.startswith("aipo consult × independent")
    assert aipo.endswith("group × constant 2 / 2 32 reward last step 0.00 1.00 finished")
    assert re.fullmatch(r"after evaluation 4 easy pass@1 0\.\d\d 1\.00 finished", after)
    assert grpo.endswith("1 / 1 16 reward last step 0.00 – finished")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("finished", ""),
        ("stopped", "LimitError: spending on agents: got 2, allowed less than 1"),
        ("failed", "TrainError: the loss is NaN"),
    ],
)
def test_both_pages_say_why_a_run_ended(own_runs: Path, state: str, reason: str) -> None:
    (own_runs / "grpo" / "ended.json").write_text(json.dumps({"state": state, "reason": reason}))
    words = f"{state} {reason}".strip()
    assert lines(own_runs, now=time.time())[-1].endswith(f" {words}")
    library = RunLibrary(own_runs)
    html = run_page(library.run("grpo"), {}, Links(2), library, now=time.time())
    chip = re.search(r'<span id="state">(.*)</span>', html)
    assert chip and text_of(chip[1]) == words


def test_an_open_page_learns_that_the_process_of_a_run_is_gone(own_runs: Path) -> None:
    for path in (own_runs / "grpo").rglob("*"):
        os.utime(path, (1000.0, 1000.0))
    (own_runs / "grpo" / "config.yaml").write_text("train: {steps: 9}\n")
    site = Site(RunLibrary(own_runs), live=True)
    addresses = ("version", "run/grpo/version", "index.html", "run/grpo/index.html")
    with exclusive(own_runs / "grpo"):
        running = [site.answer(address).body for address in addresses]
    gone = [site.answer(address).body for address in addresses]
    assert all(before != after for before, after in zip(running, gone, strict=True))
    assert b"running" in running[3] and b"without a word: it was killed" in gone[3]


def test_an_evaluation_stands_below_its_own_run_or_by_itself(little_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(little_runs / "aipo", tmp_path / "zeta")
    shutil.copytree(little_runs / "grpo", tmp_path / "start" / "run")
    shutil.copytree(little_runs / "aipo" / "evaluations", tmp_path / "start" / "evaluations")
    names = ["start/evaluations/after", "start/run", "zeta", "after"]
    assert [line.split()[0] for line in lines(tmp_path)] == names
    html = home_page(RunLibrary(tmp_path), Links(0), now=0.0)
    assert re.findall(r'data-row="([^"]*)" class="part"', html) == ["zeta/evaluations/after"]
    assert [line.split()[0] for line in lines(tmp_path / "zeta")] == ["zeta", "after"]  # a run alone


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
    assert "metrics.jsonl, line 3: reward/solo: got '<b>', allowed a finite number." in aipo
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
