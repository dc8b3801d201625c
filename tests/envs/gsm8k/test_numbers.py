"""Numbers that a text states."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.gsm8k.numbers import read_number, stated_numbers, states


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", 18),
        (" 1,250 ", 1250),
        ("$3.50", Fraction(7, 2)),
        ("-2", -2),
        (".5", Fraction(1, 2)),
        ("20%", 20),
        ("18.", 18),
        ("x", None),
        ("", None),
        ("1/2", None),
        ("18 eggs", None),
    ],
)
def test_a_text_that_is_a_number(text: str, number: Fraction | None) -> None:
    assert read_number(text) == number


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("16 - 3 - 4 = 9", {16, 3, 4, 9}),
        ("12,500 and $1,300.", {12500, 1300}),
        ("-7", {7}),
        ("1.5 liters", {Fraction(3, 2)}),
        ("50% of it", {50, Fraction(1, 2)}),
        ("\uff11\uff12 eggs", {12}),
        ("seven", {7}),
        ("Twenty-four", {20, 4, 24}),
        ("twenty four", {20, 4, 24}),
        ("two hundred and five", {2, 100, 200, 5, 205}),
        ("70 thousand", {70, 1000, 70000}),
        ("one hundred thousand", {1, 100, 1000, 100000}),
        ("three dozen", {3, 12, 36}),
        ("4 dozens", {4, 12, 48}),
        ("half a dozen", {Fraction(1, 2), 12, 6}),
        ("two and a half", {2, Fraction(1, 2), Fraction(5, 2)}),
        ("a 5 and a 6", {5, 6}),
        ("six, seven", {6, 7}),
        ("twice", {2}),
        ("once, someone, often", set()),
        ("the second", set()),
        ("", set()),
    ],
)
def test_the_numbers_that_a_text_states(text: str, numbers: set[Fraction]) -> None:
    assert stated_numbers(text) == numbers


@given(
    st.integers(0, 10**9), st.sampled_from(["{}", "${:,}", "it is {:,}.", "-{}", "{}.0", "{:,} eggs", "({})"])
)
def test_an_integer_is_found_however_it_is_written(number: int, form: str) -> None:
    assert states(form.format(number), Fraction(number))
    assert not states(form.format(number), Fraction(number + 1))


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    assert all(number >= 0 for number in stated_numbers(text))
