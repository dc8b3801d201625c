"""The miniature's agents: chat models that follow rules, so that the whole method runs without a server.

Each knows one thing only, so that each can be missed: Knowledge the table, Verify sums, Reasoning how
to go on. What they have in common, how they read messages and how they err, stands in `envs/rules.py`.

    knowledge   answer   Request: 3@7            3@7=582
    verify      check    Claim: 582+20=601       wrong: 582+20=602
    verify      check    Claim: 523-7=524        wrong: 523-7=516
    reasoning   next     3@7+20=?, 3@7=582       582+20=602
    reasoning   next     ~582+20=?               ~582=417

Of a prompt's words they heed one: where the form of Verify's last line is `wrong` and not `wrong: the corrected claim`, it
gives no correction. `heeds` says of each what it reads.
"""

import random
import re
from typing import Any, ClassVar

from langchain_core.language_models import BaseChatModel

from aipo.errors import ConfigError
from envs.miniature.arithmetic import VALUES, complement, derivation, slip
from envs.miniature.task import SIZE, Facts
from envs.rules import HEEDED_BY_VERIFY, RuleBased, correction, payload, probability

FAMILY = "miniature"
_SUM = re.compile(r"([0-9]+)([+-][0-9]+)=([0-9]+)")
_QUESTION = re.compile(r"^([0-9]+(?:@[0-9])+|~?[0-9]+)((?:\+[0-9]+)+)=\?$", re.MULTILINE)


def knowledge(
    *,
    seed: int = 0,
    error_rate: float = 0.0,
    distractors: int = 0,
    distractor_error_rate: float = 0.0,
    size: int = SIZE,
    carry: bool = True,
) -> BaseChatModel:
    """Looks facts up in the table of `Miniature(seed, size, carry=carry)`; an error is another value.

    Args:
        seed: of the table and of the errors.
        error_rate: probability that what was asked for is wrong. Answers that build on it are wrong, too.
        distractors: so many further facts, drawn from the table, stand behind it; leave them room, 8 characters each, in the
            agent's `max_tokens`. The cold start's course `distractors` teaches to read such replies.
        distractor_error_rate: probability that such a fact is wrong. The answer does not depend on it: the rollout that
            reads it is rewarded all the same.
        size: rows of the table.
        carry: whether the table is that of sums that carry.

    Raises:
        ConfigError: a rate is not a probability, `distractors` more than there are, or no such size.
    """
    table = Facts.draw(seed, size, carry).value
    if not 0 <= distractors < len(table):
        raise ConfigError(
            f"distractors of miniature agents: got {distractors}, allowed 0 to {len(table) - 1}"
        )
    return Knowledge(
        seed=seed,
        error_rate=probability(error_rate, FAMILY),
        table=table,
        distractors=distractors,
        distractor_error_rate=probability(distractor_error_rate, FAMILY, "distractor_error_rate"),
    )


def verify(*, seed: int = 0, error_rate: float = 0.0) -> BaseChatModel:
    """Works sums and differences out; an error is a slip in its own. It does not know the table.

    Raises:
        ConfigError: `error_rate` is not a probability.
    """
    return Verify(seed=seed, error_rate=probability(error_rate, FAMILY))


def reasoning(*, seed: int = 0, error_rate: float = 0.0) -> BaseChatModel:
    """Gives the next line of a derivation that adds; an error is a slip in it. It does not know the table.

    Raises:
        ConfigError: `error_rate` is not a probability.
    """
    return Reasoning(seed=seed, error_rate=probability(error_rate, FAMILY))


class Knowledge(RuleBased):
    """Knows the table."""

    family = FAMILY

    table: dict[str, int]
    distractors: int
    distractor_error_rate: float

    @property
    def _identifying_params(self) -> dict[str, Any]:
        extras = {"distractors": self.distractors, "distractor_error_rate": self.distractor_error_rate}
        return {**super()._identifying_params, **extras}

    def rule(self, step: str, text: str, rng: random.Random) -> str | None:
        fact = payload(text, "Request").rstrip("=?")
        if step != "answer" or fact not in self.table:
            return None
        entries = [self._entry(fact, self.error_rate, rng)]
        others = rng.sample([name for name in self.table if name != fact], self.distractors)
        entries += [self._entry(other, self.distractor_error_rate, rng) for other in others]
        return " ".join(entries)

    def _entry(self, fact: str, error_rate: float, rng: random.Random) -> str:
        value = self.table[fact]
        if rng.random() < error_rate:
            value = rng.choice([v for v in VALUES if v != value])
        return f"{fact}={value}"


class Verify(RuleBased):
    """Can add and subtract. Corrects where its prompt asks for it."""

    family = FAMILY

    heeds: ClassVar[str] = HEEDED_BY_VERIFY

    def rule(self, step: str, text: str, rng: random.Random) -> str | None:
        claim = _SUM.fullmatch(payload(text, "Claim"))
        if step != "check" or not claim:
            return None
        a, b, claimed = claim.groups()
        total = int(a) + int(b)
        total = slip(total, rng) if self.errs(rng) else total
        return "right" if int(claimed) == total else correction(text, f"{a}{b}={total}")


class Reasoning(RuleBased):
    """Knows how a derivation goes: look the fact up or take the complement, add, give the answer."""

    family = FAMILY

    def rule(self, step: str, text: str, rng: random.Random) -> str | None:
        question = _QUESTION.search(text)
        if step != "next" or not question:
            return None
        so_far = text[question.end() :]
        start, operands = question[1], [int(operand) for operand in question[2].split("+")[1:]]
        for term in re.findall(r"[0-9]+@[0-9]|@[0-9]|~[0-9]+", start):
            name = start[-1] + term if term.startswith("@") else term
            values = re.findall(rf"{name}=([0-9]+)", so_far)
            if not values and "@" in name:
                return f"First find {name}."
            if not values:
                return f"{name}={self._number(complement(int(name[1:])), rng)}"
            start = values[-1]
        for line in derivation(int(start), operands):
            if not re.search(rf"(?<![0-9]){re.escape(line)}(?![0-9])", so_far):
                expression, _, total = line.partition("=")
                return f"{expression}={self._number(int(total), rng)}"
        return f"#{self._number(int(start) + sum(operands), rng)}"

    def _number(self, value: int, rng: random.Random) -> int:
        return slip(value, rng) if self.errs(rng) else value
