"""A solution's steps, and what may be said of each."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.gsm8k.numbers import read_number, states
from envs.gsm8k.solution import ALONE, LAST, Solution
from kit.word_problems import PROBLEMS


def solution(place: int) -> Solution:
    """Of one of the problems, without the calculator's notes."""
    problem = PROBLEMS[place]
    worked, _, answer = problem["answer"].rpartition("\n#### ")
    lines = (line.partition("<<")[0] + line.partition(">>")[2] for line in worked.splitlines())
    return Solution(problem["question"], "\n".join(lines), Fraction(answer.replace(",", "")))


SAID = [
    ["She buys 4 * 12 = 48 pens.", f"{ALONE} She can use 48 - 6 = ?"],
    ["Together that is 12,500 + 1,300 = $13,800.", f"{ALONE} He still owes 13,800 / 2 = ?"],
    ["", f"{ALONE} Now she has 9 + 9 = ?"],
    ["", "", f"{ALONE} Beyond the three guides that is 8 - 3 = ?"],
    [f"{ALONE} In 5 days he reads 7 * 5 = ?", "", f"{ALONE} At last he is on page 49 - 14 = ?"],
    ["A third is 90 / 3 = 30 liters.", f"{ALONE} There is 90 - 30 - 20 = ?", LAST],
    ["It becomes 8 * 25% = $2 cheaper.", "A hat is 8 - 2 = $6.", f"{ALONE} He pays 6 * 3 = ?"],
    [
        "2 hours are 2 hours * 60 minutes/hour = 120 minutes.",
        f"{ALONE} It moves 120 minutes * 15 liters/minute = ?",
    ],
    ["Let x be the number.", "2x + 6 = 30", "2x = 24", f"{ALONE} x = ?"],
    ["All seats are 25 * 1 = 25.", f"{ALONE} 25-16 = ?"],
    [f"{ALONE} She has 3 + 11 = ?"],
    ["Of 70,000 there leave 500.", LAST],
]


@pytest.mark.parametrize(("place", "said"), enumerate(SAID))
def test_what_may_be_said_of_each_step(place: int, said: list[str]) -> None:
    assert [step.said for step in solution(place).steps] == said


def test_arithmetic_and_results() -> None:
    steps = [(step.expression, step.result) for place in (1, 6, 7) for step in solution(place).steps]
    assert steps == [
        ("12500+1300", "13800"),
        ("13800/2", "6900"),
        ("8*25%", "2"),
        ("8-2", "6"),
        ("6*3", "18.00"),
        ("", "120"),
        ("", "1800"),
    ]


FIRST, SECOND, THIRD = SAID[6]


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("", FIRST),
        ("A hat costs $8.", FIRST),
        (FIRST, SECOND),
        (f"<consult:reasoning>next</consult><feedback:reasoning>{FIRST}</feedback>", SECOND),
        ("25% of 8 is 8 * .25 = 2", SECOND),
        ("8 x 25% = $ 2", SECOND),
        ("8 * 25% = 20", FIRST),
        ("8 * 25% = 2.5", FIRST),
        ("8 - 2 = 6", FIRST),
        (f"{SECOND}\n{FIRST}", THIRD),
        (f"{FIRST}\n{SECOND}\n{THIRD}", THIRD),
        (f"{FIRST}\n{SECOND}\nHe pays 6 * 3 = 18", THIRD),
        (f"{FIRST}\n{SECOND}\nHe pays 6 * 3 = 17", THIRD),
    ],
)
def test_the_first_step_that_the_work_does_not_contain(work: str, said: str) -> None:
    assert solution(6).next_step(work) == said


@pytest.mark.parametrize("guess", ["35", "34", "?"])
def test_a_step_that_comes_to_the_answer_counts_as_done_whatever_it_is_said_to_come_to(guess: str) -> None:
    assert solution(4).next_step(f"7 * 5 = {guess}") == SAID[4][2]


def test_facts_are_the_sentences_that_state_a_number() -> None:
    assert solution(0).facts == ("Mara buys 4 boxes of pens.", "Each box holds 12 pens, and 6 pens are dry.")
    assert solution(2).facts == ("She gives 9 away and then gets 9 as a gift.",)
    rides = Solution("If 3 rides cost $6, how much are 5 rides?", "6 / 3 = 2\n2 * 5 = 10", Fraction(10))
    assert rides.facts == ("If 3 rides cost $6",)


@pytest.mark.parametrize(
    ("request_", "work", "said"),
    [
        ("What does the van cost?", "", "A van costs $12,500 and its paint $1,300."),
        ("how much he pays", "", "Ole pays half at once."),
        ("together", "", None),  # a step that is not done
        ("together", "12500+1300=13800", "Together that is 12,500 + 1,300 = $13,800."),
        ("what he owes", "13800/2=6900", None),  # the last step
        ("6900", "", None),
        ("", "", None),
    ],
)
def test_the_quantity_that_is_asked_for(request_: str, work: str, said: str | None) -> None:
    assert solution(1).quantity(request_, work) == said


def test_the_step_that_comes_to_a_value() -> None:
    step = solution(0).step_to(Fraction(48))
    assert step is not None and step.line == "She buys 4 * 12 = 48 pens."
    assert solution(0).step_to(Fraction(42)) is None  # the answer
    assert solution(0).step_to(Fraction(47)) is None


@given(st.integers(0, len(PROBLEMS) - 1), st.text(max_size=80), st.data())
def test_following_the_steps_comes_to_the_last_one_and_never_to_the_answer(
    place: int, noise: str, data: st.DataObject
) -> None:
    asked, work = solution(place), noise
    answer = read_number(PROBLEMS[place]["answer"].rpartition("####")[2])
    assert answer is not None
    for _ in asked.steps:
        said = asked.next_step(work)
        assert not states(said, answer)
        work += f"\n{data.draw(st.sampled_from(['', 'Hm. ']))}{said}"
    assert asked.next_step(work) == asked.steps[-1].said
