"""Pages by their addresses, from a real server."""

import json
import logging
import re
import shutil
import socket
import webbrowser
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import uvicorn
from rich.console import Console

from aipo.errors import ConfigError, RunError
from aipo.trace.store import TraceStore
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.guard import Gate
from aipo.viewer.links import compare_path, group_path, run_path, trace_path
from aipo.viewer.serve import first_page, view
from aipo.viewer.site import Site
from kit.viewing import PAGES, ask


@pytest.mark.parametrize("path", ["index.html", "?sort=anything", "run/aipo/", *PAGES])
def test_every_kind_of_page_has_its_address(address: str, path: str) -> None:
    answer = ask(address, f"/{path}")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<main" in answer.body


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere", "//evil.example/", "/%00", "/\\..\\..", "/../../../../etc/passwd",
        "/run/aipo", "/run/none/index.html", "/run/_ED_A0_80/index.html", "/run/..%2f..%2f..%2fetc/index.html",
        "/run/aipo/config.yaml", "/run/aipo/../../config.yaml",
        "/run/aipo/trace/none.html", "/run/aipo/trace/aipo_2F00000-000_2F0", "/run/aipo/trace/_ED_A0_80.html",
        "/run/aipo/group/none.html", "/run/aipo/group/_FF.html",
        "/compare/aipo/none.html", "/compare/aipo/a/b.html", "/compare/aipo/none/grpo/none.html", "/compare/a/b/c/d/e.html",
        "/static/", "/static/none.js", "/static/../links.py", "/static/..%2flinks.py", "/static/%2e%2e/%2e%2e/run.py",
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_plain_404(address: str, path: str) -> None:
    answer = ask(address, path)
    assert answer.status == 404
    assert "There is no such page" in answer.body
    assert "root:" not in answer.body and "Traceback" not in answer.body
    home = re.search(r'<a href="([^"]*)" data-go="h"', answer.body)
    assert home and urljoin(f"{address}{path}", home[1]) == f"{address}/index.html"


def test_head_and_conditional_requests(address: str) -> None:
    first = ask(address, "/static/base.css")
    assert first.headers["content-type"] == "text/css; charset=utf-8"
    assert first.headers["cache-control"] == "private, no-cache"
    assert ask(address, "/static/base.css", if_none_match=first.headers["etag"]).status == 304
    assert ask(address, "/static/base.css", if_none_match='"other"').status == 200
    head = ask(address, "/", method="HEAD")
    assert (head.status, head.body) == (200, "")


def test_a_version_tells_that_something_is_new(serve, own_runs: Path) -> None:
    address = serve(own_runs)

    def versions() -> list[Any]:
        return [json.loads(ask(address, path).body)["version"] for path in ("/version", "/run/aipo/version")]

    before = versions()
    assert versions() == before
    with (own_runs / "aipo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}\n')
    after = versions()
    assert after[0] != before[0] and after[1] > before[1]


def test_the_form_leads_to_the_comparison(address: str) -> None:
    answer = ask(address, "/compare?left=aipo&right=aipo%2Fevaluations%2Fafter")
    assert answer.status == 303
    where = urljoin(f"{address}/compare", answer.headers["location"])
    assert where == f"{address}/compare/aipo/aipo_2Fevaluations_2Fafter.html"
    for query in ("", "?left=aipo", "?left=aipo&right=aipo", "?left=aipo&right=http://evil.example"):
        refused = ask(address, f"/compare{query}")
        assert (refused.status, "Choose two different runs" in refused.body) == (400, True)


def test_a_run_that_goes_away_is_a_404_and_the_server_goes_on(serve, own_runs: Path) -> None:
    address = serve(own_runs)
    assert ask(address, "/run/grpo/").status == 200
    shutil.rmtree(own_runs / "grpo")
    assert ask(address, "/run/grpo/").status == 404
    assert ask(address, "/").status == 200


def test_an_unreadable_file_is_explained(serve, own_runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = serve(own_runs)
    torn = next((own_runs / "grpo" / "traces").glob("step-*"))
    torn.write_bytes(b"PAR1 and then nothing")
    with caplog.at_level(logging.ERROR, "aipo.viewer"):
        answer = ask(address, "/run/grpo/")
    assert answer.status == 500
    assert torn.name in answer.body and "Traceback" not in answer.body
    assert torn.name in caplog.text


def test_a_mistake_of_ours_shows_no_stack(
    little_runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise KeyError("secret")

    monkeypatch.setattr("aipo.viewer.site.home_page", broken)
    page = Site(RunLibrary(little_runs), live=True).answer("index.html")
    assert page.status == 500
    assert b"secret" not in page.body and b"The terminal" in page.body
    assert "KeyError: 'secret'" in caplog.text


def test_names_that_were_shortened_are_found(own_runs: Path) -> None:
    long, group = "x" * 150, "é" * 50
    folder = Path(shutil.move(own_runs / "grpo", own_runs / long)) / "traces"
    trace = next(TraceStore(folder).read())
    with TraceStore(folder) as store:
        store.seal(9, [replace(trace, trace_id=long, group_id=group)])
    site = Site(RunLibrary(own_runs), live=True)
    there = [run_path(long), trace_path(long, long), group_path(long, group)]
    there.append(compare_path(long, long, long, trace.trace_id))
    missing = [run_path(long + "y"), trace_path(long, long + "y"), group_path(long, group + "y")]
    assert [site.answer(path).status for path in (*there, *missing)] == [200] * 4 + [404] * 3


def test_a_taken_port_a_short_token_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    console = Console(quiet=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = rf"--port {port}, which cannot be bound .*\(--port 0 takes any\)"
        with pytest.raises(RunError, match=message):
            view(tmp_path, port=port, console=console)
    with pytest.raises(ConfigError, match="--token: got 5 characters, allowed at least 16"):
        view(tmp_path, token="short", console=console)
    with pytest.raises(RunError, match="allowed a run folder"):
        view(tmp_path / "nowhere", console=console)


def test_serving_says_where_and_ends_quietly(little_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: uvicorn.Server, sockets: list[socket.socket]) -> None:
        assert sockets[0].getsockname()[1] > 0
        raise KeyboardInterrupt

    opened: list[str] = []
    monkeypatch.setattr(uvicorn.Server, "run", interrupted)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    console = Console(record=True, width=200, quiet=False, file=StringIO())
    view(little_runs, port=0, open_browser=True, console=console)
    said = console.export_text()
    (address,) = opened
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
    assert "3 runs in " in said and f"viewer at {address} " in said and "viewer closed" in said
    view(little_runs, host="0.0.0.0", port=0, console=console)
    assert re.search(r"viewer at http://\S+:\d+/\?token=[\w-]{32} ", console.export_text())
    assert opened == [address]


def test_the_static_site_is_announced(own_runs: Path, tmp_path: Path) -> None:
    (own_runs / "grpo" / "graph.json").write_text("{")
    console = Console(record=True, width=200, file=StringIO())
    view(own_runs, static=tmp_path / "site", limit=9, console=console)
    said = console.export_text()
    assert "aipo: 8 of 32 traces are here" in said
    assert "could not be shown: run/grpo/index.html" in said
    assert f"written to {tmp_path / 'site' / 'index.html'}" in said


@pytest.mark.parametrize(
    ("gate", "page"),
    [
        (Gate("::1", 1), "http://[::1]:1/"),
        (Gate("10.0.0.7", 80, "abc"), "http://10.0.0.7:80/?token=abc"),
    ],
)
def test_the_first_address(gate: Gate, page: str) -> None:
    assert first_page(gate) == page
