"""The almanac's English: questions in several wordings, and the lines of a solution, written and read.

Lines are read as a person would: case, spaces, commas in thousands and a full stop at the end do not matter. Numbers do.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from envs.almanac.book import PLACES, Entry

Kind = Literal["entry", "sum", "rule"]
WORDINGS: dict[Kind, tuple[str, ...]] = {
    "entry": (
        "How many {unit} has the {place} of {name} with {number} more?",
        "The {place} of {name} gets {number} more {unit}. How many is that?",
        "Add {number} to the {unit} of the {place} of {name}.",
    ),
    "sum": ("What is {number} + {operand}?", "Add {operand} to {number}."),
    "rule": ("What is {number} by the rule of {name}?", "Use the rule of {name} on {number}."),
}
REWORDED: dict[Kind, tuple[str, ...]] = {
    "entry": (
        "If {number} {unit} are added to the {place} of {name}, how many are there?",
        "Count the {unit} at the {place} of {name}, and {number} new ones.",
    )
}
"""Wordings of the same questions that no training split has."""

_FIELDS = {
    "unit": f"(?P<unit>{'|'.join(PLACES)})",
    "place": f"(?:{'|'.join(PLACES.values())})",
    "name": r"(?P<name>\w+)",
    "number": r"(?P<number>\d+)",
    "operand": r"(?P<operand>\d+)",
}
_COUNT = re.compile(r"(?:the \w+ of )?(?P<name>\w+) has (?P<value>\d+) (?P<unit>\w+)")
_TURN = re.compile(r"(?:the rule of )?(?P<name>\w+) turns (?P<number>\d+) into (?P<value>\d+)")
_SUM = re.compile(r"(?P<number>\d+)(?P<sign>[+-])(?P<operand>\d+)=(?P<value>-?\d+)")
_ANSWER = re.compile(r"answer:? ?(?P<value>-?\d+)")


class Question(NamedTuple):
    """What is asked. An entry and a number to add; a sum `number + operand`; a rule by name and a number."""

    kind: Kind
    number: int
    operand: int = 0
    name: str = ""
    unit: str = ""

    @property
    def entry(self) -> Entry:
        """The entry that is asked for."""
        return Entry(self.unit, self.name)

    def ask(self, wording: str) -> str:
        """The question in words."""
        return wording.format(**self._asdict(), place=PLACES.get(self.unit, ""))


class Statement(NamedTuple):
    """What a line claims. `count` of an entry, `turn` of a number by a rule, `sum`, or the `answer`."""

    kind: Literal["count", "turn", "sum", "answer"]
    value: int
    number: int = 0
    operand: int = 0
    name: str = ""
    unit: str = ""

    @property
    def entry(self) -> Entry:
        """The entry that is counted."""
        return Entry(self.unit, self.name)


def find_question(text: str) -> Question | None:
    """The question that stands in `text`, alone in its line; None where there is none."""
    for kind, pattern in _patterns():
        if match := pattern.search(text):
            fields = {"operand": "0", "name": "", "unit": "", **match.groupdict()}
            number, operand = int(fields["number"]), int(fields["operand"])
            return Question(kind, number, operand, fields["name"], fields["unit"])
    return None


def read_line(text: str) -> Statement | None:
    """What a line claims; None where it is none of the four kinds.

    `the lighthouse of ostrin has 1,582 steps` claims that `Ostrin` has 1582 steps.
    """
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", " ".join(text.casefold().split())).rstrip(" .")
    if match := _COUNT.fullmatch(plain):
        return Statement("count", int(match["value"]), name=match["name"].capitalize(), unit=match["unit"])
    if match := _TURN.fullmatch(plain):
        return Statement(
            "turn", int(match["value"]), number=int(match["number"]), name=match["name"].capitalize()
        )
    if match := _SUM.fullmatch(plain.replace(" ", "")):
        operand = int(match["sign"] + match["operand"])
        return Statement("sum", int(match["value"]), number=int(match["number"]), operand=operand)
    if match := _ANSWER.fullmatch(plain):
        return Statement("answer", int(match["value"]))
    return None


def count_line(entry: Entry, value: int) -> str:
    """`Ostrin has 582 steps.`"""
    return f"{entry.name} has {value} {entry.unit}."


def turn_line(name: str, number: int, value: int) -> str:
    """`Ostrin turns 412 into 214.`"""
    return f"{name} turns {number} into {value}."


def sum_line(number: int, operand: int, value: int | None = None) -> str:
    """`582 + 3 = 585`, right unless a value is given."""
    sign = "-" if operand < 0 else "+"
    return f"{number} {sign} {abs(operand)} = {number + operand if value is None else value}"


def answer_line(value: int) -> str:
    """`Answer: 585`"""
    return f"Answer: {value}"


@lru_cache
def _patterns() -> Sequence[tuple[Kind, re.Pattern[str]]]:
    """Of each wording, a pattern of the whole line."""
    return [
        (kind, re.compile(_escaped(wording).format(**_FIELDS), re.MULTILINE))
        for table in (WORDINGS, REWORDED)
        for kind, wordings in table.items()
        for wording in wordings
    ]


def _escaped(wording: str) -> str:
    return f"^{re.escape(wording)}$".replace(r"\{", "{").replace(r"\}", "}")
