"""A policy that says again what it said in a recorded rollout, as long as it is asked the same.

Asked the same means: the ids of its context are those that were recorded before one of its segments, and
a sampler would have ended that segment where it ends. The answer is the segment, with the log-probs and
the version of the weights that sampled it; or its first tokens, where a stop string that was not asked for
then ends it earlier now. The first time that something else is asked, a live policy takes
over for good, with the seed of the turn, so that chance is the same on both sides of a comparison. Without
a live policy the rollout ends by name: needs a live call here.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from aipo.errors import ReplayError
from aipo.policies import Completion, Policy, SampleRequest, Tokenizer
from aipo.policies.local.stops import first_end
from aipo.replay.reuse import NEEDS_LIVE, Reuse, recorded_error
from aipo.trace import Role, Segment, StopReason, Trace

Finish = Literal["stop", "eos", "length"]
_SAME: frozenset[str] = frozenset({"ok", "cancelled", "unknown"})


class AbsentPolicy:
    """Implements `aipo.policies.Policy` where nobody may sample."""

    version = 0

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    async def sample(self, request: SampleRequest) -> Completion:
        """Samples nothing.

        Raises:
            ReplayError: always.
        """
        raise ReplayError(
            f"{NEEDS_LIVE}: a policy that was not recorded, after {len(request.token_ids)} tokens"
        )


class ReplayPolicy:
    """Implements `aipo.policies.Policy` for one rollout.

    Args:
        source: the recorded rollout of this policy.
        tokenizer: the one that `source` was recorded with.
        live: who samples after the fork; None = nobody, the replay is frozen.
        turns: reuse so many turns at most; None = all.
        reuse: where it is counted.

    Attributes:
        live_from: length of the context at the first live turn, None while there was none.
    """

    def __init__(
        self,
        source: Trace,
        tokenizer: Tokenizer,
        live: Policy | None = None,
        *,
        turns: int | None = None,
        reuse: Reuse | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.reuse = Reuse() if reuse is None else reuse
        self.live_from: int | None = None
        self._asked = 0
        self._source, self._live = source, live
        self._token_ids = source.token_ids
        recorded = _turns(source)
        self._last = max(recorded, default=None)
        self._turns = dict(list(recorded.items())[:turns])
        versions = [s.policy_version for s in source.segments if s.policy_version is not None]
        self._version = max(versions, default=0)

    @property
    def version(self) -> int:
        """Of what samples now: the live policy's, or the recorded one."""
        return self._version if self._live is None else max(self._version, self._live.version)

    async def sample(self, request: SampleRequest) -> Completion:
        """See `aipo.policies.Policy.sample`.

        Raises:
            ReplayError: something else is asked than was recorded, and there is no live policy.
            PolicyError: the live policy failed.
        """
        if self.reuse.missing is not None:  # somebody caught it where an agent was asked
            raise self.reuse.missing
        token_ids = request.token_ids
        piece = self._recorded(token_ids)
        end = None if piece is None else self._end(len(token_ids), piece, request.max_tokens, request.stop)
        as_then = self._drawn_as_then(request.temperature, request.forbidden_ids)
        if piece is not None and end is not None and as_then:
            size, finish = end
            if size < len(piece):
                what = f"a stop string ends the recorded answer after {size} of its {len(piece)} tokens now"
                self.reuse.leave("sampling", f"{self._where()}: {what}")
            self.reuse.turns += 1
            self._asked += 1
            return _completion(piece, size, finish, self._version)
        at, detail = self._difference(token_ids, as_then)
        if self._live is None:
            raise self._error_then(token_ids) or self.reuse.refuse(at, self._where(), detail)
        if self.live_from is None:
            self.live_from = len(token_ids)
        self.reuse.leave(at, f"{self._where()}: {detail}")
        self.reuse.live_turns += 1
        self._asked += 1
        done = await self._live.sample(request)
        # Versions never fall within a trace, whatever weights somebody goes on with.
        return replace(done, policy_version=max(done.policy_version, self._version))

    def _recorded(self, token_ids: npt.NDArray[np.int32]) -> Segment | None:
        """The segment that was sampled after exactly this context."""
        piece = None if self.live_from is not None else self._turns.get(len(token_ids))
        if piece is None or not np.array_equal(token_ids, self._token_ids[: len(token_ids)]):
            return None
        return piece

    def _drawn_as_then(self, temperature: float, forbidden_ids: tuple[int, ...]) -> bool:
        """Were its log-probs recorded under this temperature and this mask?"""
        then = self._source.sampling.get("temperature", temperature)
        return temperature == then and set(forbidden_ids) == set(self._source.forbidden_ids)

    def _end(
        self, start: int, piece: Segment, max_tokens: int, stop: tuple[str, ...]
    ) -> tuple[int, Finish] | None:
        """After how many tokens of `piece` a sampler would end now, and why; None if it would go on after them,
        or where a limit would cut it."""
        size = len(piece)
        stopped = first_end(stop, piece.token_ids, self.tokenizer) if stop else None
        if stopped is not None and stopped < size:
            return (stopped, "stop") if stopped <= max_tokens else None
        if size > max_tokens:
            return None
        if piece.token_ids[-1] == self.tokenizer.eos_id:
            return size, "eos"
        if stopped is not None:
            return size, "stop"
        if size == max_tokens:
            return size, "length"
        # Out of the model's positions, or of tokens: then nothing came after it, and no more was allowed.
        out = start == self._last and self._source.stop_reason is StopReason.LENGTH
        return (size, "length") if out and max_tokens <= self._room(start, max_tokens) else None

    def _room(self, start: int, unknown: int) -> int:
        """Tokens that were left at `start`; see `RolloutContext.room`."""
        limit = self._source.sampling.get("max_tokens")
        return unknown if limit is None else limit - (start - self._source.count(Role.PROMPT))

    def _error_then(self, token_ids: npt.NDArray[np.int32]) -> Exception | None:
        """The error that the recorded rollout ended with, when it is asked for the turn that had none."""
        trace = self._source
        if trace.stop_reason is not StopReason.ERROR or not np.array_equal(token_ids, self._token_ids):
            return None
        error = trace.error or ""
        said = [v.outcome for v in trace.visits if v.outcome not in _SAME and error.startswith(v.outcome)]
        return recorded_error(said[-1] if said else error, retried=False)

    def _where(self) -> str:
        return f"turn {self._asked} of {self._source.trace_id!r}"

    def _difference(self, token_ids: npt.NDArray[np.int32], as_then: bool) -> tuple[str, str]:
        """What is asked that was not recorded: in short, and in full."""
        if self.live_from is not None:
            return "policy", "everything is live after the first live turn"
        here, then = len(token_ids), len(self._token_ids)
        same = token_ids[:then] == self._token_ids[:here]
        first = int(np.argmin(same)) if not same.all() else min(here, then)
        if first < min(here, then):
            got, was = (self.tokenizer.decode([ids[first]]) for ids in (token_ids, self._token_ids))
            at = _producer(self._source, first)
            return at, f"token {first} of the context is {got!r}, recorded {was!r} ({at})"
        if here in self._turns and not as_then:
            return "sampling", "another temperature, or other forbidden tokens, than recorded"
        if here in self._turns:
            return "sampling", f"the recorded answer to token {first} ends where it would not end now"
        if here >= then:
            return "end", f"the recording ends with token {then - 1}, the context is {here} tokens long"
        at = _producer(self._source, first)
        return at, f"the policy is asked at token {first}, where recorded was {at}"


def _turns(trace: Trace) -> dict[int, Segment]:
    """The policy's segments by the length of the context that they were sampled after."""
    found: dict[int, Segment] = {}
    start = 0
    for piece in trace.segments:
        if piece.role is Role.POLICY:
            found[start] = piece
        start += len(piece)
    return found


def _producer(trace: Trace, token: int) -> str:
    """Who wrote a token of the recording."""
    for piece in trace.segments:
        if token < len(piece):
            return {Role.AGENT: f"feedback of {piece.source}", Role.ENV: "notice"}.get(
                piece.role, piece.role.value
            )
        token -= len(piece)
    return "end"


def _completion(piece: Segment, size: int, finish: Finish, version: int) -> Completion:
    """The first `size` tokens of a segment."""
    assert piece.logprobs is not None, "a policy segment has log-probs, or it is no segment"
    return Completion(
        token_ids=piece.token_ids[:size],
        logprobs=piece.logprobs[:size],
        entropies=None if piece.entropies is None else piece.entropies[:size],
        finish=finish,
        policy_version=version if piece.policy_version is None else piece.policy_version,
    )
