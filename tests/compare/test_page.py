"""The page of a comparison: the numbers of the standings, no script, nothing loaded; and how it looks."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aipo.compare.matrix import Matrix, read_matrix
from aipo.compare.page import write_page
from aipo.compare.results import read_outcomes
from aipo.compare.standings import stand
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


def page(matrix: Matrix) -> str:
    outcomes = read_outcomes(matrix)
    path = matrix.out / "report.html"
    write_page(path, matrix, outcomes, stand(matrix, outcomes))
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every tag is closed that has to be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
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
    assert tags.open == [] and "script" not in tags.seen and "svg" in tags.seen


def test_the_page_says_what_stands(matrix: Matrix) -> None:
    finish_all(matrix, {"grpo": 0.05, "aipo": 0.9})
    text = page(matrix)
    standings = stand(matrix, read_outcomes(matrix))
    one = standings.of[matrix.measure, "aipo"]
    assert one.estimate is not None and one.difference is not None and one.difference.interval is not None
    assert f"{one.estimate.mean:.3f}" in text and f"{one.difference.mean:+.3f}" in text
    assert f"[{one.difference.interval[0]:+.3f}, {one.difference.interval[1]:+.3f}]" in text
    assert '<span class="verdict better">better</span>' in text
    assert '<div class="big head c2">aipo</div>' in text and "No other arm ties with it." in text
    assert "Missing" not in text and "the reference</span>" in text
    assert len(re.findall(r'<svg class="chart"', text)) == 6 + 2 + 4


def test_other_measures_stand_under_their_split(matrix: Matrix) -> None:
    finish_all(matrix, {"grpo": 0.05, "aipo": 0.9})
    head = page(matrix).split("Under the other measures")[1].split("</thead>")[0]
    assert re.findall(r'colspan="(\d+)">(\w+)<', head) == [("4", "heldout"), ("5", "easy")]


def test_what_is_missing_is_listed_and_escaped(matrix: Matrix) -> None:
    finish(matrix.cell("aipo", 10), 0.9)
    matrix.cell("grpo", 11).folder.path.mkdir(parents=True)
    matrix.cell("grpo", 11).log.write_text("<script>alert(1)</script>\n")
    text = page(matrix)
    assert "Missing: 5" in text and "&lt;script&gt;alert(1)" in text and "<script" not in text
    assert "No winner yet: not every arm" in text


def test_what_has_to_be_known_first_is_told(matrix: Matrix) -> None:
    finish_all(matrix, {"grpo": 0.05, "aipo": 0.9})
    assert "To be known first" not in page(matrix)
    matrix.cell("aipo", 11).folder.manifest.write_text('{"packages": {"torch": "3"}}')
    assert "<li>aipo: its seeds differ in env, torch</li>" in page(matrix)


def test_before_anything_ran_there_is_a_page(matrix: Matrix) -> None:
    text = page(matrix)
    assert "0 of 4" in text and "Missing: 6" in text
