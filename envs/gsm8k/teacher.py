"""What a policy writes that has learned to ask: the worked solution, with a request before or behind some of its lines.

    <consult:knowledge>Janet's ducks lay how many eggs per day.</consult>    and it copies the reply
    <consult:reasoning>What is the next step?</consult>                      and it copies the reply, or carries it out
    She makes 9 * 2 = $18.<consult:verify>9*2=18</consult>                   and goes on

Which lines, and whom it asks, follows from the task's name, so a task has one demonstration. Asked are tutors that
reply as `envs.gsm8k.agents` does; what other agents say is not copied.
"""

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from envs.gsm8k.arithmetic import equations
from envs.gsm8k.numbers import stated_numbers
from envs.gsm8k.solution import Solution, SolutionStep

MOST = 2
"""Requests in one demonstration."""
NEXT = "What is the next step?"
_CLOSE = "</consult>"
_NOTICE = re.compile(r"<notice>.*?</notice>", re.DOTALL)
_QUANTITY = re.compile(r"(\$?)[0-9][0-9,.]*(?<![,.])(%?)")
_LONGEST = 100
"""Characters of a request, so that it needs no shortening."""


class _Ask(NamedTuple):
    """A request around a line: text before it, whom and what it asks, and text behind the reply."""

    before: str
    agent: str
    request: str
    behind: str


def next_text(name: str, solution: Solution, demonstration: str, written: str) -> str:
    """The policy's text behind `written`, which holds its own text so far with the replies.

    Args:
        name: of the task.
        demonstration: the solution's text with the answer in a box.
    """
    texts = list(_texts(random.Random(name), solution, demonstration))
    return texts[min(_NOTICE.sub("", written).count(_CLOSE), len(texts) - 1)]


def _texts(rng: random.Random, solution: Solution, demonstration: str) -> Iterator[str]:
    """The texts between replies; each but the last ends with a request."""
    steps = solution.steps
    places = rng.sample(range(len(steps)), min(MOST, len(steps)))
    text = work = ""
    for place, step in enumerate(steps):
        asks = list(_asks(step, solution, work)) if place in places else []
        if asks:
            ask = rng.choice(asks)
            yield f"{text}{ask.before}<consult:{ask.agent}>{ask.request}{_CLOSE}"
            text = ask.behind
            work += ask.behind
        else:
            text += step.line
        text, work = f"{text}\n", f"{work}\n{step.line}\n"
    yield text.rstrip("\n") + demonstration.removeprefix("\n".join(step.line for step in steps))


def _asks(step: SolutionStep, solution: Solution, work: str) -> Iterator[_Ask]:
    """The requests that a tutor has a reply to."""
    if step.said and solution.next_step(work) == step.said:
        yield _Ask("", "reasoning", NEXT, step.line)
    claim = f"{step.expression}={step.result}"
    if any(equation.is_right for equation in equations(claim)):
        yield _Ask(step.line, "verify", claim, "")
    for fact in solution.facts:
        request = _QUANTITY.sub(_how_many, fact)
        replied = len(request) <= _LONGEST and solution.quantity(request, work) == fact
        needed = stated_numbers(fact) & stated_numbers(step.expression)
        if replied and needed and request != fact and fact not in work:
            yield _Ask("", "knowledge", request, f"{fact}\n{step.line}")
            return


def _how_many(quantity: re.Match[str]) -> str:
    return "how much" if quantity[1] else "how many percent" if quantity[2] else "how many"
