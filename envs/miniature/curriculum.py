"""What the miniature's policy is shown at its cold start: demonstrations, drawn by kind.

The course `facts` has arithmetic, the known facts, asking and copying. No unknown fact is in it. The course
`full` adds what the policy cannot do alone without Verify and Reasoning: subtractions that forget to borrow,
and the complement `~582`, which stands only behind a consult and has another value each time, so that copying
is learned and the procedure is not. The course `quick` has the complement, too, and a slip that is learned and mended sooner:
`523-99=423` takes 100 and forgets to give 1 back. The course `distractors` is `facts` with replies in which further facts stand
behind what was asked. The course `silent` is arithmetic and known facts alone: its policy never asks, and `aipo warmup` can
teach it to.

What agents write is context only: it carries no loss. Nor do lines of sums that are wrong on purpose. The slips
in subtractions are learned: they are what the policy has to get rid of.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from envs.miniature.arithmetic import (
    OPERANDS,
    VALUES,
    chain,
    derivation,
    draw_operands,
    operands_of,
    slip,
    summands,
    unborrowed,
)
from envs.miniature.task import OFFER, TERMS, Facts, Miniature

_FACTS = {"known": 0.32, "plain": 0.24, "practice": 0.37, "asked": 0.02, "verify": 0.03, "reasoning": 0.02}
COURSES = {
    "facts": _FACTS,
    "full": {
        **{kind: 0.6 * share for kind, share in _FACTS.items()},
        "slipped": 0.1,
        "checked": 0.15,
        "guided": 0.15,
    },
    "quick": {
        **{kind: 0.6 * share for kind, share in _FACTS.items()},
        "hasty": 0.1,
        "warned": 0.15,
        "guided": 0.15,
    },
    "distractors": {**_FACTS, "practice": 0.17, "followed": 0.20},
    "silent": {"known": 0.6, "plain": 0.4},
}
"""How often each kind of demonstration is drawn."""
ASIDES = 4
"""At most so many further facts stand in a reply of the course `distractors`."""
# Kinds in which nobody is asked; half of them are shown without agents.
ALONE = ("known", "plain", "slipped", "hasty")

_EVALUATED = ("easy", "heldout", "borrow", "nines", "shortcut")
_EXPRESSION = re.compile(r"[0-9@~]+(?:\+[0-9]+)+|[0-9]+-[0-9]+-[0-9]+|[0-9]+-99")


class Piece(NamedTuple):
    """A run of a demonstration's text; only what is `learned` carries loss."""

    text: str
    learned: bool = True


def reserved(env: Miniature) -> frozenset[str]:
    """Expressions of the evaluation splits, `3@7+20`."""
    prompts = (task.prompt for split in _EVALUATED for task in env.tasks(split))
    return frozenset(prompt.removesuffix("=?\n") for prompt in prompts)


@dataclass(frozen=True, slots=True)
class Demonstrator:
    """Draws demonstrations.

    Args:
        facts: the table.
        reserved: expressions of the evaluation splits (`3@7+20`), never shown, in a prompt or below.
        course: one of `COURSES`.
        terms: operands of a sum.
        carry: whether a sum may carry.
    """

    facts: Facts
    reserved: frozenset[str]
    course: str = "facts"
    terms: int = TERMS
    carry: bool = True

    def draw(self, rng: random.Random) -> list[Piece]:
        """One demonstration; its first piece is the prompt."""
        shares = COURSES[self.course]
        (kind,) = rng.choices(list(shares), list(shares.values()))
        while True:
            question, *work = getattr(self, f"_{kind}")(rng)
            text = "".join(piece.text for piece in (question, *work))
            if self.reserved.isdisjoint(_EXPRESSION.findall(text)):
                break
        alone = kind in ALONE and rng.random() < 0.5
        return [question if alone else Piece(OFFER + question.text, learned=False), *work]

    def _operands(self, value: int, rng: random.Random) -> tuple[int, ...]:
        if self.carry:
            return draw_operands(rng, self.terms)
        return (rng.choice(operands_of(value, self.carry)),)

    def _known(self, rng: random.Random) -> list[Piece]:
        fact = rng.choice(self.facts.known)
        value = self.facts.value[fact]
        operands = self._operands(value, rng)
        return [_prompt(chain(fact, operands)), Piece(f"{fact}={value}\n"), Piece(_rest(value, operands))]

    def _plain(self, rng: random.Random) -> list[Piece]:
        value = rng.choice(summands(self.carry))
        operands = self._operands(value, rng)
        return [_prompt(chain(value, operands)), Piece(_rest(value, operands))]

    def _practice(self, rng: random.Random) -> list[Piece]:
        return self._looked_up(rng.choice(self.facts.practice), rng.choice(summands(self.carry)), rng)

    def _asked(self, rng: random.Random) -> list[Piece]:
        fact = rng.choice(self.facts.known)
        return self._looked_up(fact, self.facts.value[fact], rng)

    def _looked_up(self, fact: str, value: int, rng: random.Random) -> list[Piece]:
        return self._copied(fact, value, "knowledge", fact, rng)

    def _followed(self, rng: random.Random) -> list[Piece]:
        """Knowledge says further facts behind what was asked, which alone is copied."""
        fact, *others = rng.sample(self.facts.practice, rng.randint(2, ASIDES + 1))
        return self._copied(fact, rng.choice(summands(self.carry)), "knowledge", fact, rng, others)

    def _copied(
        self, name: str, value: int, agent: str, request: str, rng: random.Random, others: Sequence[str] = ()
    ) -> list[Piece]:
        """What was asked is copied, and not what is said of `others` behind it."""
        operands = self._operands(value, rng)
        line = f"{name}={value}"
        distractors = [f"{other}={rng.choice(VALUES)}" for other in others]
        consult = _consult(agent, request, " ".join([line, *distractors]))
        return [_prompt(chain(name, operands)), *consult, Piece(f"{line}\n"), Piece(_rest(value, operands))]

    def _verify(self, rng: random.Random) -> list[Piece]:
        """The first sum, right or wrong, is checked; the right one follows."""
        prompt, *before, _ = rng.choice((self._known, self._plain))(rng)
        value, operands = _sum_of(prompt, before)
        b, *later = operands
        line = f"{value}+{b}={value + b}"
        if rng.random() < 0.5:
            checked = _consult("verify", line, "right")
            return [prompt, *before, Piece(f"{line}\n"), *checked, Piece(_rest(value + b, later))]
        wrong = f"{value}+{b}={slip(value + b, rng)}"
        checked = _consult("verify", wrong, line)
        return [prompt, *before, Piece(f"{wrong}\n", learned=False), *checked, Piece(_rest(value, operands))]

    def _reasoning(self, rng: random.Random) -> list[Piece]:
        """The next line of the derivation is asked for and copied."""
        prompt, *before, _ = rng.choice((self._known, self._plain))(rng)
        value, operands = _sum_of(prompt, before)
        line, *_ = derivation(value, operands)
        return [prompt, *before, *_consult("reasoning", "next", line), Piece(_rest(value, operands))]

    def _slipped(self, rng: random.Random) -> list[Piece]:
        """Two subtractions in which nothing is borrowed."""
        value, b, c = _minuend(rng)
        first = unborrowed(value, b)
        second = unborrowed(first, c)
        lines = f"{value}-{b}={first}\n{first}-{c}={second}\n#{second}<eos>"
        return [_prompt(f"{value}-{b}-{c}"), Piece(lines)]

    def _checked(self, rng: random.Random) -> list[Piece]:
        """The same, but each line is checked before it is written."""
        value, b, c = _minuend(rng)
        pieces = [_prompt(f"{value}-{b}-{c}")]
        for operand, line in zip((b, c), derivation(value, [-b, -c]), strict=True):
            claim = f"{value}-{operand}={unborrowed(value, operand)}"
            pieces += [*_consult("verify", claim, "right" if claim == line else line), Piece(f"{line}\n")]
            value -= operand
        return [*pieces, Piece(f"#{value}<eos>")]

    def _hasty(self, rng: random.Random) -> list[Piece]:
        """99 is taken away as if it were 100."""
        value = _more_than_99(rng)
        return [_prompt(f"{value}-99"), Piece(f"{value}-99={value - 100}\n#{value - 100}<eos>")]

    def _warned(self, rng: random.Random) -> list[Piece]:
        """The same, but the line is checked before it is written."""
        value = _more_than_99(rng)
        checked = _consult("verify", f"{value}-99={value - 100}", f"{value}-99={value - 99}")
        return [_prompt(f"{value}-99"), *checked, Piece(_rest(value, [-99]))]

    def _guided(self, rng: random.Random) -> list[Piece]:
        """Some complement is asked for and copied."""
        name, value = f"~{rng.choice(VALUES)}", rng.choice(summands(self.carry))
        return self._copied(name, value, "reasoning", "next", rng)


def _minuend(rng: random.Random) -> tuple[int, int, int]:
    """A value and two operands that leave three digits, with and without the bug."""
    return rng.choice(range(300, 900)), rng.choice(OPERANDS), rng.choice(OPERANDS)


def _more_than_99(rng: random.Random) -> int:
    return rng.choice([value for value in VALUES if value >= 200 and value % 10 < 9])


def _sum_of(prompt: Piece, before: list[Piece]) -> tuple[int, list[int]]:
    start, *operands = prompt.text.removesuffix("=?\n").split("+")
    return int(before[0].text.strip().partition("=")[2] if before else start), list(map(int, operands))


def _prompt(expression: str) -> Piece:
    return Piece(f"{expression}=?\n", learned=False)


def _rest(value: int, operands: Sequence[int]) -> str:
    return "\n".join([*derivation(value, operands), f"#{value + sum(operands)}<eos>"])


def _consult(agent: str, request: str, reply: str) -> list[Piece]:
    return [
        Piece(f"<consult:{agent}>{request}</consult>"),
        Piece(f"<feedback:{agent}>{reply}</feedback>", learned=False),
    ]
