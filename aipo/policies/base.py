"""The policy: the model whose tokens are trained.

A seam of one method, `Policy.sample`: token ids in, token ids out, with the log-probability of each under the
distribution that it was sampled from.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt


class Tokenizer(Protocol):
    """The tokenizer as graphs use it."""

    def __len__(self) -> int:
        """Size of the vocabulary: the largest id plus one."""
        ...

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Ids of `text`, nothing added. Unless `control`, special-token strings inside `text` are
        encoded as plain text, so that nobody's text can smuggle control tokens in."""
        ...

    def encode_prompt(self, text: str, *, untrusted: str = "") -> list[int]:
        """Ids of a rollout's prompt: through the chat template, open for the assistant, where the tokenizer has one;
        else as control text behind what the tokenizer puts before a text (BOS).

        Args:
            untrusted: a part of `text`, the question. Where it spells control tokens, it is encoded as plain text.
        """
        ...

    @property
    def turn(self) -> tuple[str, str]:
        """Control texts before and behind a further message to the model, after an answer that it has ended. Behind them
        it answers again. Without a chat template there are none."""
        ...

    def control_in(self, text: str) -> list[str]:
        """The control tokens that `text` spells, each once."""
        ...

    def decode(self, token_ids: Sequence[int] | npt.NDArray[np.int32]) -> str:
        """Text of `token_ids`, special tokens included, no clean-up."""
        ...

    def token_id(self, text: str) -> int | None:
        """The single id whose text is exactly `text`, or None."""
        ...

    @property
    def eos_id(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. There is no top-p, top-k or min-p: under those a plain forward pass could not
    reproduce the behaviour log-probabilities, so training refuses them.

    Args:
        temperature: > 0.
        max_tokens: the most tokens of one rollout after its prompt, agents' included.
    """

    temperature: float = 1.0
    max_tokens: int = 256


@dataclass(frozen=True, slots=True, eq=False)
class SampleRequest:
    """A request for a continuation: the context, and how to sample.

    Args:
        token_ids: the context, shape (T,).
        max_tokens: the most tokens of the continuation; >= 1.
        temperature: > 0.
        stop: the continuation ends with the token that completes one of these strings.
        forbidden_ids: their probability is 0.
        seed: the same request, seed and weights give the same continuation, however requests are batched.
        session: the rollout that asks. Where there are several servers, all of its requests go to one, which
            still has its context in the cache; it changes nothing else.
    """

    token_ids: npt.NDArray[np.int32]
    _: KW_ONLY
    max_tokens: int
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    forbidden_ids: tuple[int, ...] = ()
    seed: int = 0
    session: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One continuation. `logprobs` and `entropies` (nats) are of the processed distribution (after
    temperature and forbidden ids); all three arrays have shape (T,).
    `finish`: `stop` (a stop string was completed; its last token is kept whole), `eos` (the end
    token is kept) or `length`. Entropies are None where they are not known; a server's are estimates (from
    `policy.vllm.top_logprobs`). `cached`: how many of the context's tokens a server had in its cache; None where it does not
    say so, as vLLM does where there were none."""

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32] | None
    finish: Literal["stop", "eos", "length"]
    policy_version: int
    cached: int | None = None


class Policy(Protocol):
    """Samples continuations. Safe to call from hundreds of coroutines at once."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def version(self) -> int:
        """Number of optimizer steps behind the weights that sample now."""
        ...

    async def sample(self, request: SampleRequest) -> Completion:
        """Continues the request's context. Cancelling the coroutine frees its place in the batch.

        Raises:
            PolicyError: the model failed, or gave a NaN log-probability.
        """
        ...
