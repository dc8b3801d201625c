"""The almanac: its entries, its splits and its scoring."""

from collections import Counter
from functools import cache

import pytest

from aipo.errors import TaskError
from aipo.rollout import Task
from envs.almanac import Almanac, Book
from envs.almanac.book import Entry, Rule
from envs.almanac.solution import uncarried
from envs.almanac.wording import REWORDED, Question, find_question

SPLITS = {
    "easy": 48,  # 8 known entries x 2 numbers + 32 sums
    "facts": 32,  # 16 unknown entries x 2 numbers
    "facts_reworded": 32,
    "sums_train": 200,
    "sums": 48,
    "rules_train": 120,  # 3 rules x 40 numbers
    "rules": 48,
    "practice_sums": 80,
    "practice_rules": 160,  # 80 rules x 2 numbers
}


@cache
def almanac(seed: int) -> Almanac:
    return Almanac(seed)


@pytest.fixture(params=(0, 1, 2))
def env(request: pytest.FixtureRequest) -> Almanac:
    return almanac(request.param)


def questions(env: Almanac, *splits: str) -> list[Question]:
    found = [find_question(task.prompt) for split in splits for task in env.tasks(split)]
    return [question for question in found if question]


def test_entries_are_of_three_kinds_and_no_name_comes_twice(env: Almanac) -> None:
    book = env.book
    assert (len(book.known), len(book.unknown), len(book.rules), len(book.practice_rules)) == (8, 16, 3, 80)
    names = [*(entry.name for entry in book.entries), *book.rules, *book.practice_rules]
    assert len({*names}) == len(names) == 27 * 27
    assert all(100 <= book.value(entry) < 900 for entry in book.entries)


def test_the_seed_draws_the_almanac() -> None:
    assert Book.draw(0) == Book.draw(0) != Book.draw(1)
    entry = Entry("steps", "Tormar")
    assert Book.draw(0).value(entry) != Book.draw(1).value(entry)
    assert Almanac(3).tasks("facts") == Almanac(3).tasks("facts") != Almanac(4).tasks("facts")


def test_a_rule_moves_digits() -> None:
    assert [Rule(order, 111).turn(412) for order in ((2, 1, 0), (1, 2, 0), (2, 0, 1))] == [214, 124, 241]


def test_splits_and_their_sizes(env: Almanac) -> None:
    sizes = {split: len(env.tasks(split)) for split in env.splits()}
    assert sizes == {
        **SPLITS,
        **{split: sizes[split] for split in ("easy_train", "facts_train")},
        "practice_facts": 27 * 27 - 8 - 16 - 3 - 80,
    }
    # at least nine numbers can be added to a value, of which two are held out
    assert sizes["facts_train"] >= 16 * 7 and sizes["easy_train"] >= 8 * 7 + 40


def test_no_question_is_asked_twice(env: Almanac) -> None:
    tasks = [task for split in env.splits() for task in env.tasks(split)]
    assert len({task.prompt for task in tasks}) == len({task.task_id for task in tasks}) == len(tasks)
    # but in other words
    asked = Counter(questions(env, *env.splits()))
    assert {q for q, times in asked.items() if times > 1} == {*questions(env, "facts_reworded")}
    assert max(asked.values()) == 2


def test_held_out_questions_are_of_the_same_unknown_entries(env: Almanac) -> None:
    train, heldout = questions(env, "facts_train"), questions(env, "facts")
    assert {q.entry for q in train} == {q.entry for q in heldout} == {*env.book.unknown}
    assert {*train}.isdisjoint(heldout)
    assert questions(env, "facts_reworded") == heldout
    assert {q.name for q in questions(env, "rules_train")} == {q.name for q in questions(env, "rules")}


def test_no_other_split_tells_of_an_unknown_entry_or_rule(env: Almanac) -> None:
    names = {*(entry.name for entry in env.book.unknown), *env.book.rules}
    others = [s for s in env.splits() if not s.startswith(("facts", "rules"))]
    assert names.isdisjoint(q.name for q in questions(env, *others))


def test_other_words_stand_in_their_split_alone(env: Almanac) -> None:
    first_words = tuple(wording[:6] for wording in REWORDED["entry"])
    assert first_words == ("If {nu", "Count ")
    for split in env.splits():
        reworded = [task.prompt.startswith(("If ", "Count ")) for task in env.tasks(split)]
        assert reworded == [split == "facts_reworded"] * len(reworded)


def test_sums_carry_where_they_are_to_be_learned(env: Almanac) -> None:
    for question in questions(env, "sums_train", "sums", "practice_sums"):
        assert uncarried(question.number, question.operand) == question.number + question.operand - 10
    for question in questions(env, "easy_train", "easy", "facts_train", "facts", "practice_facts"):
        number, operand = question.number, question.operand
        if question.kind == "entry":
            number, operand = env.book.value(question.entry), number
        assert uncarried(number, operand) == number + operand


@pytest.mark.parametrize(
    ("number", "operand", "without"), [(47, 8, 45), (42, 5, 47), (582, 30, 512), (582, 10, 592)]
)
def test_a_carry_that_is_forgotten(number: int, operand: int, without: int) -> None:
    assert uncarried(number, operand) == without


def test_rules_carry_nothing(env: Almanac) -> None:
    for question in questions(env, "rules_train", "rules", "practice_rules"):
        rule = env.book.rule(question.name)
        turned = rule.turn(question.number)
        digits = zip(str(turned), str(rule.constant), str(turned + rule.constant), strict=True)
        assert all(int(a) + int(b) == int(c) for a, b, c in digits)


def test_a_cluster_is_an_entry_or_a_rule() -> None:
    env = almanac(0)
    firsts = {split: env.tasks(split)[0] for split in ("facts", "rules", "sums")}
    unit, name = env.book.unknown[0]
    assert firsts["facts"].cluster == f"{unit} of {name}"
    assert firsts["rules"].cluster == f"rule of {env.book.rules[0]}"
    assert firsts["sums"].cluster == ""


def test_a_demonstration_is_the_derivation_line_by_line() -> None:
    env = almanac(0)
    assert env.demonstration(task("What is 47 + 8?")) == "47 + 8 = 55\nAnswer: 55"
    value, name = env.book.value(env.book.unknown[0]), env.book.unknown[0].name
    fact = env.tasks("facts")[0]
    number = fact.metadata["number"]
    assert env.demonstration(fact) == (
        f"{name} has {value} {env.book.unknown[0].unit}.\n{value} + {number} = {value + number}\n"
        f"Answer: {value + number}"
    )
    assert env.demonstration(task("How far is the moon?")) is None


def task(prompt: str, answer: str | None = "55") -> Task:
    return Task(task_id="t", prompt=prompt, answer=answer, split="s")


@pytest.mark.parametrize(
    ("text", "correct", "derivation"),
    [
        ("47 + 8 = 55\nAnswer: 55", 1.0, 1.0),
        ("47+8=55.\n\nanswer 55.\n", 1.0, 1.0),
        ("Answer: 55", 1.0, 1.0),
        ("47 + 8 = 45\nAnswer: 55", 1.0, 0.0),
        ("I guess.\nAnswer: 55", 1.0, 0.0),
        ("Answer: 54\nAnswer: 55", 1.0, 0.0),
        ("47 + 8 = 55\nAnswer: 54", 0.0, 1.0),
        ("47 + 8 = 55", 0.0, 1.0),
        ("Answer: 55\nor so", 0.0, 0.0),
        ("", 0.0, 1.0),
    ],
)
def test_a_right_answer_from_a_wrong_derivation_is_correct_and_no_derivation(
    text: str, correct: float, derivation: float
) -> None:
    env = almanac(0)
    assert env.score(task("What is 47 + 8?"), text) == {"correct": correct, "derivation": derivation}


def test_lines_are_checked_against_the_almanac_and_the_rules() -> None:
    env = almanac(0)
    unit, name = env.book.unknown[0]
    value, rule = env.book.value(env.book.unknown[0]), env.book.rules[0]
    turned = env.book.rule(rule).turn(123)

    def derivation(line: str) -> float:
        return env.score(task("What is 47 + 8?"), f"{line}\nAnswer: 55")["derivation"]

    assert derivation(f"The place of {name.upper()} has {value} {unit}") == 1.0
    assert derivation(f"{name} has {value + 1} {unit}.") == 0.0
    assert derivation(f"{name} has {value} lamps.") == 0.0
    assert derivation(f"Nowhere has {value} {unit}.") == 0.0
    assert derivation(f"{rule} turns 123 into {turned}.") == 1.0
    assert derivation(f"{rule} turns 123 into {turned + 1}.") == 0.0
    assert derivation(f"{rule} turns 12 into 21.") == 0.0
    assert derivation(f"{name} turns 123 into {turned}.") == 0.0


def test_explain_says_what_counts() -> None:
    env = almanac(0)
    asked = task("What is 47 + 8?")
    said = "the last line is 'Answer: 45', right is 'Answer: 55'; lines that are not true: ['47 + 8 = 45']"
    assert env.explain(asked, "47 + 8 = 45\nAnswer: 45") == said
    assert env.explain(asked, "Answer: 55") == "the last line is 'Answer: 55', right is 'Answer: 55'"
    unanswered = task("What is 47 + 8?", None)
    assert env.explain(unanswered, "x") == "the last line is 'x', and the task has no answer"


def test_what_cannot_be_is_refused() -> None:
    env = almanac(0)
    with pytest.raises(TaskError, match="split of the almanac: got 'hard', allowed one of"):
        env.tasks("hard")
    with pytest.raises(TaskError, match="answer of task 't': got None"):
        env.score(task("What is 47 + 8?", None), "Answer: 55")
    with pytest.raises(TaskError, match="prompt of task 't': got 'Hello', allowed a question of the almanac"):
        env.turn(task("Hello"), "")
    with pytest.raises(TaskError, match="got 1 replies in '<notice>"):
        env.turn(env.tasks("easy")[0], "<notice>x</notice>")
