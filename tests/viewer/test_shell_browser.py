"""What every page can do, in a real browser: keys, themes, keeping up to date, and keeping others out."""

import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aipo.util.files import exclusive, write_json
from aipo.viewer.bundle import write_bundle
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.links import group_path, run_path, trace_path
from kit.recorded import HOSTILE
from kit.viewing import HOSTILE_PAGE, PAGES

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Every visible text, its contrast with the first opaque background behind it, and its size.
CONTRASTS = """() => {
  const rgba = (css) => { const n = css.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
    if (c[3] === 1) return c; } return rgba(getComputedStyle(document.body).backgroundColor); };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.getClientRects().length || e.closest("svg, option, script, :disabled")) continue;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${e.tagName}.${e.className}: ${walk.currentNode.data.trim().slice(0, 40)}`);
  }
  return found;
}"""

# Fields without a label, links and buttons without a name.
NAMELESS = """() => [
  ...[...document.querySelectorAll("input:not([type=hidden]),select,textarea")].filter((e) => !e.labels.length && !e.ariaLabel),
  ...[...document.querySelectorAll("a[href],button")].filter((e) => !(e.ariaLabel || e.textContent.trim() || e.title)),
].map((e) => e.outerHTML)"""


def focused(page: "Page") -> str | None:
    return page.evaluate("document.activeElement.closest('[data-row]')?.dataset.row")


def test_rows_are_walked_and_opened_by_keys(page: "Page", address: str) -> None:
    page.goto(f"{address}/")
    rows = []
    for key in ("j", "j", "j", "j", "k"):
        page.keyboard.press(key)
        rows.append(focused(page))
    assert rows == ["aipo", "aipo/evaluations/after", "grpo", "grpo", "aipo/evaluations/after"]
    page.keyboard.press("Enter")
    page.wait_for_url("**/run/aipo_2Fevaluations_2Fafter/index.html")


def test_keys_lead_through_a_run(page: "Page", address: str) -> None:
    page.goto(f"{address}/{run_path('aipo')}")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.hasAttribute('data-search')")
    page.keyboard.type("gh?j")  # what is typed is no command
    assert page.evaluate("document.activeElement.value") == "gh?j"
    page.keyboard.press("Escape")
    page.goto(f"{address}/{trace_path('aipo', 'aipo/00000-000/0')}")
    for keys, path in (
        ("n", trace_path("aipo", "aipo/00000-000/1")),
        ("p", trace_path("aipo", "aipo/00000-000/0")),
        ("gg", group_path("aipo", "00000-000")),
        ("gr", run_path("aipo")),
        ("gh", "index.html"),
    ):
        page.keyboard.type(keys)
        page.wait_for_url(f"**/{path}")
    page.get_by_role("heading", name="Runs").wait_for()
    assert page.title() == "Runs · AIPO"


def test_keys_are_listed(page: "Page", address: str) -> None:
    page.goto(f"{address}/")
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keys").is_visible()
    page.keyboard.press("j")
    assert focused(page) is None
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    page.get_by_role("button", name="keys").click()
    page.get_by_role("button", name="Close").click()
    assert page.get_by_role("dialog").count() == 0


def test_the_theme_follows_the_system_until_the_reader_chooses(page: "Page", address: str) -> None:
    def back() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = "rgb(255, 255, 255)", "rgb(15, 18, 23)"
    page.goto(f"{address}/")
    assert back() == light
    page.emulate_media(color_scheme="dark")
    assert back() == dark
    button = page.get_by_role("button", name=re.compile("^theme"))
    button.click()
    assert (button.inner_text(), back()) == ("theme: light", light)
    button.click()
    page.emulate_media(color_scheme="light")
    assert (button.inner_text(), back()) == ("theme: dark", dark)
    page.goto(f"{address}/{HOSTILE_PAGE}")
    assert back() == dark
    ink = page.locator(".aipo-context").first.evaluate("e => getComputedStyle(e).color")
    assert ink == "rgb(228, 232, 238)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", "nowhere", *PAGES[1:]])
def test_text_can_be_read(page: "Page", address: str, complaints: list[str], path: str, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}/{path}")
    assert page.evaluate(CONTRASTS) == []
    complaints.clear()  # the browser notes a 404


@pytest.mark.parametrize("path", ["", "nowhere", *PAGES[1:]])
def test_pages_fit_a_telephone(page: "Page", address: str, complaints: list[str], path: str) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{address}/{path}")
    page.evaluate("document.querySelectorAll('main details').forEach((fold) => (fold.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    complaints.clear()  # the browser notes a 404


def test_on_a_telephone_the_list_of_runs_hides_nothing_to_its_right(page: "Page", address: str) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(address)
    assert page.locator("main .wide").evaluate("e => e.scrollWidth - e.clientWidth") == 0
    row = page.locator("tr", has=page.get_by_role("link", name="after"))
    boxes = [row.locator(f"[data-label='{name}']").bounding_box() for name in ("solo", "with agents")]
    assert all(box is not None and 0 < box["x"] < box["x"] + box["width"] <= 400 for box in boxes)
    words = " ".join(row.inner_text().split())
    assert words.startswith("after evaluation") and words.endswith("finished")


@pytest.mark.parametrize("path", PAGES)
def test_pages_fit_have_labels_and_do_no_harm(page: "Page", address: str, path: str) -> None:
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto(f"{address}/{path}")
    assert page.get_by_role("banner").count() == page.get_by_role("main").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate(NAMELESS) == []
    links = page.locator("main a:not(svg a)").evaluate_all("all => all.map((a) => a.href)")
    for link in list(dict.fromkeys(links))[:12]:
        assert page.request.get(link.partition("#")[0]).ok, link
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    page.wait_for_timeout(200)
    assert "owned" not in page.title() and page.locator("img").count() == 0
    assert "\u202e" not in page.content() and "\u2028" not in page.content()
    if path == HOSTILE_PAGE:
        shown = HOSTILE.replace("\u202e", "⟨U+202E⟩").replace("\u2028", "⟨U+2028⟩")
        assert shown in page.locator("main").inner_text()


def test_a_page_keeps_up_to_date_and_the_reader_keeps_his_place(page: "Page", serve, own_runs: Path) -> None:
    page.goto(f"{serve(own_runs)}/")
    page.wait_for_timeout(500)  # it has asked for the first version
    page.get_by_label("A: grpo").check()
    page.keyboard.press("j")
    page.evaluate("document.body.dataset.kept = 'yes'")
    shutil.copytree(own_runs / "grpo", own_runs / "fresh")
    page.get_by_role("link", name="fresh").wait_for(timeout=3000)
    assert page.get_by_label("A: grpo").is_checked()
    assert focused(page) is not None
    assert page.evaluate("document.body.dataset.kept") == "yes"


@pytest.mark.parametrize("path", ["/", "/run/grpo/index.html"])
def test_live_is_said_of_runs_that_go_on_and_of_no_other(
    page: "Page", serve, own_runs: Path, path: str
) -> None:
    shutil.rmtree(own_runs / "aipo")
    write_json(own_runs / "grpo" / "ended.json", {"state": "finished", "reason": ""})
    page.goto(serve(own_runs) + path)
    says = page.get_by_role("status").first
    says.get_by_text("up to date").wait_for()
    with exclusive(own_runs / "grpo"):
        says.get_by_text("live").wait_for()
    says.get_by_text("up to date").wait_for()


def test_a_page_says_when_nobody_answers(page: "Page", address: str, complaints: list[str]) -> None:
    page.goto(f"{address}/")
    connected = page.get_by_role("status").get_by_text(re.compile("live|up to date"))
    connected.wait_for()
    page.route("**/version", lambda route: route.abort())
    page.get_by_role("status").get_by_text("not connected").wait_for()
    page.unroute("**/version")
    connected.wait_for()
    complaints.clear()


def test_two_runs_are_chosen_and_compared(page: "Page", address: str) -> None:
    page.goto(f"{address}/")
    page.get_by_label("A: aipo/evaluations/after").check()
    page.get_by_role("button", name="Compare A with B").click()
    page.wait_for_url("**/compare/aipo_2Fevaluations_2Fafter/grpo.html")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A web site of another origin: its folder and its address."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{site.server_port}"
        site.shutdown()
        thread.join()


SPY = """<!doctype html><title>spy</title><script>
const target = "ADDRESS";
const tries = {
  fetch: () => fetch(target).then((r) => r.text()),
  credentials: () => fetch(target + "version", {credentials: "include"}).then((r) => r.text()),
  opaque: () => fetch(target, {mode: "no-cors"}).then((r) => r.type),
  post: () => fetch(target, {method: "POST", mode: "no-cors", body: "x"}).then((r) => r.type),
  script: () => load("script", "src", target + "static/base.js"),
  style: () => load("link", "href", target + "static/base.css", {rel: "stylesheet"}),
  image: () => load("img", "src", target),
  frame: async () => { const f = await load("iframe", "src", target); return f.contentWindow.document.title; },
  popup: async () => { const w = open(target); await new Promise((r) => setTimeout(r, 1000));
    const seen = w.closed ? "" : w.document.title; if (!seen) throw new Error("nothing"); return seen; },
};
const load = (tag, name, value, rest) => new Promise((resolve, reject) => {
  const e = Object.assign(document.createElement(tag), rest, {onload: () => resolve(e), onerror: reject});
  e[name] = value; document.head.append(e); if (tag === "iframe") document.documentElement.append(e);
});
window.spy = async () => {
  const got = {};
  for (const [name, attempt] of Object.entries(tries)) got[name] = await attempt().then(() => "READ", () => "refused");
  return got;
};
</script>"""


def test_a_page_of_another_origin_reads_nothing(
    page: "Page", address: str, elsewhere: tuple[Path, str], complaints: list[str]
) -> None:
    folder, other = elsewhere
    (folder / "spy.html").write_text(SPY.replace("ADDRESS", f"{address}/"))
    page.goto(f"{other}/spy.html")
    attempts = ("fetch", "credentials", "opaque", "post", "script", "style", "image", "frame", "popup")
    assert page.evaluate("spy()") == dict.fromkeys(attempts, "refused")
    complaints.clear()  # each refusal is noted in the console


def test_a_link_from_another_origin_opens_the_page(
    page: "Page", address: str, elsewhere: tuple[Path, str]
) -> None:
    folder, other = elsewhere
    (folder / "note.html").write_text(
        f'<link rel="icon" href="data:,"><a href="{address}/{HOSTILE_PAGE}">look</a>'
    )
    page.goto(f"{other}/note.html")
    page.get_by_role("link", name="look").click()
    page.wait_for_url(f"**/{HOSTILE_PAGE}")
    assert page.get_by_role("main").is_visible()


def test_a_token_opens_the_viewer_once_and_for_all(page: "Page", serve, little_runs: Path) -> None:
    address = serve(little_runs, token="a-token-of-some-length")
    page.goto(f"{address}/{run_path('aipo')}?token=a-token-of-some-length")
    page.get_by_role("heading", level=1).wait_for()
    assert "token" not in page.url
    assert page.evaluate("document.cookie") == ""
    page.goto(f"{address}/")
    assert page.title() == "Runs · AIPO"


def test_a_static_site_works_without_a_server(page: "Page", little_runs: Path, tmp_path: Path) -> None:
    bundle = write_bundle(RunLibrary(little_runs), tmp_path / "site")
    page.goto(bundle.first.as_uri())
    assert page.evaluate("getComputedStyle(document.querySelector('.bar')).position") == "sticky"
    page.get_by_role("button", name=re.compile("^theme")).click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.keyboard.type("j\n")
    page.wait_for_url("**/run/aipo/index.html")
    page.goto((tmp_path / "site" / HOSTILE_PAGE).as_uri())
    page.keyboard.type("gg")
    page.wait_for_url(f"**/{group_path('aipo', '00000-000')}")
