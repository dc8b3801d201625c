"""The options of a question, in an order that a seed draws, each behind a letter."""

import random
from collections.abc import Sequence
from string import ascii_uppercase
from typing import NamedTuple

from aipo.errors import TaskError

LETTERS = ascii_uppercase[:20]
"""For at most so many options."""


class Choices(NamedTuple):
    """A question with its options below it, the letter of the right one, and the options in the order shown."""

    question: str
    letter: str
    options: tuple[str, ...]


def choices(question: str, options: Sequence[str], answer: object, seed: int, where: str) -> Choices:
    """Shuffles the options. The order depends on the seed and the question alone, not on the place of an item in its file.

    Args:
        options: in the order of the item.
        answer: which of them is right: its place from 0, its letter in the item's order, or its text.
        where: of the item, for errors.

    Raises:
        TaskError: fewer than two options, or more than letters, an empty one, or no such answer.
    """
    given = [option.strip() for option in options]
    texts = [*dict.fromkeys(given)]  # one that is there twice is shown once: two letters cannot be right
    if not 2 <= len(texts) <= len(LETTERS) or not all(texts):
        got = f"{len(texts)} different ones, {'none' if all(texts) else 'one'} of them empty"
        raise TaskError(f"options: got {got}, allowed 2 to {len(LETTERS)} texts, in {where}")
    right = given[_place(answer, given, where)]
    random.Random(f"{seed}\n{question}").shuffle(texts)
    lines = "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False))
    return Choices(f"{question.rstrip()}\n\n{lines}", LETTERS[texts.index(right)], tuple(texts))


def _place(answer: object, texts: Sequence[str], where: str) -> int:
    letters = LETTERS[: len(texts)]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(texts):
        return answer
    if isinstance(answer, str):
        if (letter := answer.strip()) in [*letters]:
            return letters.index(letter)
        if answer.strip() in texts:
            return texts.index(answer.strip())
    raise TaskError(
        f"answer: got {answer!r}, allowed a letter of {letters}, a place from 0 to {len(texts) - 1}, or an option's text, "
        f"in {where}"
    )
