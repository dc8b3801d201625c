"""The almanac's splits: which questions are for learning, and which are held out."""

import random
from collections.abc import Iterable, Sequence
from itertools import permutations

from aipo.rollout import Task
from envs.almanac.book import Book, Entry
from envs.almanac.solution import work
from envs.almanac.wording import REWORDED, WORDINGS, Question
from envs.miniature.arithmetic import operands_of, summands

HELDOUT_OPERANDS = 2
EASY_SUMS, EASY_SUMS_HELDOUT = 40, 32
SUMS, SUMS_HELDOUT, SUMS_PRACTICE = 200, 48, 80
RULE_NUMBERS, RULE_NUMBERS_HELDOUT = 40, 16
# Digits to which those of a rule's constant can be added without a carry.
_DIGITS = range(1, 6)


def draw_splits(book: Book) -> dict[str, tuple[Task, ...]]:
    """Every split with its tasks. No question stands in two of them."""
    rng, of_sums, of_rules = (random.Random(f"almanac {kind} {book.seed}") for kind in WORDINGS)
    easy_train, easy, _ = _of_entries(book, book.known, rng)
    facts_train, facts, reworded = _of_entries(book, book.unknown, rng)
    uncarried = [(a, b) for a in summands(False) for b in operands_of(a, False)]
    plain = [_sum(pair) for pair in of_sums.sample(uncarried, EASY_SUMS + EASY_SUMS_HELDOUT)]
    easy_train += _worded(plain[:EASY_SUMS], of_sums)
    easy += _worded(plain[EASY_SUMS:], of_sums)
    carried = [(a, b) for a in range(10, 90) for b in range(1, 10) if a % 10 + b > 9]
    sums = [_sum(pair) for pair in of_sums.sample(carried, SUMS + SUMS_HELDOUT + SUMS_PRACTICE)]
    rules_train, rules = _of_rules(book, of_rules)
    questions = {
        "easy_train": easy_train,
        "easy": easy,
        "facts_train": facts_train,
        "facts": facts,
        "facts_reworded": reworded,
        "sums_train": _worded(sums[:SUMS], of_sums),
        "sums": _worded(sums[SUMS : SUMS + SUMS_HELDOUT], of_sums),
        "rules_train": rules_train,
        "rules": rules,
        "practice_facts": _worded((_entry(book, entry, rng) for entry in book.practice), rng),
        "practice_sums": _worded(sums[SUMS + SUMS_HELDOUT :], of_sums),
        "practice_rules": _worded(
            (
                Question("rule", number, name=name)
                for name in book.practice_rules
                for number in of_rules.sample(_numbers(), 2)
            ),
            of_rules,
        ),
    }
    return {
        split: tuple(_task(book, split, question, wording) for question, wording in asked)
        for split, asked in questions.items()
    }


_Worded = tuple[Question, str]


def _worded(questions: Iterable[Question], rng: random.Random) -> list[_Worded]:
    return [(question, rng.choice(WORDINGS[question.kind])) for question in questions]


def _sum(pair: tuple[int, int]) -> Question:
    return Question("sum", *pair)


def _entry(book: Book, entry: Entry, rng: random.Random) -> Question:
    number = rng.choice(operands_of(book.value(entry), False))
    return Question("entry", number, name=entry.name, unit=entry.unit)


def _of_entries(
    book: Book, entries: Sequence[Entry], rng: random.Random
) -> tuple[list[_Worded], list[_Worded], list[_Worded]]:
    """Questions about each entry: for training, with numbers held out, and those in other words."""
    train: list[Question] = []
    heldout: list[Question] = []
    for entry in entries:
        operands = operands_of(book.value(entry), False)
        asked = [
            Question("entry", number, name=entry.name, unit=entry.unit)
            for number in rng.sample(operands, len(operands))
        ]
        train += asked[HELDOUT_OPERANDS:]
        heldout += asked[:HELDOUT_OPERANDS]
    reworded = [(question, rng.choice(REWORDED["entry"])) for question in heldout]
    return _worded(train, rng), _worded(heldout, rng), reworded


def _of_rules(book: Book, rng: random.Random) -> tuple[list[_Worded], list[_Worded]]:
    train: list[Question] = []
    heldout: list[Question] = []
    for name in book.rules:
        numbers = rng.sample(_numbers(), RULE_NUMBERS + RULE_NUMBERS_HELDOUT)
        asked = [Question("rule", number, name=name) for number in numbers]
        train += asked[:RULE_NUMBERS]
        heldout += asked[RULE_NUMBERS:]
    return _worded(train, rng), _worded(heldout, rng)


def _numbers() -> list[int]:
    """Three different digits of 1 to 5."""
    return [100 * a + 10 * b + c for a, b, c in permutations(_DIGITS, 3)]


def _task(book: Book, split: str, question: Question, wording: str) -> Task:
    text = question.ask(wording)
    clusters = {"entry": f"{question.unit} of {question.name}", "sum": "", "rule": f"rule of {question.name}"}
    return Task(
        task_id=f"{split}/{text}",
        prompt=text,
        answer=work(book, question)[-1].removeprefix("Answer: "),
        split=split,
        cluster=clusters[question.kind],
        metadata={"kind": question.kind, "number": question.number},
    )
