"""A real server of the viewer, requests to it written by hand, and a trace with hostile text."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from aipo.trace import Mode, Role
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.guard import Gate
from aipo.viewer.links import group_path, run_path, trace_path
from aipo.viewer.serve import bind, server
from aipo.viewer.site import Site
from kit.handmade import said, trace

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE_PAGE = trace_path("aipo", "aipo/00000-000/2")
PAGES = (
    "",
    run_path("aipo"),
    run_path("aipo/evaluations/after"),
    HOSTILE_PAGE,
    trace_path("aipo", "aipo/00000-001/2"),  # a failed one
    group_path("aipo", "00000-000"),
    "compare/aipo/grpo.html",
    "compare/aipo/aipo_2Fevaluations_2Fafter.html",
    "compare/aipo/aipo_2F00000-000_2F0/aipo/aipo_2F00000-000_2F2.html",
)
"""Pages of the little library, at least one of each kind."""

BAD = "<script>alert(1)</script></style></pre></details><img src=x onerror=alert(1)>\u202e\u2028\x1b[31m"

TRACE = trace(
    said(Role.PROMPT, "prompt", "7*8=?"),
    replace(said(Role.POLICY, "policy", "#5"), policy_version=6),
    replace(said(Role.POLICY, "policy", "6"), policy_version=9),
    trace_id="r/1/0",
    group_id="1",
    task_id="7*8",
    step=4,
    mode=Mode.ASSISTED,
    task={"prompt": "7*8=?", "answer": "56", "split": "easy"},
    seed=11,
    sampling={"temperature": 0.7},
    forbidden_ids=(3, 4),
    reward_parts={"correct": 1.0, "format": 0.1},
    reward=1.1,
    advantage=-0.25,
    fingerprints={"graph": "b9bb908b"},
    started=0.0,
    seconds=1.5,
)


@contextmanager
def serving(root: Path, *, token: str | None = None) -> Iterator[str]:
    """A real server in a thread, on any free port."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        made = server(Site(RunLibrary(root), live=True), Gate("127.0.0.1", port, token))
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://localhost:{port}"
        finally:
            made.should_exit = True
            thread.join()


def point(page: "Page", share: float, chart: int = 0, height: float = 0.5) -> tuple[float, float]:
    """A place in a chart, `share` of the way from its left to its right, `height` from its bottom to its top."""
    box = page.locator("figure .u-over").nth(chart).bounding_box()
    assert box is not None
    return box["x"] + (box["width"] - 1) * share, box["y"] + (box["height"] - 1) * (1 - height)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


def ask(address: str, path: str = "/", *, method: str = "GET", **headers: str) -> Answer:
    """A request with exactly these headers."""
    target = urlsplit(address)
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"host": target.netloc, **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())
    finally:
        connection.close()
