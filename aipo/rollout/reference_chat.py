"""An agent that is a language model of this process whose weights never move: by default, the policy as it began.

`agents.NAME.model: aipo.rollout.reference_chat:reference`. It samples like the policy (continuous batching, exact log-probs) and can
say how likely any ids are, so that `method.coefficient=ratio` works with it. With `policy.engine=vllm` the same
is a second server with the first weights, asked through `langchain_openai:ChatOpenAI`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.runtime import get_runtime
from pydantic import PrivateAttr

from aipo.errors import AgentError, ConfigError, PolicyError
from aipo.policies import SampleRequest
from aipo.rollout.chat.messages import openai_role
from aipo.rollout.context import RolloutContext
from aipo.rollout.spec import derive_seed

if TYPE_CHECKING:
    from aipo.policies.local.policy import LocalPolicy
    from aipo.policies.tokenizer import HFTokenizer

Weights = Callable[[str | None], Any]
"""Loads what is at a folder or under a hub name; None = the policy as it began. Loads each once."""


def reference(
    weights: Weights,
    *,
    model: str | None = None,
    temperature: float = 1.0,
    max_tokens: int = 256,
    seed: int = 0,
) -> "ReferenceChat":
    """The initial policy (or another model) as a chat model.

    Args:
        model: folder or hub name; None = the policy's own start.
        max_tokens: the most tokens of one reply.
        seed: the same seed, rollout, place in it and messages give the same reply.

    Raises:
        ConfigError: a number out of its range.
    """
    for name, number in (("temperature", temperature), ("max_tokens", max_tokens)):
        if not number > 0:
            raise ConfigError(f"{name} of a reference model: got {number}, allowed > 0")
    chat = ReferenceChat(temperature=temperature, max_tokens=max_tokens, seed=seed)
    chat._weights = lambda: weights(model)
    return chat


class ReferenceChat(BaseChatModel):
    """See `reference`, which makes it. A reply's `response_metadata` has the `token_ids` that were sampled, and
    their `logprobs`."""

    temperature: float
    max_tokens: int
    seed: int
    _weights: Callable[[], "LocalPolicy"] = PrivateAttr()

    @property
    def _llm_type(self) -> str:
        return "aipo-reference"

    @property
    def tokenizer(self) -> "HFTokenizer":
        return self._weights().tokenizer

    async def score(
        self, messages: Sequence[Mapping[str, str]], token_ids: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """Log-probs (nats, at its temperature) of exactly `token_ids` as the reply to `messages`.

        Raises:
            AgentError: the context is too long for the model.
        """
        from aipo.policies.logprobs import score

        policy = self._weights()
        prompt = _prompt(policy.tokenizer, messages)
        if len(prompt) + len(token_ids) > policy.positions:
            raise AgentError(
                f"tokens to score: got {len(prompt)} and {len(token_ids)}, allowed {policy.positions} together"
            )
        ids = (np.array(prompt, np.int32), np.array(token_ids, np.int32))
        return score(policy.model, *ids, temperature=self.temperature)

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise AgentError("a reference model: got a call that waits, allowed `await`")

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        policy = self._weights()
        asked = [{"role": m.type, "content": str(m.text)} for m in messages]
        prompt = np.array(_prompt(policy.tokenizer, asked), np.int32)
        seed = derive_seed(self.seed, *_rollout(), asked)
        done = await policy.sample(
            SampleRequest(prompt, max_tokens=self.max_tokens, temperature=self.temperature, seed=seed)
        )
        said = done.token_ids[:-1] if done.finish == "eos" else done.token_ids
        read, written = len(prompt), len(done.token_ids)
        reply = AIMessage(
            policy.tokenizer.decode(said),
            usage_metadata=UsageMetadata(
                input_tokens=read, output_tokens=written, total_tokens=read + written
            ),
            response_metadata={
                "finish_reason": "length" if done.finish == "length" else "stop",
                "token_ids": done.token_ids.tolist(),
                "logprobs": done.logprobs.tolist(),
            },
        )
        return ChatResult(generations=[ChatGeneration(message=reply)])


def _rollout() -> tuple[int, ...]:
    """Seed of the rollout that asks and how many calls it has made, or nothing outside of one."""
    try:
        context: Any = get_runtime().context
    except (KeyError, RuntimeError):
        return ()
    return (context.seed, len(context.calls)) if isinstance(context, RolloutContext) else ()


def _prompt(tokenizer: "HFTokenizer", messages: Sequence[Mapping[str, str]]) -> list[int]:
    chat = [{"role": openai_role(m["role"]), "content": m["content"]} for m in messages]
    try:
        return tokenizer.encode_chat(chat)
    except Exception as error:  # a template is anybody's program
        raise PolicyError(f"chat template of a reference model: {error}") from error
