"""The page of a comparison or a demo: the numbers of the standings, examples, and nothing that is loaded."""

import re
from collections import Counter
from pathlib import Path

import pytest

from aipo.compare.examples import Example
from aipo.compare.matrix import Matrix
from aipo.compare.page import PageExtras, write_page
from aipo.compare.results import read_results
from aipo.compare.standings import compute_standings
from kit import handmade
from kit.handmade import Elements
from kit.matrices import ARMS, finish, make_matrix


@pytest.fixture
def one_seed(tmp_path: Path) -> Matrix:
    rates = {"grpo": 0.05, "twice": 0.8, "aipo": 0.9}
    return make_matrix(tmp_path, ARMS.replace("[10, 11]", "[10]"), rates)


def page(matrix: Matrix, extras: PageExtras | None = None) -> str:
    results = read_results(matrix)
    path = matrix.out / "report.html"
    write_page(path, matrix, results, compute_standings(matrix, results), extras)
    return path.read_text(encoding="utf-8")


class Page(Elements):
    """Every tag is closed that has to be, and nothing is loaded."""

    def __init__(self, html: str) -> None:
        self.open: list[str] = []
        super().__init__(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        assert not {name for name, _ in attrs if name.startswith("on") or name in ("src", "href")}
        self.open += [tag] if tag not in ("meta", "br") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(html: str) -> Counter[str]:
    return Counter(tag for tag, _ in Page(html).all)


def test_the_page_needs_nothing_else_and_says_what_stands(finished: Matrix) -> None:
    text = page(finished)
    assert tags(text)["script"] == 4 and tags(text)["svg"] > 0  # the data and three scripts
    standings = compute_standings(finished, read_results(finished))
    one = standings.of[finished.measure, "twice"]
    assert one.estimate is not None and one.difference is not None and one.difference.interval is not None
    assert f"{one.estimate.mean:.3f}" in text and f"{one.difference.mean:+.3f}" in text
    assert f"[{one.difference.interval[0]:+.3f}, {one.difference.interval[1]:+.3f}]" in text
    assert '<span class="verdict better">better</span>' in text
    assert '<div class="big head c2">twice</div>' in text and "</strong>: twice, aipo." in text
    assert "Missing" not in text and "<strong>Caveats" not in text and "the reference</span>" in text
    assert len(re.findall(r'<figure class="chart"', text)) == 8 + 4 + 4
    others = text.split("Under the other measures")[1].split("</table>")[0]
    assert re.findall(r'rowspan="(\d+)">(\w+)<', others) == [("4", "heldout"), ("5", "easy")]


def test_what_is_missing_is_listed_and_escaped(matrix: Matrix) -> None:
    finish(matrix.cell("aipo", 10), 0.9)
    matrix.cell("grpo", 11).folder.path.mkdir(parents=True)
    matrix.cell("grpo", 11).log.write_text("<script>alert(1)</script>\n")
    text = page(matrix)
    assert "Missing: 7" in text and "&lt;script&gt;alert(1)" in text and "<script>alert" not in text
    assert "No winner yet: not every arm" in text


def test_caveats_are_listed(finished: Matrix) -> None:
    finished.cell("aipo", 11).folder.manifest.write_text('{"packages": {"torch": "3"}}')
    assert "<li>aipo: its seeds differ in env, torch</li>" in page(finished)


def test_before_anything_ran_there_is_a_page(matrix: Matrix) -> None:
    text = page(matrix)
    assert "0 of 6" in text and "Missing: 8" in text


def extras(text: str = "582", title: str = "A & B", **facts: str) -> PageExtras:
    """A demo's page with one trace, in which an agent says `text`."""
    return PageExtras(
        title=title,
        story=["What <i>it</i> is"],
        remarks=["1 of 3"],
        facts=facts,
        split_names={"heldout": "Unknown facts"},
        arm="aipo",
        examples=[Example("After training, solo: right", handmade.trace(handmade.agent(text)))],
        decode=handmade.decode,
        drawing={"nodes": ["policy", "<b>"], "edges": []},
    )


def test_one_seed_has_no_winner_and_the_page_begins_with_every_score(one_seed: Matrix) -> None:
    text = page(one_seed)
    standings = compute_standings(one_seed, read_results(one_seed))
    for arm, colour in (("before", "c0"), ("grpo", "c1"), ("twice", "c2"), ("aipo", "c3")):
        estimate = standings.of[one_seed.measure, arm].estimate
        assert estimate is not None
        assert f'<div class="score head {colour}">{estimate.mean:.2f}</div><p>{arm}</p>' in text
    assert "no winner: one seed tells no spread" in text


def test_a_demo_has_a_graph_and_examples_below(one_seed: Matrix) -> None:
    text = page(one_seed, extras(seed="7"))
    assert "<title>A &amp; B</title>" in text and "<dd>7</dd>" in text
    assert "Unknown facts, solo, pass@1" in text and "heldout" not in text.split("</style>")[1]
    assert "The state machine of a rollout" in text and "<b>policy" not in text
    assert '<span class="text agent0" title="knowledge">582</span>' in text
    assert "After training, solo: right" in text and "Who is asked (aipo)" in text


def test_what_a_model_wrote_is_text(one_seed: Matrix) -> None:
    hostile = "</pre><script>alert(1)</script><img src=x onerror=y>"
    text = page(one_seed, extras(hostile, hostile, **{hostile: hostile}))
    assert tags(text)["script"] == 4 and "img" not in tags(text)
    assert "default-src 'none'" in text and "@import" not in text
