"""The page of a replay: it says of what, and shows the tables that the terminal printed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aipo.errors import RunError
from aipo.replay.output import ReplayReport, ReplayTable
from aipo.util.files import write_json
from aipo.util.text import visible
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.site import Site
from kit.recorded import HOSTILE
from viewer.conftest import Serve

if TYPE_CHECKING:
    from playwright.sync_api import Page

REPORT = ReplayReport(
    question="loss",
    settings={"weights": "start"},
    tables=[ReplayTable("Settings", ["setting", "loss"], [["as recorded", "0.1234"], [HOSTILE, "–"]])],
    notes=["reused 16 turns of the policy"],
    warnings=["2 traces were left out"],
)


def replayed(root: Path, source: str = "aipo", settings: Sequence[str] = (), **changes: Any) -> Path:
    """The run `grpo` as if it were a replay of `source`, maybe one that compares settings."""
    folder = root / "grpo"
    write_json(folder / "replay.json", {**REPORT.to_dict(), **changes})
    manifest = json.loads((folder / "manifest.json").read_text())
    origin = {"what": "loss", "path": str(root.resolve() / source), "run_id": "aipo"}
    write_json(folder / "manifest.json", {**manifest, "replay_of": origin, "settings": list(settings)})
    return folder


def test_a_replay_says_of_what_and_shows_what_it_found(page: "Page", own_runs: Path, serve: Serve) -> None:
    replayed(own_runs)
    page.goto(serve(own_runs) + "/index.html")
    row = page.locator("[data-row=grpo]")
    assert "replay: loss of aipo" in row.inner_text() and "/ 1" not in row.inner_text()
    row.get_by_role("link", name="grpo").click()
    assert page.locator("h1").inner_text() == "grpo replay"
    result = page.locator("#replay")
    assert result.locator("th").all_inner_texts() == ["setting", "loss", "as recorded", visible(HOSTILE)]
    assert result.locator("td").all_inner_texts() == ["0.1234", "–"]
    assert result.locator("dd").all_inner_texts() == ["start"]
    assert result.locator("p").all_inner_texts() == [*REPORT.notes, *REPORT.warnings]
    assert page.title() == "grpo, replay of aipo · AIPO"
    page.locator("#replayed").get_by_role("link", name="aipo").click()
    page.wait_for_url("**/run/aipo/index.html")
    assert page.locator("#replay, #replayed").count() == 0


def test_a_replay_without_rollouts_promises_none_and_shows_no_single_setting_of_those_it_compares(
    own_runs: Path,
) -> None:
    folder = replayed(own_runs, settings=["as recorded", "coefficient=pi", "coefficient=floor"])
    for file in (folder / "traces").glob("*.parquet"):
        file.unlink()
    html = Site(RunLibrary(own_runs), live=True).answer("run/grpo/index.html").body.decode()
    assert "No rollout" not in html and 'id="rollouts"' not in html and 'class="method"' not in html
    assert "It makes no rollouts of its own" in html
    assert "It compares 3 settings: as recorded; coefficient=pi; coefficient=floor." in html


def test_a_source_elsewhere_is_named_and_a_static_site_names_no_folder(own_runs: Path) -> None:
    replayed(own_runs, "gone/far")
    sites = [Site(RunLibrary(own_runs), live=live) for live in (True, False)]
    pages = [site.answer("run/grpo/index.html").body.decode() for site in sites]
    assert f"{own_runs.resolve()}/gone/far</code>" in pages[0]
    assert str(own_runs) not in pages[1] and "far</code>" in pages[1] and 'id="replay"' in pages[1]


def test_a_result_is_news_for_an_open_page_and_another_shape_is_refused(own_runs: Path) -> None:
    run = RunLibrary(own_runs).run("grpo")
    before = run.version()
    folder = replayed(own_runs, tables=[{"title": 1}])
    assert run.version() > before
    with pytest.raises(RunError, match=r"replay.json: got .*tables"):
        run.replay()
    (folder / "replay.json").unlink()
    assert run.replay() is None and run.replayed() == ("loss", own_runs.resolve() / "aipo")
