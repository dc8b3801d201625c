"""A transformers model in this process, shared by hundreds of rollouts through continuous batching.

One task per event loop drives the model: waiting requests join, one decode step is made for everybody, and graphs whose
continuations are finished go on and ask again. It runs in the loop's own thread, since Python code and torch calls in
two threads would take turns at the interpreter's pace, milliseconds at a time.
"""

import asyncio
import contextvars
from collections import deque

import numpy as np
import torch
from transformers import PreTrainedModel

from aipo.errors import LoadError, PolicyError
from aipo.policies.base import Completion, SampleRequest
from aipo.policies.local.decoder import Decoder, PendingRequest
from aipo.policies.local.kv_cache import check_model, prefix_cache
from aipo.policies.local.prefix_cache import PrefixCache
from aipo.policies.logprobs import evaluating
from aipo.policies.tokenizer import HFTokenizer

# A prefill costs nearly as much for one row as for several: rows join in bunches of an eighth of the
# batch, but none waits for more than this many steps.
_BUNCH, _PATIENCE = 8, 8
# Turns of the event loop between two steps: LangGraph takes about so many from one node to the next.
_TURNS = 16


class LocalPolicy:
    """Implements `aipo.policies.base.Policy`. One object serves any number of event loops, one after another.

    The same request gives the same tokens however it is batched, up to float rounding: where a random
    number falls within about 1e-6 of the border between two tokens, either may come.

    Args:
        model: a causal language model; it may be training, dropout is off while it samples.
        tokenizer: its tokenizer.
        max_batch: the most requests that are continued at a time; the others wait.

    Raises:
        LoadError: the model's layers or attention are of a kind that cannot be served, or the tokenizer has
            more ids than the model.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: HFTokenizer, *, max_batch: int = 256) -> None:
        check_model(model)
        config = model.config.get_text_config(decoder=True)
        self.model, self.tokenizer = model, tokenizer
        self._max_batch = max_batch
        self._vocabulary = int(config.vocab_size)
        self.positions = int(config.max_position_embeddings)
        if len(tokenizer) > self._vocabulary:
            raise LoadError(
                f"ids of the tokenizer: got {len(tokenizer)}, the policy model has {self._vocabulary}"
            )
        self._version = 0
        self._prefixes: PrefixCache | None = None
        self._waiting: deque[PendingRequest] = deque()
        self._driver: asyncio.Task[None] | None = None

    @property
    def version(self) -> int:
        return self._version

    def advance(self, version: int) -> None:
        """Says that the model's weights are now those after `version` optimizer steps.

        Raises:
            PolicyError: requests are under way, which have seen the weights of before.
        """
        if self._running():
            raise PolicyError(f"version: got {version} while sampling, allowed when no request is under way")
        self._version = version
        if self._prefixes is not None:
            self._prefixes.clear()

    def remember(self) -> None:
        """Until `forget`, a request computes nothing of its context that requests before it have computed. The weights
        are not to change meanwhile but for `advance`. Otherwise that holds of requests that are under way together."""
        self._prefixes = prefix_cache(self.model)

    @property
    def cached_share(self) -> float | None:
        """The share of the tokens of contexts since `remember` that were not computed anew; None after `forget`."""
        return None if self._prefixes is None else self._prefixes.share

    def forget(self) -> None:
        """Ends `remember`, and gives its memory back."""
        self._prefixes = None

    async def sample(self, request: SampleRequest) -> Completion:
        """See `aipo.policies.base.Policy.sample`. A context may not grow beyond the model's positions: the
        continuation then ends with `length`.

        Raises:
            PolicyError: a request that the model cannot serve, logits that are not finite, or a model
                that failed.
        """
        self._check(request)
        loop = asyncio.get_running_loop()
        limit = min(request.max_tokens, self.positions - len(request.token_ids))
        pending = PendingRequest(request, limit, loop.create_future())
        self._start_driver(loop)
        self._waiting.append(pending)
        return await pending.done

    def _running(self) -> bool:
        driver = self._driver
        return driver is not None and not driver.done() and not driver.get_loop().is_closed()

    def _start_driver(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._driver is not None and self._running():
            if self._driver.get_loop() is not loop:
                raise PolicyError(
                    "event loop: got a second one while the first still waits, allowed one at a time"
                )
            return
        self._waiting.clear()
        prefixes = prefix_cache(self.model) if self._prefixes is None else self._prefixes
        decoder = Decoder(self.model, self.tokenizer, self._max_batch, self._version, prefixes)
        # A context of its own: the driver outlives the rollout that happens to start it.
        self._driver = loop.create_task(self._drive(decoder, prefixes), context=contextvars.Context())

    async def _drive(self, decoder: Decoder, prefixes: PrefixCache) -> None:
        held = 0
        try:
            with evaluating(self.model):
                while self._waiting or len(decoder.table):
                    for _ in range(_TURNS):
                        await asyncio.sleep(0)
                    held = self._step(decoder, held)
        except Exception as error:
            prefixes.clear()  # it may have failed in the middle of a write
            # Whatever the model raises (memory, a device, a kernel) belongs to those who wait for it.
            for request in (*decoder.requests, *self._waiting):
                if not request.done.done():
                    failure = PolicyError(f"the model failed with {type(error).__name__}: {error}")
                    failure.__cause__ = error
                    request.done.set_exception(failure)
        finally:
            for request in (*decoder.requests, *self._waiting):
                request.done.cancel()
            self._waiting.clear()

    @torch.no_grad()
    def _step(self, decoder: Decoder, held: int) -> int:
        """Lets requests join, and steps; returns for how many steps some have been waiting."""
        waiting = [r for r in self._waiting if not r.done.done()]
        due = _BUNCH * len(waiting) >= len(decoder.table) or held >= _PATIENCE
        joining = waiting[: decoder.table.room] if due else []
        if joining:
            decoder.join(joining)
        self._waiting = deque(waiting[len(joining) :])
        decoder.step()
        return 0 if due else held + bool(waiting)

    def _check(self, request: SampleRequest) -> None:
        context = np.asarray(request.token_ids)
        where = f"a request after {len(context)} tokens"
        if not 0 < len(context) < self.positions:
            raise PolicyError(
                f"length of the context: got {len(context)} tokens, allowed 1 to {self.positions - 1} "
                f"(the model has {self.positions} positions)"
            )
        for name, ids in (
            ("token ids", context),
            ("forbidden ids", np.array(request.forbidden_ids, np.int64)),
        ):
            bad = ids[(ids < 0) | (ids >= self._vocabulary)]
            if bad.size:
                raise PolicyError(f"{name}: got {bad[0]}, allowed 0 to {self._vocabulary - 1}, in {where}")
        if request.max_tokens < 1:
            raise PolicyError(f"max_tokens: got {request.max_tokens}, allowed >= 1, in {where}")
        if not request.temperature > 0:
            raise PolicyError(f"temperature: got {request.temperature}, allowed > 0, in {where}")
        if "" in request.stop:
            raise PolicyError(f"stop: got {request.stop!r}, allowed strings that are not empty, in {where}")
