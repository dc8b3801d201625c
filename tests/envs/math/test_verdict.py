"""Which answers are as good as the canonical one, as a person would say; in this process."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.math.numbers import number
from envs.math.verdict import matches
from envs.math.writing import tidy
from kit import answer_pairs, answer_writings


def rows(*tables: dict[str, str]) -> list[object]:
    return [
        pytest.param(canonical, answers, id=f"{kind}: {canonical}")
        for table in tables
        for kind, canonical, answers in answer_pairs.pairs(table)
    ]


@pytest.mark.parametrize(("canonical", "answers"), rows(answer_pairs.RIGHT, answer_writings.RIGHT))
def test_as_good(canonical: str, answers: list[str]) -> None:
    assert {answer: matches(canonical, answer) for answer in answers} == dict.fromkeys(answers, True)


@pytest.mark.parametrize(("canonical", "answers"), rows(answer_pairs.WRONG, answer_writings.WRONG))
def test_not_as_good(canonical: str, answers: list[str]) -> None:
    assert {answer: matches(canonical, answer) for answer in answers} == dict.fromkeys(answers, False)


@pytest.mark.parametrize("answer", [" 18. ", "18\n", "\u202f18"])
def test_white_space_around_an_answer_says_nothing(answer: str) -> None:
    assert matches("18", answer) is True


@pytest.mark.parametrize("answer", ["", " ", "\\", "\x00\ufffd", "|"])
def test_what_is_no_answer_is_wrong(answer: str) -> None:
    assert matches("18", answer) is False


def test_a_canonical_answer_that_says_nothing_is_no_wrong_answer() -> None:
    with pytest.raises(ValueError, match=r"canonical answer: got '\.', allowed"):
        matches(".", "5")


@given(st.integers(-(10**12), 10**12), st.integers(-40, 40))
def test_a_number_is_the_same_in_every_writing(mantissa: int, power: int) -> None:
    value = Fraction(mantissa) * Fraction(10) ** power
    writings = (
        f"{mantissa}e{power}",
        rf"{mantissa} \times 10^{{{power}}}",
        rf"x = {mantissa}\cdot10^{{{power}}}\text{{ m}}",
    )
    for writing in writings:
        found = number(tidy(writing))
        assert found is not None and found.value == value
    assert matches(writings[0], f"{mantissa + 1}e{power}") is False


@given(st.integers(0, 10**9))
def test_thousands_may_be_set_apart(value: int) -> None:
    for separator in (",", "{,}", r"\,", r",\!", " "):
        assert matches(str(value), f"{value:,}".replace(",", separator)) is True


LONG = {
    "words": r"\text{The probability is therefore about }0.5",
    "letters": "a" * 5000,
    "digits": "1" * 5000,
    "braces": "{" * 2500 + "}" * 2500,
    "commas": "1," * 2500,
    "units": "5" + " cm" * 1600,
    "units that are cut": "5" + " cm" * 60 + "!",
    "units and powers": "5 cm ^" * 30,
    "names": r"\abc" * 45,
    "commas behind it": "77" + "," * 990 + "x",
    "slashes": "1/" * 2000,
    "texts": r"\text{" * 800 + "}" * 800,
    "relations": "x<" * 1500,
    "exponents": "1e" * 2000,
    "nested braces": "{" * 40 + "x" + "}" * 40,
    "open braces": "{" * 450,
    "open brackets": "(" * 450,
}


@pytest.mark.parametrize("answer", LONG.values(), ids=LONG)
def test_a_long_answer_is_wrong_and_read_in_no_time(answer: str) -> None:
    """Minutes of reading, as math-verify and a careless pattern take, would end in the time limit of a test."""
    assert matches("77", answer) is False


@pytest.mark.parametrize("blanks", [" " * 240, r"\ " * 240, "~" * 240, "\n\t" * 120], ids=ascii)
def test_blanks_in_an_answer_cost_no_time(blanks: str) -> None:
    """They took seconds, and an answer that needs too long is not scored in place of wrong."""
    start = time.process_time()
    assert matches("77", f"answer{blanks}x") is False
    assert time.process_time() - start < 1


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_text_breaks_the_reading(one: str, other: str) -> None:
    for text in (one, other, f"\\text{{{one}}}{other}", f"\\mathbf{{{one}"):
        assert isinstance(tidy(text), str)
        number(tidy(text))
