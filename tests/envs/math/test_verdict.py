"""Which two expressions are as good as each other; in this process."""

import pytest

from envs.math.verdict import matches

SAME = [
    ("18", "18"),
    ("18", " 18. "),
    ("18", "18.0"),
    ("18", "\\$18"),
    ("18", "$18$"),
    ("18", "18\\text{ dollars}"),
    ("1,000", "1000"),
    ("1000", "1,000"),
    ("073", "73"),
    ("142.0", "142"),
    ("\\frac{1}{2}", "1/2"),
    ("\\frac{1}{2}", "\\dfrac12"),
    ("\\frac{1}{2}", "0.5"),
    ("\\sqrt{8}", "2\\sqrt{2}"),
    ("p - q", "-q + p"),
    ("(1,2)", "\\left( 1, 2 \\right)"),
    ("\\{1,2\\}", "2, 1"),
    ("[1, \\infty)", "[1,\\infty)"),
    ("5", "x=5"),
    ("\\text{(C)}", "C"),
    ("\\text{Evelyn}", "Evelyn"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
]
OTHER = [
    ("18", "81"),
    ("18", "-18"),
    ("18", "18.1"),
    ("2", "1, 2"),
    ("2", "1 or 2 or 3"),
    ("2", "2$ or $3"),
    ("2", "3} \\boxed{2"),
    ("(1,2)", "(2,1)"),
    ("p - q", "q - p"),
    ("\\sqrt{2}", "1.41"),
    ("[1, \\infty)", "(1, \\infty)"),
    ("\\text{Evelyn}", "\\text{Debra}"),
    ("5", "\\text{five}"),
    ("5", "\\"),
    ("5", "{{{"),
    ("5", "\\left("),
    ("5", "\x00\ufffd"),
    ("5", "9^9^9^9"),
]


@pytest.mark.parametrize(("canonical", "answer"), SAME)
def test_as_good(canonical: str, answer: str) -> None:
    assert matches(canonical, answer) is True


@pytest.mark.parametrize(("canonical", "answer"), OTHER)
def test_not_as_good(canonical: str, answer: str) -> None:
    assert matches(canonical, answer) is False


def test_a_canonical_answer_that_says_nothing_is_no_wrong_answer() -> None:
    with pytest.raises(ValueError, match=r"canonical answer: got '\.', allowed"):
        matches(".", "5")
