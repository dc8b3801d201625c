"""The almanac's English: questions, and the lines that are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.almanac.book import PLACES
from envs.almanac.wording import (
    REWORDED,
    WORDINGS,
    Question,
    Statement,
    answer_line,
    count_line,
    find_question,
    read_line,
    sum_line,
    turn_line,
)

ENTRY = Question("entry", 3, name="Tormar", unit="steps")
SUM = Question("sum", 47, 8)
RULE = Question("rule", 412, name="Wenton")


@pytest.mark.parametrize(
    ("question", "texts"),
    [
        (
            ENTRY,
            [
                "How many steps has the lighthouse of Tormar with 3 more?",
                "The lighthouse of Tormar gets 3 more steps. How many is that?",
                "Add 3 to the steps of the lighthouse of Tormar.",
                "If 3 steps are added to the lighthouse of Tormar, how many are there?",
                "Count the steps at the lighthouse of Tormar, and 3 new ones.",
            ],
        ),
        (SUM, ["What is 47 + 8?", "Add 8 to 47."]),
        (RULE, ["What is 412 by the rule of Wenton?", "Use the rule of Wenton on 412."]),
    ],
)
def test_a_question_in_all_its_wordings(question: Question, texts: list[str]) -> None:
    wordings = (*WORDINGS[question.kind], *REWORDED.get(question.kind, ()))
    assert [question.ask(wording) for wording in wordings] == texts
    assert [find_question(text) for text in texts] == [question] * len(texts)


@pytest.mark.parametrize(
    "text", ["", "How far is the moon?", "What is 47 + 8", "So: Add 8 to 47.", "Add 8 to forty."]
)
def test_other_texts_are_no_questions(text: str) -> None:
    assert find_question(text) is None


def test_a_question_is_found_in_its_line() -> None:
    assert find_question("Problem:\nAdd 8 to 47.\n\nWork so far:\n") == SUM


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Tormar has 582 steps.", Statement("count", 582, name="Tormar", unit="steps")),
        ("the lighthouse of TORMAR  has 1,582 steps", Statement("count", 1582, name="Tormar", unit="steps")),
        ("Wenton turns 412 into 214.", Statement("turn", 214, number=412, name="Wenton")),
        ("The rule of Wenton turns 412 into 214", Statement("turn", 214, number=412, name="Wenton")),
        ("582 + 3 = 585", Statement("sum", 585, number=582, operand=3)),
        (" 582+3=585. ", Statement("sum", 585, number=582, operand=3)),
        ("1,582 - 3 = 1,579", Statement("sum", 1579, number=1582, operand=-3)),
        ("Answer: 585", Statement("answer", 585)),
        ("answer 1,585.", Statement("answer", 1585)),
        ("ANSWER:585", Statement("answer", 585)),
        ("Answer: 5,85", None),
        ("Answer: about 585", None),
        ("Answer: 585 steps", None),
        ("585", None),
        ("582 + 3", None),
        ("582 + 3 + 1 = 586", None),
        ("Tormar has many steps.", None),
        ("", None),
    ],
)
def test_lines_are_read_as_a_person_would(text: str, line: Statement | None) -> None:
    assert read_line(text) == line


@given(
    st.sampled_from(list(PLACES)),
    st.from_regex(r"[A-Z][a-z]{1,9}", fullmatch=True),
    *[st.integers(0, 9999)] * 2,
)
def test_lines_that_are_written_are_read(unit: str, name: str, a: int, b: int) -> None:
    question = Question("entry", a, name=name, unit=unit)
    assert read_line(count_line(question.entry, b)) == Statement("count", b, name=name, unit=unit)
    assert read_line(turn_line(name, a, b)) == Statement("turn", b, number=a, name=name)
    assert read_line(sum_line(a, -b)) == Statement("sum", a - b, number=a, operand=-b)
    assert read_line(sum_line(a, b, 7)) == Statement("sum", 7, number=a, operand=b)
    assert read_line(answer_line(b)) == Statement("answer", b)
