"""The static site: complete, without dead links, and never over somebody's files."""

import errno
import os
import re
from collections import Counter
from pathlib import Path

import pytest

import graphs
from aipo.errors import RunError
from aipo.viewer.bundle import write_bundle
from aipo.viewer.data.library import RunLibrary


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def dead_links(out: Path) -> list[str]:
    """Links of any page that lead to no file of the site."""
    dead: list[str] = []
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'\b(?:href|src)="([^"]*)"', text):
            target = link.partition("#")[0].partition("?")[0]
            if target and not target.startswith("data:") and not (page.parent / target).resolve().is_file():
                dead.append(f"{page.relative_to(out)}: {link}")
    return dead


def test_a_bundle_has_every_page_no_dead_link_and_asks_nobody(little_runs: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    out = tmp_path / "site"
    bundle = write_bundle(RunLibrary(little_runs), out, note=lambda *step: steps.append(step[:2]))
    written = files(out)
    pages = Counter(str(Path(file).parent) for file in written)
    assert bundle.first == out / "index.html" and bundle.first.is_file()
    assert (bundle.faulty, bundle.notes) == ((), ())
    assert (pages["run/aipo/trace"], pages["run/aipo/group"], pages["run/grpo/trace"]) == (32, 8, 16)
    assert pages["run/aipo_2Fevaluations_2Fafter/trace"] == 4
    assert {"compare/aipo/grpo.html", ".nojekyll", "static/palette.css", "static/base.js"} <= written
    assert dead_links(out) == []
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "Content-Security-Policy" in text and "frame-ancestors" not in text
        assert "data-live" not in text
        assert not re.search(r'\b(?:href|src|action)="(?:/|https?:)', text), page
    assert bundle.files == len(written) - 1 == steps[-1][0] == steps[-1][1]
    assert bundle.size == sum((out / file).stat().st_size for file in written - {".aipo-bundle"})


def test_pages_of_a_bundle_name_no_folder_of_this_machine(own_runs: Path, tmp_path: Path) -> None:
    manifest = own_runs / "aipo" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"scripted"', '"/srv/cache/some/model"'))
    (own_runs / "grpo" / "graph.json").write_text("{")
    bundle = write_bundle(RunLibrary(own_runs), tmp_path / "site")
    assert "run/grpo/index.html" in bundle.faulty and "run/aipo/index.html" not in bundle.faulty
    folders = [str(own_runs), str(Path(graphs.__file__).parent), "/srv/cache"]
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert [(path.name, f) for path, text in pages.items() for f in folders if f in text] == []
    text = pages[tmp_path / "site" / "run" / "aipo" / "index.html"]
    assert ">consult.py</td>" in text and "<dd>model</dd>" in text
    assert "<code>runs</code>" in pages[tmp_path / "site" / "index.html"]
    assert "in graph.json" in pages[tmp_path / "site" / "run" / "grpo" / "index.html"]


def test_a_limit_keeps_whole_groups_and_bundles_are_replaced(little_runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    bundle = write_bundle(RunLibrary(little_runs), out, limit=9)
    assert bundle.notes == (
        "aipo: 8 of 32 traces are here, the others were left out (--limit 9).",
        "grpo: 8 of 16 traces are here, the others were left out (--limit 9).",
    )
    pages = Counter(str(Path(file).parent) for file in files(out))
    assert (pages["run/aipo/trace"], pages["run/aipo/group"]) == (8, 2)
    assert "8 of 32 traces are here" in (out / "left-out.html").read_text()
    assert dead_links(out) == []
    (out / "CNAME").write_text("traces.example\n")
    write_bundle(RunLibrary(little_runs / "grpo"), out)
    assert not (out / "run" / "aipo").exists() and not (out / "left-out.html").exists()
    assert (out / "CNAME").is_file() and dead_links(out) == []


def test_what_goes_wrong_leaves_the_earlier_bundle(
    little_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(done: int, *_: object) -> None:
        if done == 20:
            raise KeyboardInterrupt

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "site"
    write_bundle(RunLibrary(little_runs), out)
    before = files(out)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(RunLibrary(little_runs / "grpo"), out, note=interrupted)
    assert files(out) == before and dead_links(out) == []
    content = {file: (out / file).read_bytes() for file in before}
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match="allowed a disk with room"):
        write_bundle(RunLibrary(little_runs), out)
    assert {file: (out / file).read_bytes() for file in files(out)} == content


def test_what_is_in_the_way_is_refused_and_left_alone(little_runs: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="which is not empty, allowed a new folder or an earlier bundle"):
        write_bundle(RunLibrary(little_runs), tmp_path)
    with pytest.raises(RunError, match="which is not empty"):
        write_bundle(RunLibrary(little_runs), tmp_path / "thesis.tex")
    assert files(tmp_path) == {"thesis.tex"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="which has no runs"):
        write_bundle(RunLibrary(tmp_path / "empty"), tmp_path / "out")
