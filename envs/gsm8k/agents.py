"""Tutors: chat models that know the worked solution of the task and follow rules, where no strong model is to be had.

They find the task by the question in the message, in the environment of the run (`envs.gsm8k:GSM8K`), and read messages as
`graphs/README.md` lays down.

    reasoning   next     the first step of the solution that the work so far does not contain
    verify      check    right, or wrong, of an equation: by calculation
    knowledge   answer   the sentence of the question, or the step so far, that states the quantity which is asked for

**No tutor states the final answer**, in digits or in words, nor says whether one is right:

- Reasoning gives the last step without its result, in the same words whatever was asked and whatever stands in the work.
- Verify calculates. Its `right` is true of any equation of numbers, whether or not the task asks for its result, and of
  anything else it says nothing. It corrects an equation only where the right result is that of a step before the last, so
  that the answer and a number without meaning get the same reply.
- Knowledge leaves out what states the answer, and a step that is not yet in the work.
"""

import random
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from langchain_core.language_models import BaseChatModel
from pydantic import PrivateAttr

from aipo.errors import ConfigError
from aipo.rollout import Env
from envs.gsm8k.arithmetic import equations
from envs.gsm8k.env import GSM8K
from envs.gsm8k.solution import Solution
from envs.rules import HEEDED_BY_VERIFY, RuleBased, correction, payload

NO_EQUATION = "State an equation of numbers to check."
UNEQUAL = "The sides are not equal."
UNKNOWN = "unknown"


def reasoning(env: Callable[[], Env]) -> BaseChatModel:
    """Gives the next step of the worked solution, the last one without its result.

    Args:
        env: makes the environment of the run.

    Raises:
        ConfigError: it is another environment.
    """
    return _tutor(Guide, env)


def verify(env: Callable[[], Env]) -> BaseChatModel:
    """Checks equations by calculation.

    Raises:
        ConfigError: see `reasoning`.
    """
    return _tutor(Calculator, env)


def knowledge(env: Callable[[], Env]) -> BaseChatModel:
    """Gives a quantity that the question or a step so far states.

    Raises:
        ConfigError: see `reasoning`.
    """
    return _tutor(Reference, env)


class Tutor(RuleBased):
    """Looks the task of a message up."""

    family = "gsm8k"
    heeds: ClassVar[str] = "the lines `Task:` and `Request:`, the question and the work so far"
    answers: ClassVar[str]
    """The step of its graph in which it has something to say."""
    reads: ClassVar[str] = "Request"
    """The payload there."""

    _env: GSM8K = PrivateAttr()

    @abstractmethod
    def reply(self, text: str, solution: Solution, work: str) -> str:
        """What it says to message `text`, whose work so far is `work`."""

    def rule(self, step: str, text: str, rng: random.Random) -> str | None:
        question, _, rest = text.partition("\nProblem:\n")[2].partition("\n\nWork so far:\n")
        work, found, _ = rest.rpartition(f"\n{self.reads}:")
        if step != self.answers or not found:
            return None
        return self.reply(text, self._env.solution(question), work)


class Guide(Tutor):
    """Knows how to go on."""

    answers = "next"

    def reply(self, text: str, solution: Solution, work: str) -> str:
        return solution.next_step(work)


class Calculator(Tutor):
    """Can calculate."""

    answers, reads = "check", "Claim"
    heeds = f"{HEEDED_BY_VERIFY}, and the question"

    def reply(self, text: str, solution: Solution, work: str) -> str:
        claims = equations(payload(text, "Claim"))
        wrong = next((claim for claim in claims if not claim.is_right), None)
        if wrong is None:
            return "right" if claims else NO_EQUATION
        step = solution.step_to(wrong.value)
        if step is None:
            return correction(text, UNEQUAL)
        # Of the claim nothing is repeated: a guess at the answer may stand in it.
        same = wrong.expression == step.expression
        return correction(text, f"{step.expression}={step.result}" if same else f"it is {step.result}")


class Reference(Tutor):
    """Knows the quantities."""

    answers = "answer"

    def reply(self, text: str, solution: Solution, work: str) -> str:
        return solution.quantity(payload(text, "Request"), work) or UNKNOWN


def _tutor(kind: type[Tutor], env: Callable[[], Env]) -> Tutor:
    given = env()
    if not isinstance(given, GSM8K):
        raise ConfigError(
            f"env.name: got {type(given).__name__} with {kind.__name__} of envs.gsm8k.agents, which knows the solutions "
            "of envs.gsm8k:GSM8K alone, allowed env.name=envs.gsm8k:GSM8K, or another agents.NAME.model"
        )
    tutor = kind(seed=0, error_rate=0.0)
    tutor._env = given
    return tutor
