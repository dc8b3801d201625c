"""The almanac itself: invented places, how much each has of something, and rules that change a number.

Every value and rule follows from the seed and the name alone. Nothing of it is real.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple

from envs.miniature.arithmetic import summands

PLACES = {
    "steps": "lighthouse",
    "boats": "harbour",
    "trees": "orchard",
    "books": "library",
    "stones": "bridge",
    "houses": "village",
}
"""What is counted, and at which kind of place."""
KNOWN, UNKNOWN, RULES, PRACTICE_RULES = 8, 16, 3, 80
TURNS = {"reversed": (2, 1, 0), "rotated left": (1, 2, 0), "rotated right": (2, 0, 1)}
"""How a rule turns the three digits of a number: which digit comes first, second and third."""
# Pieces that are one or two tokens of common tokenizers.
_FIRST = (
    *("Bel", "Cal", "Cor", "Dal", "Dun", "Fal", "Fen", "Gal", "Gor", "Hal", "Hol", "Kal", "Kel", "Lan"),
    *("Lor", "Mal", "Mar", "Nor", "Pal", "Ran", "Ros", "Sal", "Sel", "Tal", "Tor", "Val", "Wen"),
)
_SECOND = (
    *(
        "ana",
        "bert",
        "bury",
        "den",
        "dor",
        "dra",
        "essa",
        "fort",
        "gard",
        "holm",
        "ian",
        "ilia",
        "ina",
        "ista",
    ),
    *("mar", "mont", "ona", "ora", "oria", "ric", "rin", "stan", "ton", "una", "vik", "wick", "wood"),
)


class Entry(NamedTuple):
    """What is counted, of `PLACES`, and the name of the place."""

    unit: str
    name: str


class Rule(NamedTuple):
    """Turns a number of three digits, and then adds a constant.

    Args:
        order: of the digits, one of `TURNS`.
        constant: three digits of 1 to 4: with digits up to 5 nothing is carried.
    """

    order: tuple[int, int, int]
    constant: int

    def turn(self, number: int) -> int:
        """The first step: `reversed` turns 412 into 214."""
        digits = str(number)
        return int("".join(digits[place] for place in self.order))


@dataclass(frozen=True, slots=True)
class Book:
    """The almanac of a seed.

    Args:
        known, unknown, practice: entries, by what the policy learns of them before it trains; each place has its own name.
        rules, practice_rules: names of rules, of which it knows none.
    """

    seed: int
    known: tuple[Entry, ...]
    unknown: tuple[Entry, ...]
    practice: tuple[Entry, ...]
    rules: tuple[str, ...]
    practice_rules: tuple[str, ...]

    @classmethod
    def draw(cls, seed: int) -> "Book":
        """The almanac of `seed`; the same on every machine."""
        rng = random.Random(f"almanac names {seed}")
        names = [first + second for first in _FIRST for second in _SECOND]
        rng.shuffle(names)
        rules, names = names[: RULES + PRACTICE_RULES], names[RULES + PRACTICE_RULES :]
        units = list(PLACES)
        entries = tuple(Entry(units[place % len(units)], name) for place, name in enumerate(names))
        known, unknown, practice = (
            entries[:KNOWN],
            entries[KNOWN : KNOWN + UNKNOWN],
            entries[KNOWN + UNKNOWN :],
        )
        return cls(seed, known, unknown, practice, tuple(rules[:RULES]), tuple(rules[RULES:]))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries."""
        return self.known + self.unknown + self.practice

    def value(self, entry: Entry) -> int:
        """Three digits, to which at least nine one-digit numbers and tens can be added without a carry."""
        return random.Random(f"almanac {self.seed} {entry.unit} of {entry.name}").choice(summands(False))

    def rule(self, name: str) -> Rule:
        """The rule of that name."""
        rng = random.Random(f"almanac {self.seed} rule of {name}")
        order = rng.choice(list(TURNS.values()))
        return Rule(order, int("".join(rng.choice("1234") for _ in range(3))))
