"""The policy on one or several vLLM servers: token ids in, token ids and their log-probs out.

The servers are stock vLLM with `--logprobs-mode processed_logprobs`, so that a log-prob is that of the
distribution which was sampled from (`aipo serve` starts one). Entropies can only be estimated here.
"""

import asyncio
from dataclasses import replace

import orjson

from aipo.errors import PolicyError
from aipo.policies.base import Completion, SampleRequest
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.client import Server
from aipo.policies.vllm.completions import AbortedError, answer_of, request_body
from aipo.policies.vllm.pool import ServerPool
from aipo.util.http.retry import retry

_STOPS = 4
_WAITS = (0.5, 2.0, 8.0)  # seconds; after an answer that the server aborted


class VLLMPolicy:
    """Implements `aipo.policies.base.Policy`.

    Args:
        pool: the servers.
        tokenizer: the policy's.
        vocabulary: how many ids the model has; the tokenizer may have fewer.
        model: served name; None takes what the first server says that it serves.
        top_logprobs: likely tokens that come with each sampled one, from which its entropy is estimated; 0 = not known.
        seeded: send each request's seed. The same seed gives the same tokens as long as the server batches
            alike; on GPUs it costs a random generator per request.
    """

    def __init__(
        self,
        pool: ServerPool,
        tokenizer: HFTokenizer,
        *,
        vocabulary: int,
        model: str | None = None,
        seeded: bool = True,
        top_logprobs: int = 0,
    ) -> None:
        self.top_logprobs = top_logprobs
        self.pool, self.tokenizer = pool, tokenizer
        self.vocabulary = vocabulary
        self._model, self._seeded = model, seeded
        self._served: tuple[str, int] | None = None
        self._version = 0
        self._contexts = 0
        self._cached: int | None = None
        self._asking = asyncio.Lock()

    @property
    def version(self) -> int:
        return self._version

    def advance(self, version: int) -> None:
        """Says that the servers' weights are now those after `version` optimizer steps."""
        self._version = version
        self._contexts, self._cached = 0, None

    @property
    def cached_share(self) -> float | None:
        """The share of the tokens of contexts since `advance` that servers had in their caches; None where none says so."""
        return None if self._cached is None else self._cached / self._contexts

    async def aclose(self) -> None:
        """Closes the connections."""
        await self.pool.aclose()

    async def served(self) -> tuple[str, int]:
        """Name of the served model and its longest context, prompt included; asked for once.

        Raises:
            PolicyError: no server answers, or it serves another model.
        """
        async with self._asking:
            if self._served is None:
                self._served = _served(await self.pool.ask("v1/models"), self._model)
        return self._served

    async def served_by(self, server: Server) -> tuple[str, int]:
        """The same of one server, which need not be up.

        Raises:
            PolicyError: it serves another model than the others.
            httpx2.HTTPError: it does not answer.
        """
        first = self._model if self._served is None else self._served[0]
        self._served = _served(await server.ask("v1/models"), first)
        return self._served

    async def sample(self, request: SampleRequest) -> Completion:
        """See `aipo.policies.base.Policy.sample`. A context may not grow beyond the served model's: the
        continuation then ends with `length`.

        Raises:
            PolicyError: no server answers in time, or an answer that could not be trained on.
        """
        model, positions = await self.served()
        length = len(request.token_ids)
        room = min(request.max_tokens, positions - length)
        if not length or room < 1:
            raise PolicyError(
                f"request: got {length} context tokens and max_tokens={request.max_tokens}, allowed 1 to "
                f"{positions - 1} and >= 1 (the server's --max-model-len is {positions})"
            )
        if len(request.stop) > _STOPS:
            raise PolicyError(
                f"stop strings: got {len(request.stop)}, allowed at most {_STOPS} (vLLM's limit)"
            )
        version = self._version
        request = replace(request, max_tokens=room)
        body = request_body(model, request, seeded=self._seeded, top=self.top_logprobs)

        async def ask() -> Completion:
            answer = await self.pool.ask("v1/completions", body, session=request.session)
            where = "the policy's server"
            return answer_of(
                answer,
                request,
                vocabulary=self.vocabulary,
                where=where,
                version=version,
                top=self.top_logprobs,
            )

        # A server that aborts requests is about to stop; by the next attempt the pool knows.
        made = await retry(ask, when=lambda error: isinstance(error, AbortedError), waits=_WAITS)
        self._contexts += length
        if made.cached is not None:
            self._cached = made.cached + (self._cached or 0)
        return made


def _served(body: bytes, wanted: str | None) -> tuple[str, int]:
    """Name and longest context, from /v1/models, of the model that is wanted, or of the first."""
    try:
        cards = {str(card["id"]): card for card in orjson.loads(body)["data"]}
        name = wanted if wanted is not None else next(iter(cards))
        return name, int(cards[name]["max_model_len"])
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise PolicyError(
            f"policy.vllm.model: got {wanted!r}, allowed a model that the server lists with its max_model_len; it says "
            f"{body[:300]!r}"
        ) from error
