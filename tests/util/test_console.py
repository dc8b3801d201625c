"""What commands print: lines of tables that fit, and with --json nothing but the result on stdout."""

import json

import pytest
from rich.console import Console

from aipo.util.console import line_table, number_table, print_line
from aipo.util.output import output, print_result
from aipo.util.text import age


def printed(*rows: tuple[str, str, str], width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(
            line_table(("id", "text", "note"), rows, width=width, cut=(("text", 4), ("note", 6), ("note", 0)))
        )
    return [line.rstrip() for line in capture.get().splitlines()]


def test_texts_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with output(False) as console:
        console.print("runs/[b]x[/b] mine.py:m: [/nothing]", highlight=False)
    print_line(Console(), "[b]x mine.py:date:")
    assert capsys.readouterr().out == "runs/[b]x[/b] mine.py:m: [/nothing]\n[b]x mine.py:date:\n"


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (40, "run/000/0  a question in words  a remark"),
        (35, "run/000/0  a question in…  a remark"),
        (24, "run/000/0  a q…  a rema…"),
        (22, "run/000/0  a q…"),
    ],
)
def test_a_row_is_one_line_and_ids_are_cut_last(width: int, line: str) -> None:
    assert printed(("run/000/0", "a question\n\tin words", "a remark"), width=width)[1] == line


def test_a_wide_character_takes_two_places_and_an_empty_column_none() -> None:
    assert printed(("1", "数学数学数学", ""), width=12) == ["id  text", "1   数学数 …"]
    assert printed(width=40) == ["id  text  note"]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (32, ["name           before  after", "unknown facts     0.1   0.25", "sums                –"]),
        (31, ["name          before  after", "unknown          0.1   0.25", "facts", "sums               –"]),
        (30, ["unknown facts", "before       0.1", "after        0.25", "sums", "before       –"]),
    ],
)
def test_numbers_of_a_table_are_never_cut(width: int, lines: list[str]) -> None:
    rows = [("unknown facts", "0.1", "0.25"), ("sums", "–", "")]
    console = Console(width=width)
    with console.capture() as capture:
        console.print(number_table(("name", "before", "after"), rows))
    printed = [line.strip() for line in capture.get().splitlines()]
    assert [line for line in printed if line.strip("─")] == lines


def test_with_json_stdout_has_the_result_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with output(True) as console:
        console.print("progress")
        print("from a library")
        print_result(console, {"pass": 0.5, "text": "é\x1b[31m"})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"pass": 0.5, "text": "é\x1b[31m"}
    assert "progress" in captured.err and "from a library" in captured.err
    with output(False) as console:
        console.print("progress")
        print_result(console, {})
    assert capsys.readouterr().out == "progress\n"


def test_a_result_that_is_no_number_is_refused() -> None:
    with output(True) as console, pytest.raises(ValueError, match="JSON compliant"):
        print_result(console, {"loss": float("nan")})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
    ],
)
def test_an_age_in_one_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_a_table_as_markdown_has_no_markup_in_its_cells() -> None:
    table = number_table(("", "a|b"), [("*x* of\ny", "1.0"), ("<b>", "`2`")], title="two_words")
    assert table.markdown().splitlines() == [
        r"**two\_words**",
        "",
        r"|  | a\|b |",
        "| --- | ---: |",
        r"| \*x\* of y | 1.0 |",
        r"| \<b> | \`2\` |",
    ]
    assert number_table(("n",), [["1"]]).markdown() == "| n |\n| --- |\n| 1 |"
