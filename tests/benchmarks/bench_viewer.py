"""Is the viewer quick enough to be used?

    python tests/benchmarks/bench_viewer.py [--traces 100000] [--repeats 7]

A real server in a process of its own and a real Chromium (with an empty cache each time), on runs made for the
purpose in a temporary folder: `many` has short traces of the miniature, 128 a step, with metrics of four updates a
step; `long` has 32 traces of 16 384 tokens with texts, log-probs, entropies and token stats, and a tokenizer of 150 000
words.

- run page: what the server takes for all of it, and a browser until it is loaded;
- trace page: from the start of navigation until the token view has been asked for and shows its first tokens, and
  until it has all of them;
- live: from the moment that a new step's file is there until the open page shows one of its traces, begun at
  different times between two looks of the page;
- static: the size of a static site of 1 000 short traces with token stats.

`first` is the first request to a server that has just started, and opens what it then keeps. A bar is for the median.
"""

import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import bulk
from measure import options, short, show, wall
from playwright.sync_api import Browser, Page, sync_playwright

from aipo.run import RunFolder
from aipo.trace.store import TraceStore
from aipo.viewer.bundle import Bundle, write_bundle
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.links import slug
from kit.recorded import save_tokenizer

LONG, LONG_TRACES = 16_384, 32
BUNDLED = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    unit: str
    values: Sequence[float]
    bar: float | None = None


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """A viewer of `root` in a process of its own; its address, without a slash at its end."""
    command = [sys.executable, "-u", "-m", "aipo.cli", "view", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = next(line for line in process.stdout if line.startswith("viewer at "))
            yield said.split()[2].rstrip("/")
        finally:
            process.terminate()


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    return 1e3 * wall(action)


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read()


@contextmanager
def fresh(browser: Browser) -> Iterator[Page]:
    """A page that has nothing in its cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context.new_page()
    context.close()


def loaded(browser: Browser, address: str) -> float:
    with fresh(browser) as page:
        page.goto(address, wait_until="load")
        return page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")


def run_pages(root: Path, browser: Browser, repeats: int) -> list[Row]:
    queries = {
        "": "",
        ", filtered": "?agent=knowledge&reward=0.5..&kind=assisted",
        ", traces": "?view=traces",
        ", text searched": "?text=%2B5%3D55",
    }
    with serving(root) as address:
        first = timed(lambda: fetch(f"{address}/run/many/index.html"))
        rows = [Row("run page, first", "ms", [first])]
        for name, query in queries.items():
            page = f"{address}/run/many/index.html{query}"
            fetch(page)
            times = [timed(lambda p=page: fetch(p)) for _ in range(repeats)]
            rows.append(Row(f"run page{name}", "ms", times, 500))
        page = f"{address}/run/many/index.html"
        times = [loaded(browser, page) for _ in range(repeats)]
        return [*rows, Row("run page, in the browser", "ms", times, 500)]


def trace_pages(root: Path, browser: Browser, trace_ids: Sequence[str], repeats: int) -> list[Row]:
    def visit(trace_id: str) -> tuple[float, float]:
        with fresh(browser) as page:
            page.goto(f"{address}/run/long/trace/{slug(trace_id)}.html", wait_until="commit")
            page.get_by_role("button", name="Tokens", exact=True).click()
            token = "document.querySelector('#token-list [data-t]')"
            shown = f"() => {token}?.getClientRects().length && performance.now()"
            whole = f"() => document.querySelectorAll('#token-list [data-t]').length === {LONG} && performance.now()"
            return tuple(page.wait_for_function(ready).json_value() for ready in (shown, whole))

    with serving(root) as address:
        (first, _), *others = [visit(trace_id) for trace_id in trace_ids[: repeats + 1]]
    return [
        Row(f"trace of {LONG} tokens, first: interactive", "ms", [first]),
        Row(f"trace of {LONG} tokens: interactive", "ms", [shown for shown, _ in others], 1500),
        Row(f"trace of {LONG} tokens: all tokens shown", "ms", [whole for _, whole in others]),
    ]


def live(root: Path, browser: Browser, templates: Sequence[bulk.Trace], steps: int, repeats: int) -> Row:
    """Steps are added to the run."""
    store = TraceStore(root / "many" / "traces", decode=bulk.TOKENIZER.decode)
    waits: list[float] = []
    with serving(root) as address, fresh(browser) as page:
        page.goto(f"{address}/run/many/index.html?view=traces", wait_until="load")
        for number in range(repeats):
            traces = bulk.step_of(templates, steps + number)
            page.wait_for_timeout(2000 + 1500 * number / repeats)
            store.seal(steps + number, traces)
            there = f"() => document.querySelector('[data-row=\"{traces[0].trace_id}\"]')"
            waits.append(timed(lambda ready=there: page.wait_for_function(ready)) / 1e3)
    return Row("live: a new step is shown", "s", waits, 3)


def bundle(folder: Path, templates: Sequence[bulk.Trace]) -> list[Row]:
    run = RunFolder(folder / "short")
    steps = bulk.fill(run.traces, templates, BUNDLED, decode=bulk.TOKENIZER.decode)
    bulk.furnish(run, templates, steps)
    for step in range(steps):
        bulk.keep_stats(run.token_stats, bulk.step_of(templates, step))
    written: list[Bundle] = []
    spent = wall(lambda: written.append(write_bundle(RunLibrary(run.path), folder / "site")))
    (made,) = written
    assert not made.faulty, made.faulty[:3]
    share = BUNDLED / (steps * bulk.STEP)
    return [
        Row(f"static, {BUNDLED} traces: size", "MB", [share * made.size / 1e6], 30),
        Row(f"static, {BUNDLED} traces: writing it", "s", [share * spent]),
        Row(f"static, {BUNDLED} traces: files", "", [share * made.files]),
    ]


def measure(folder: Path, browser: Browser, count: int, repeats: int) -> list[Row]:
    templates, root = bulk.short(), folder / "runs"
    many, long = RunFolder(root / "many"), RunFolder(root / "long")
    steps = bulk.fill(many.traces, templates, count, decode=bulk.TOKENIZER.decode)
    bulk.furnish(many, templates, steps)
    asked = [t for t in templates[: bulk.STEP] if t.consults and t.advantage][:LONG_TRACES]
    stretched = [bulk.again(trace, 0) for trace in bulk.long(asked, LONG)]
    TraceStore(long.traces, decode=bulk.long_words).seal(0, stretched)
    bulk.furnish(long, stretched, 1, partial(save_tokenizer, tokenizer=bulk.long_tokenizer()))
    bulk.keep_stats(long.token_stats, stretched)
    return [
        *run_pages(root, browser, repeats),
        *trace_pages(root, browser, [trace.trace_id for trace in stretched], repeats),
        live(root, browser, templates, steps, repeats),
        *bundle(folder, templates),
    ]


def main() -> None:
    given = options(__doc__, traces=100_000, repeats=7)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = shutil.which("chromium")  # None: the one that Playwright brought
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        rows = measure(Path(folder), browser, given.traces, given.repeats)
        browser.close()
    cells = [
        [row.what, row.unit, short(median(row.values)), short(max(row.values)), f"{row.bar or ''}"]
        for row in rows
    ]
    show(("what", "unit", "median", "slowest", "bar"), cells, [asdict(row) for row in rows], given.out)


if __name__ == "__main__":
    main()
