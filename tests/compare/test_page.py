"""The page of a comparison or a demo: the numbers of the standings, examples, and nothing that is loaded."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aipo.compare.examples import Example
from aipo.compare.matrix import Matrix, read_matrix
from aipo.compare.page import PageExtras, write_page
from aipo.compare.results import read_results
from aipo.compare.standings import compute_standings
from aipo.errors import RunError
from aipo.trace import Mode, Role, StopReason, Trace, segment
from kit.matrices import finish, finish_all, matrix_file

TEXT = """
seeds: [10, 11]
set: [evaluate.samples=4, "evaluate.ks=[1, 2, 4]"]
reference: grpo
arms:
  grpo: {config: grpo}
  aipo: {config: aipo}
"""


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    return read_matrix(matrix_file(tmp_path, TEXT))


def page(matrix: Matrix, extras: PageExtras | None = None) -> str:
    results = read_results(matrix)
    path = matrix.out / "report.html"
    write_page(path, matrix, results, compute_standings(matrix, results), extras)
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every tag is closed that has to be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.scripts += tag == "script"
        assert not {name for name, _ in attrs if name.startswith("on") or name in ("src", "href")}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(matrix: Matrix) -> None:
    finish_all(matrix, {"grpo": 0.05, "aipo": 0.9})
    tags = Tags()
    tags.feed(page(matrix))
    assert tags.open == [] and "svg" in tags.seen
    assert tags.scripts == 3  # the data, uPlot and charts.js


def test_the_page_says_what_stands(matrix: Matrix) -> None:
    finish_all(matrix, {"grpo": 0.05, "aipo": 0.9})
    text = page(matrix)
    standings = compute_standings(matrix, read_results(matrix))
    one = standings.of[matrix.measure, "aipo"]
    assert one.estimate is not None and one.difference is not None and one.difference.interval is not None
    assert f"{one.estimate.mean:.3f}" in text and f"{one.difference.mean:+.3f}" in text
    assert f"[{one.difference.interval[0]:+.3f}, {one.difference.interval[1]:+.3f}]" in text
    assert '<span class="verdict better">better</span>' in text
    assert '<div class="big head c2">aipo</div>' in text and "No other arm ties with it." in text
    assert "Missing" not in text and "the reference</span>" in text
    assert len(re.findall(r'<figure class="chart"', text)) == 6 + 2 + 4


def test_other_measures_stand_under_their_split(matrix: Matrix) -> None:
    finish_all(matrix, {"grpo": 0.05, "aipo": 0.9})
    head = page(matrix).split("Under the other measures")[1].split("</thead>")[0]
    assert re.findall(r'colspan="(\d+)">(\w+)<', head) == [("4", "heldout"), ("5", "easy")]


def test_what_is_missing_is_listed_and_escaped(matrix: Matrix) -> None:
    finish(matrix.cell("aipo", 10), 0.9)
    matrix.cell("grpo", 11).folder.path.mkdir(parents=True)
    matrix.cell("grpo", 11).log.write_text("<script>alert(1)</script>\n")
    text = page(matrix)
    assert "Missing: 5" in text and "&lt;script&gt;alert(1)" in text and "<script>alert" not in text
    assert "No winner yet: not every arm" in text


def test_caveats_are_listed(matrix: Matrix) -> None:
    finish_all(matrix, {"grpo": 0.05, "aipo": 0.9})
    assert "<strong>Caveats" not in page(matrix)
    matrix.cell("aipo", 11).folder.manifest.write_text('{"packages": {"torch": "3"}}')
    assert "<li>aipo: its seeds differ in env, torch</li>" in page(matrix)


def test_before_anything_ran_there_is_a_page(matrix: Matrix) -> None:
    text = page(matrix)
    assert "0 of 4" in text and "Missing: 6" in text


def example(text: str) -> Example:
    trace = Trace(
        trace_id="t",
        run_id="r",
        group_id="g",
        task_id="3@7",
        step=1,
        index=0,
        mode=Mode.ASSISTED,
        task={},
        seed=0,
        sampling={},
        segments=(segment(Role.AGENT, "knowledge", [ord(c) for c in text]),),
        reward=1.0,
        stop_reason=StopReason.EOS,
    )
    return Example(caption="After training, solo: right", trace=trace)


def extras(**rest: object) -> PageExtras:
    values: dict[str, object] = {
        "title": "A & B",
        "facts": {"seed": "7"},
        "split_names": {"heldout": "Unknown facts"},
        "arm": "aipo",
        "examples": [example("582")],
        "decode": lambda ids: "".join(map(chr, ids)),
        "drawing": {"nodes": ["policy", "<b>"], "edges": []},
    }
    return PageExtras(**(values | rest))  # type: ignore[arg-type]


@pytest.fixture
def one_seed(tmp_path: Path) -> Matrix:
    matrix = read_matrix(matrix_file(tmp_path, TEXT.replace("[10, 11]", "[10]")))
    finish_all(matrix, {"grpo": 0.05, "aipo": 0.9})
    return matrix


def test_one_seed_has_no_winner_and_the_page_begins_with_every_score(one_seed: Matrix) -> None:
    text = page(one_seed)
    standings = compute_standings(one_seed, read_results(one_seed))
    for arm, colour in (("before", "c0"), ("grpo", "c1"), ("aipo", "c2")):
        estimate = standings.of[one_seed.measure, arm].estimate
        assert estimate is not None
        assert f'<div class="score head {colour}">{estimate.mean:.2f}</div><p>{arm}</p>' in text
    assert "no winner: one seed tells no spread" in text


def test_a_demo_has_a_graph_and_examples_below(one_seed: Matrix) -> None:
    text = page(one_seed, extras())
    assert "<title>A &amp; B</title>" in text and "<dd>7</dd>" in text
    assert "Unknown facts, solo, pass@1" in text and "heldout" not in text.split("</style>")[1]
    assert "The state machine of a rollout" in text and "<b>policy" not in text
    assert '<span class="text agent0" title="knowledge">582</span>' in text
    assert "After training, solo: right" in text and "Who is asked (aipo)" in text


def test_what_a_model_wrote_is_text(one_seed: Matrix) -> None:
    hostile = "</pre><script>alert(1)</script><img src=x onerror=y>"
    text = page(one_seed, extras(title=hostile, facts={hostile: hostile}, examples=[example(hostile)]))
    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and tags.scripts == 3 and "img" not in tags.seen
    assert "default-src 'none'" in text and "@import" not in text


def test_a_folder_that_cannot_be_written_is_an_error(one_seed: Matrix, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    results = read_results(one_seed)
    with pytest.raises(RunError, match="allowed a folder that can be written"):
        write_page(tmp_path / "file" / "report.html", one_seed, results, compute_standings(one_seed, results))
