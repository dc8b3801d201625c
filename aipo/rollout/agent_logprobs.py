"""Log-probs of agents' tokens by the agent's own model: the μ of `method.coefficient=ratio`.

A frozen model of this process scores by a forward pass. A model on a vLLM server scores there: /tokenize gives
the ids of its prompt, /v1/completions the log-probs of any ids behind it. Both need the policy's tokenizer, or
ids would not mean the same, and sampling from the plain distribution, or it would be another one's log-probs.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from aipo.errors import AgentError, ConfigError
from aipo.policies import Tokenizer
from aipo.rollout.chat.messages import openai_role
from aipo.rollout.context import ChatModel
from aipo.rollout.reference_chat import ReferenceChat
from aipo.util.http.retry import retry, transient
from aipo.util.text import error_text

WHY = "with method.coefficient=ratio, or a function that needs μ"
PLAIN: Mapping[str, float] = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""A server may have defaults of its own for these (a model's generation_config.json)."""
_TEXTS = (
    "How many positive divisors does 360 have? Let n = 2^3 * 3^2 * 5, so (3+1)(2+1)(1+1) = 24.",
    "  def f(x):\n\treturn x ** 2  # naïve\n\n\n",
    "3@7=582\n#587 ½ 你好 🙂 </think> <|im_end|>",
)
_MESSAGES = ({"role": "human", "content": _TEXTS[0]},)
_WAIT_S = 0.25


class ServedScorer:
    """Implements `aipo.rollout.context.Scorer` with a vLLM server.

    Args:
        client: an `openai.AsyncOpenAI` of that server.
        model: served name.
        template: arguments of the chat template, as the agent's own calls send them.
        timeout: seconds for one attempt.
        attempts: of one request; only transient errors are tried again.
    """

    def __init__(
        self, client: Any, model: str, *, template: Mapping[str, Any], timeout: float, attempts: int
    ) -> None:
        self._client, self._model, self._template = client, model, dict(template)
        self._timeout, self._attempts = timeout, attempts
        self.url = str(client.base_url).rstrip("/").removesuffix("/v1")

    async def score(
        self, messages: Sequence[Mapping[str, str]], token_ids: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """See `aipo.rollout.context.Scorer.score`.

        Raises:
            AgentError: an answer without such log-probs.
            openai.APIError: none.
        """
        prompt = await self._prompt(messages)
        ids = [*prompt, *map(int, token_ids)]
        answer = await self._ask(
            "v1/completions", prompt=ids, max_tokens=1, temperature=1.0, prompt_logprobs=0
        )
        try:
            told = answer["choices"][0]["prompt_logprobs"][len(prompt) :]
            pairs = zip(told, ids[len(prompt) :], strict=True)
            logprobs = np.array([one[str(i)]["logprob"] for one, i in pairs], np.float32)
        except (LookupError, TypeError, ValueError) as error:
            raise AgentError(
                f"log-probs by {self.url}: got no prompt_logprobs ({error!r}), allowed vLLM's"
            ) from error
        if not np.isfinite(logprobs).all():
            raise AgentError(f"log-probs by {self.url}: got some that are not finite, allowed numbers")
        return logprobs

    async def check(self, tokenizer: Tokenizer) -> None:
        """Sees whether the server's log-probs are those of the policy's ids, and of the very prompt that the
        agent's calls send.

        Raises:
            ConfigError: says why not.
        """
        try:
            for text in _TEXTS:
                got = (await self._ask("tokenize", prompt=text, add_special_tokens=False))["tokens"]
                if got != tokenizer.encode(text, control=True):
                    raise ConfigError(f"another tokenizer than the policy's: {text!r} is {got} there")
            asked = await self._ask(
                "v1/chat/completions",
                **self._chat(_MESSAGES),
                max_tokens=8,
                temperature=1.0,
                return_token_ids=True,
            )
            message = asked["choices"][0]["message"]
            if message.get("reasoning") or message.get("reasoning_content"):
                raise ConfigError(
                    "a model that thinks where nobody sees it (a reasoning parser): switch it off"
                )
            if asked["prompt_token_ids"] != await self._prompt(_MESSAGES):
                raise ConfigError("another prompt from /tokenize than /v1/chat/completions sees")
            await self.score(_MESSAGES, tokenizer.encode(_TEXTS[0]))
        except ConfigError:
            raise
        except Exception as error:  # a server is anybody's
            raise ConfigError(f"no log-probs of given ids: {error_text(error)}") from error

    async def _prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The prompt of the model for these messages."""
        return (await self._ask("tokenize", **self._chat(messages), add_generation_prompt=True))["tokens"]

    def _chat(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        chat = [{"role": openai_role(m["role"]), "content": m["content"]} for m in messages]
        return {"messages": chat, **({"chat_template_kwargs": self._template} if self._template else {})}

    async def _ask(self, path: str, **body: Any) -> dict[str, Any]:
        from openai import HttpxBinaryResponseContent

        async def ask() -> dict[str, Any]:
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await self._client.post(
                        f"{self.url}/{path}",
                        body={"model": self._model, **body},
                        cast_to=HttpxBinaryResponseContent,
                    )
            except TimeoutError as error:
                limit = f"{self._timeout:g} s (agents.NAME.timeout)"
                raise TimeoutError(f"no answer of {self.url}/{path} within {limit}") from error
            told = orjson.loads(answer.content)
            if not isinstance(told, dict):
                raise AgentError(
                    f"answer of {self.url}/{path}: got {answer.content[:200]!r}, allowed an object"
                )
            return told

        return await retry(ask, when=transient, waits=[_WAIT_S] * (self._attempts - 1))


async def check_scorers(chats: Mapping[str, ChatModel], tokenizer: Tokenizer) -> None:
    """Asks every agent's server whether it can do it.

    Args:
        tokenizer: the policy's.

    Raises:
        ConfigError: names the agent and the reason.
    """
    for name, chat in chats.items():
        where = f"agents.{name} ({chat.name})"
        if isinstance(chat.scorer, ReferenceChat):
            own = chat.scorer.tokenizer
            if any(own.encode(text, control=True) != tokenizer.encode(text, control=True) for text in _TEXTS):
                raise ConfigError(f"{where}: got another tokenizer, allowed the policy's, {WHY}")
        if isinstance(chat.scorer, ServedScorer):
            try:
                await chat.scorer.check(tokenizer)
            except ConfigError as error:
                raise ConfigError(
                    f"{where} at {chat.scorer.url}: got {error}, allowed vLLM with the policy's tokenizer, {WHY}"
                ) from error
