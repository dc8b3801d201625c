"""A worked solution as its steps, and what of it may be said to someone who is to find the answer.

A step is a line of the solution. A line that does not state the final answer may be said whole. Of the last line, and of
any other that states it, only what stands before its last `=` may be said:

    Janet sells 16 - 3 - 4 = 9 duck eggs a day.         as it is
    She makes 9 * 2 = $18 every day.                    Work this out yourself: She makes 9 * 2 = ?

**Nothing that is said depends on whether a final answer that the policy has written is right.** Of the last step the same
is said whatever the work holds, and an earlier step that may not be said whole counts as done by its left side alone.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from envs.gsm8k.arithmetic import last_expression, plain
from envs.gsm8k.numbers import read_number, stated_numbers, states

ALONE = "Work this out yourself:"
LAST = "Take the last step yourself, with what you have worked out so far."
_RESULT = re.compile(
    r"\s*\$?\s*(-?[0-9][0-9,]*(?:\.[0-9]+)?|-?\.[0-9]+)(?![0-9,]|\.[0-9]|\s*[*/+x-]\s*[0-9(])"
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_ASKED = re.compile(r",?\s*\b(?:how|what|which|who|when|where|find|calculate)\b[^?]*\?\s*$", re.IGNORECASE)
_WORD = re.compile("[a-z]{2,}")
_FREQUENT = frozenset(
    _WORD.findall(
        "an the of in on at to for from by with and or is are was were be been has have had do does did it its he she "
        "they them his her their there that this these those many much how what which who if each"
    )
)


@dataclass(frozen=True, slots=True)
class SolutionStep:
    """One line of a solution.

    Args:
        line: all of it.
        said: what may be said of it; empty if nothing.
        expression: the arithmetic before its last `=`, as `plain` writes it; empty if there is none.
        result: the number behind it, likewise.
    """

    line: str
    said: str
    expression: str
    result: str

    @property
    def is_whole(self) -> bool:
        """May all of it be said?"""
        return self.said == self.line

    def is_in(self, work: str) -> bool:
        """Does `work`, as `plain` writes it, contain this step?"""
        if not self.is_whole:
            return (self.expression or plain(self.line.rpartition("=")[0])) in work
        result = self.result and re.search(rf"={re.escape(self.result)}(?![0-9]|\.[0-9])", work)
        return bool(result) or plain(self.line) in work


class Solution:
    """The worked solution of one question.

    Args:
        question: with the quantities that it states.
        text: one step a line, at least one.
        answer: the final one, which is never said.
    """

    def __init__(self, question: str, text: str, answer: Fraction) -> None:
        self._question, self._text, self._answer = question, text, answer

    @cached_property
    def steps(self) -> tuple[SolutionStep, ...]:
        """All of them, in their order."""
        *lines, last = [line.strip() for line in self._text.splitlines() if line.strip()]
        before = [
            self._step(line, self._hint(line) if states(line, self._answer) else line) for line in lines
        ]
        return (*before, self._step(last, self._hint(last) or LAST))

    @cached_property
    def facts(self) -> tuple[str, ...]:
        """The sentences of the question that state a number and not the answer, without what is asked."""
        sentences = [_ASKED.sub("", sentence).strip() for sentence in _SENTENCE.split(self._question)]
        return tuple(s for s in sentences if stated_numbers(s) and not states(s, self._answer))

    def next_step(self, work: str) -> str:
        """What may be said of the first step that `work` does not contain."""
        done = plain(work)
        *before, last = self.steps
        return next((step.said for step in before if step.said and not step.is_in(done)), last.said)

    def step_to(self, value: Fraction) -> SolutionStep | None:
        """The step that may be said whole and comes to `value`; None if there is none."""
        return next((s for s in self.steps if s.is_whole and read_number(s.result) == value), None)

    def quantity(self, request: str, work: str) -> str | None:
        """The fact, or the step in `work`, that shares most words with `request`; None if none shares any."""
        wanted, done = _words(request), plain(work)
        steps = [s.line for s in self.steps if s.is_whole and stated_numbers(s.line) and s.is_in(done)]
        best = max((*self.facts, *steps), key=lambda text: len(wanted & _words(text)), default="")
        return best if wanted & _words(best) else None

    def _hint(self, line: str) -> str:
        """The line up to its last `=`, or only the arithmetic there; empty where both state the answer."""
        left, sign, _ = line.rpartition("=")
        parts = (left.strip(), last_expression(left)) if sign else ()
        return next((f"{ALONE} {part} = ?" for part in parts if part and not states(part, self._answer)), "")

    def _step(self, line: str, said: str) -> SolutionStep:
        left, sign, right = line.rpartition("=")
        number = _RESULT.match(right) if sign else None
        return SolutionStep(line, said, last_expression(left), plain(number[1]) if number else "")


def _words(text: str) -> frozenset[str]:
    """The words that say what a text is about, without a plural's ending."""
    words = _WORD.findall(text.lower())
    return frozenset(word.removesuffix("s") for word in words if word not in _FREQUENT)
