"""A model behind an OpenAI-compatible address, to be evaluated or tried.

With a tokenizer it is a vLLM server like any other policy: token ids and log-probs come back, and so its traces are
complete. Without one it is a chat model: text comes back. Then a trace's tokens are characters without log-probs; its mode
is `text`, and no replay trains on it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.messages import HumanMessage

from aipo.config.build import Experiment
from aipo.config.build_chat import build_openai_chat
from aipo.errors import PolicyError
from aipo.policies import Completion, Policy, SampleRequest
from aipo.policies.text_tokenizer import TextTokenizer
from aipo.rollout.context import ChatModel
from aipo.util.event_loop import LOOP
from aipo.util.http.reply import read_reply
from aipo.util.http.retry import retry, transient
from aipo.util.text import error_text

_FIRST_S, _LONGEST_S = 0.5, 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A served model.

    Args:
        url: base address of its API, usually ending with /v1.
        model: name on the server.
        secret: NAME of the environment variable with the key; None = see `build_openai_chat`.
        tokenizer: folder or hub name of the model's tokenizer; None = text only.
    """

    url: str
    model: str
    secret: str | None = None
    tokenizer: Path | str | None = None

    @property
    def text_only(self) -> bool:
        return self.tokenizer is None

    def open(self, experiment: Experiment) -> Policy:
        """The served model as a policy. Asks it once: a wrong key or name is told before the evaluation.

        Raises:
            LoadError: the key's variable is not set, or there is no such tokenizer.
            PolicyError: it does not answer.
        """
        if self.tokenizer is None:
            policy = ChatPolicy(self._chat(experiment), attempts=experiment.policy.vllm.attempts)
        else:
            server = {
                "policy.engine": "vllm",
                "policy.vllm.servers": (self.url.rstrip("/").removesuffix("/v1"),),
                "policy.vllm.model": self.model,
                "policy.vllm.secret": self.secret,
            }
            tokenizer = experiment.tokenizer(self.tokenizer)
            policy = experiment.with_settings(server).served_policy(tokenizer, len(tokenizer))
        prompt = np.array(policy.tokenizer.encode_prompt("1+1=?"), np.int32)
        # Few tokens would be an error of a model that thinks first.
        length = experiment.rollout.max_tokens if self.text_only else 8
        request = SampleRequest(prompt, max_tokens=length, temperature=experiment.rollout.temperature)
        LOOP.run(policy.sample(request))
        return policy

    def _chat(self, experiment: Experiment) -> ChatModel:
        options = {
            "base_url": self.url,
            "model": self.model,
            "timeout": experiment.policy.vllm.deadline,
        }
        return build_openai_chat(options, variable=self.secret)


class ChatPolicy:
    """Implements `aipo.policies.base.Policy` by chat completions. Log-probs are NaN: nobody told them. A request's seed is not
    sent, for many servers refuse one.

    Args:
        attempts: of one request; only transient errors are tried again.
    """

    version = 0

    def __init__(self, chat: ChatModel, *, attempts: int) -> None:
        self.tokenizer = TextTokenizer()
        self._chat = chat
        self._waits = [min(_FIRST_S * 2**n, _LONGEST_S) for n in range(attempts - 1)]

    async def sample(self, request: SampleRequest) -> Completion:
        """See `aipo.policies.base.Policy.sample`. Thinking is no part of the answer.

        Raises:
            PolicyError: the server refuses, or does not answer in time.
        """
        messages = [HumanMessage(self.tokenizer.decode(request.token_ids))]
        asked: dict[str, Any] = {"temperature": request.temperature, "max_tokens": request.max_tokens}

        async def ask() -> Completion:
            async with self._chat.pause:
                reply = read_reply(await self._chat.model.ainvoke(messages, **asked), self._chat.thinking)
            ids = np.array([*self.tokenizer.encode(reply.text), self.tokenizer.eos_id], np.int32)
            return Completion(
                token_ids=ids,
                logprobs=np.full(len(ids), np.nan, np.float32),
                entropies=None,
                finish="length" if reply.cut else "eos",
                policy_version=self.version,
            )

        try:
            return await retry(ask, when=transient, waits=self._waits)
        except Exception as error:  # a server is anybody's
            raise PolicyError(
                f"model {self._chat.name!r} at {self._chat.settings['base_url']}: got {error_text(error)}, allowed a chat "
                "completion (the address usually ends with /v1; --model is the name on the server, --secret the variable "
                "with its key)"
            ) from error
