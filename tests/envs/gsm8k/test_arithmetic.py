"""Equations in a text, and whether they are right."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.gsm8k.arithmetic import Equation, equations, last_expression, plain


@pytest.mark.parametrize(
    ("text", "expression", "value", "is_right"),
    [
        ("16-3-4=9", "16-3-4", 9, True),
        ("16 - 3 - 4 = 8", "16-3-4", 9, False),
        ("She makes 9 * 2 = $18 a day.", "9*2", 18, True),
        ("9 x 2 = 18", "9*2", 18, True),
        (r"$9 \times 2 = 18$", "9*2", 18, True),
        ("18 \u00f7 2 = 9", "18/2", 9, True),
        ("80,000+50,000=$130,000", "80000+50000", 130000, True),
        ("8 * 25% = 2", "8*25%", 2, True),
        ("9 = 3 * 3", "3*3", 9, True),
        ("(2+3)*4 = 20", "(2+3)*4", 20, True),
        ("-3+5 = 2", "-3+5", 2, True),
        ("007+1 = 8", "007+1", 8, True),
        ("5*3 = 15+2 = 17", "5*3", 15, False),
        ("100/3 = 33.33", "100/3", Fraction(100, 3), True),
        ("100/3 = 33.3", "100/3", Fraction(100, 3), True),
        ("100/3 = 33.4", "100/3", Fraction(100, 3), False),
        ("100/3 = 33", "100/3", Fraction(100, 3), False),
        ("10/4 = 2.5.", "10/4", Fraction(5, 2), True),
    ],
)
def test_equations_of_numbers(text: str, expression: str, value: Fraction, is_right: bool) -> None:
    assert equations(text) == [Equation(expression, Fraction(value), is_right)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "18",
        "x = 9",
        "9 = 9",
        "the answer is 18",
        "3 eggs - 1 = 2",
        "3 eggs * 2 eggs = 6",
        "2 ** 9 = 512",
        "9/0 = 1",
        "1 + = 2",
        "((1+1) = 2",
        "= 5",
        "1+" * 200 + "1 = 201",
    ],
)
def test_what_is_no_equation_of_numbers(text: str) -> None:
    assert equations(text) == []


def test_every_equation_is_read() -> None:
    assert [one.is_right for one in equations("4 * 12 = 48 pens, and 48 - 6 = 41 pens")] == [True, False]


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("She makes 9 * 2", "9*2"),
        ("Eggs: 9", "9"),
        ("2 hours * 60 minutes", ""),
        ("(1 + 2) * 3 ", "(1+2)*3"),
        ("", ""),
    ],
)
def test_the_arithmetic_at_the_end(text: str, expression: str) -> None:
    assert last_expression(text) == expression


def test_plain_text() -> None:
    assert plain("4 * 12 = 48\n48 - 6") == "4*12=48\n48-6"
    assert plain("12,500 + $1,300 \u2013 5 \u00d7 2") == "12500+1300-5*2"


@given(st.integers(-99, 99), st.integers(0, 99), st.integers(0, 99), st.integers(-3, 3))
def test_sums_are_exact(a: int, b: int, c: int, slip: int) -> None:
    [one] = equations(f"{a} + {b} * {c} = {a + b * c + slip}")
    assert (one.value, one.is_right) == (a + b * c, slip == 0)


@given(st.text(alphabet="0123456789.()+-*/=% x", max_size=60))
def test_any_text_can_be_checked(text: str) -> None:
    assert isinstance(equations(text), list)
