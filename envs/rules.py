"""Rule-based chat models: agents of an environment that are always at hand and need no server.

They read messages as `graphs/README.md` lays down (a line `Task: <step>`, the payload last) and answer what they do not
understand as a person would. With an error rate they are sometimes wrong: whether and how depends on the seed and the whole
message, so the same message gets the same reply.
"""

import random
import re
from abc import abstractmethod
from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from aipo.errors import ConfigError

LOST = "I do not understand the request."
HEEDED_BY_VERIFY = (
    "the lines `Task:` and `Claim:`, and whether its last line is to be `wrong` or `wrong: ...`"
)
"""What an agent that replies with `correction` reads of its prompt."""
_PLAIN_WRONG = re.compile(r"^\W*wrong\W*$", re.MULTILINE)


def probability(rate: float, family: str, name: str = "error_rate") -> float:
    """`rate`, an option of an agent of the environment `family`.

    Raises:
        ConfigError: it is no probability.
    """
    if not 0 <= rate <= 1:
        raise ConfigError(f"{name} of {family} agents: got {rate!r}, allowed 0 to 1")
    return rate


class RuleBased(BaseChatModel):
    """Answers the last message by rule. Tokens are counted in characters."""

    seed: int
    error_rate: float

    family: ClassVar[str]
    """The environment, as in the name `miniature-verify` that traces record."""
    heeds: ClassVar[str] = "the lines `Task:` and `Request:`"
    # The payload that a step passes through, for steps in which a rule has nothing to add.
    echoes: ClassVar[dict[str, str]] = {
        "find": "Request",
        "formulate": "Request",
        "restate": "Request",
        "condense": "Reply",
        "verdict": "Finding",
    }

    @abstractmethod
    def rule(self, step: str, text: str, rng: random.Random) -> str | None:
        """The reply to message `text`; None when it makes no sense to this agent."""

    def errs(self, rng: random.Random) -> bool:
        """Is this reply to be wrong?"""
        return rng.random() < self.error_rate

    @property
    def _llm_type(self) -> str:
        return f"{self.family}-{type(self).__name__.lower()}"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self._llm_type, "seed": self.seed, "error_rate": self.error_rate}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        text = str(messages[-1].text)
        step = next((line[5:].strip() for line in text.splitlines() if line.startswith("Task:")), "")
        if step in self.echoes:
            reply = payload(text, self.echoes[step])
        else:
            reply = self.rule(step, text, random.Random(f"{self._llm_type} {self.seed} {text}"))
        reply = reply or LOST
        sent = sum(len(str(m.text)) for m in messages)
        usage = {"input_tokens": sent, "output_tokens": len(reply), "total_tokens": sent + len(reply)}
        message = AIMessage(reply, usage_metadata=usage, response_metadata={"model_name": self._llm_type})
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        # Microseconds of work: the thread that LangChain would start for it costs more.
        return self._generate(messages, stop)


def payload(text: str, name: str) -> str:
    """Value of the last line `name: value` of a message; empty when there is none."""
    lines = (line for line in reversed(text.splitlines()) if line.startswith(f"{name}:"))
    return next(lines, "").partition(":")[2].strip()


def correction(text: str, claim: str) -> str:
    """The verdict on a wrong claim, in the form that message `text` asks for: `wrong`, or `wrong: ` and the right claim."""
    instruction = text.partition("\nProblem:")[0]  # behind it stand the policy's own lines
    return "wrong" if _PLAIN_WRONG.search(instruction) else f"wrong: {claim}"
