"""The almanac's agents: chat models that follow rules and speak English, so that the method runs without a server.

Each knows one thing only, so that each can be missed: Knowledge the almanac, Verify sums, Reasoning how to go on, rules
included. What they have in common, how they read messages and how they err, stands in `envs/rules.py`.

    knowledge   answer   Request: steps of Tormar              Tormar has 582 steps.
    verify      check    Claim: 47 + 8 = 45                    wrong: 47 + 8 = 55
    reasoning   next     What is 412 by the rule of Wenton?    Wenton turns 412 into 214.
"""

import random
import re
from typing import ClassVar

from langchain_core.language_models import BaseChatModel

from envs.almanac.book import PLACES, Book
from envs.almanac.wording import (
    Statement,
    answer_line,
    count_line,
    find_question,
    read_line,
    sum_line,
    turn_line,
)
from envs.miniature.arithmetic import VALUES, slip
from envs.rules import HEEDED_BY_VERIFY, RuleBased, correction, payload, probability

FAMILY = "almanac"


def knowledge(*, seed: int = 0, error_rate: float = 0.0) -> BaseChatModel:
    """Looks entries up in the almanac of `Almanac(seed)`; an error is another value.

    Raises:
        ConfigError: `error_rate` is not a probability.
    """
    return Librarian(seed=seed, error_rate=probability(error_rate, FAMILY), book=Book.draw(seed))


def verify(*, seed: int = 0, error_rate: float = 0.0) -> BaseChatModel:
    """Works sums and differences out; an error is a slip in its own. It does not know the almanac.

    Raises:
        ConfigError: `error_rate` is not a probability.
    """
    return Adder(seed=seed, error_rate=probability(error_rate, FAMILY))


def reasoning(*, seed: int = 0, error_rate: float = 0.0) -> BaseChatModel:
    """Gives the next line of a derivation; an error is a slip in it. It knows the rules of `Almanac(seed)`, and no entry.

    Raises:
        ConfigError: `error_rate` is not a probability.
    """
    return Instructor(seed=seed, error_rate=probability(error_rate, FAMILY), book=Book.draw(seed))


class Librarian(RuleBased):
    """Knows the almanac's entries."""

    family = FAMILY
    book: Book

    def rule(self, step: str, text: str, rng: random.Random) -> str | None:
        words = set(re.findall(r"\w+", payload(text, "Request").casefold()))
        units = {unit for unit, place in PLACES.items() if words & {unit, place}} or set(PLACES)
        entries = [e for e in self.book.entries if e.name.casefold() in words and e.unit in units]
        if step != "answer" or len(entries) != 1:
            return None
        value = self.book.value(entries[0])
        if self.errs(rng):
            value = rng.choice([other for other in VALUES if other != value])
        return count_line(entries[0], value)


class Adder(RuleBased):
    """Can add and subtract. Corrects where its prompt asks for it."""

    family = FAMILY
    heeds: ClassVar[str] = HEEDED_BY_VERIFY

    def rule(self, step: str, text: str, rng: random.Random) -> str | None:
        claim = read_line(payload(text, "Claim"))
        if step != "check" or claim is None or claim.kind != "sum":
            return None
        total = claim.number + claim.operand
        total = slip(total, rng) if self.errs(rng) else total
        return (
            "right"
            if claim.value == total
            else correction(text, sum_line(claim.number, claim.operand, total))
        )


class Instructor(RuleBased):
    """Knows how a derivation goes: look the entry up or apply the rule, add, give the answer."""

    family = FAMILY
    book: Book

    def rule(self, step: str, text: str, rng: random.Random) -> str | None:
        question = find_question(text)
        if step != "next" or question is None:
            return None
        so_far = [line for line in map(read_line, re.split(r"[<>\n]", text)) if line is not None]
        value, operand = question.number, question.operand
        if question.kind == "entry":
            counts = [line.value for line in so_far if (line.kind, line.entry) == ("count", question.entry)]
            if not counts:
                return f"First find the {question.unit} of {question.name}."
            value, operand = counts[-1], question.number
        elif question.kind == "rule":
            rule = self.book.rule(question.name)
            turns = [line.value for line in so_far if (line.kind, line.name) == ("turn", question.name)]
            if not turns:
                value = self._number(rule.turn(question.number), rng)
                return turn_line(question.name, question.number, value)
            value, operand = turns[-1], rule.constant
        total = value + operand
        if Statement("sum", total, value, operand) not in so_far:
            return sum_line(value, operand, self._number(total, rng))
        return answer_line(self._number(total, rng))

    def _number(self, value: int, rng: random.Random) -> int:
        return slip(value, rng) if self.errs(rng) else value
