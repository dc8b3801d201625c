"""A policy that answers from a recorded rollout.

A turn is answered with a recorded segment if its context has the token ids that were recorded before the segment,
and a sampler would end the segment where it ends. The answer has the log-probs and the version of the weights that
sampled it; a stop string that was not set then may end it earlier. From the first turn that the recording does not
answer, a live policy samples, with the turn's seed, so that chance is the same on both sides of a comparison.
Without a live policy the rollout ends with the error 'needs a live call here'.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Literal

import numpy as np
import numpy.typing as npt

from aipo.policies import Completion, Policy, SampleRequest, Tokenizer
from aipo.policies.local.stop_strings import first_end
from aipo.replay.reuse import Reuse, recorded_error
from aipo.trace import Role, Segment, StopReason, Trace, concatenate, histories

Finish = Literal["stop", "eos", "length"]
_NO_ERROR: frozenset[str] = frozenset({"ok", "cancelled", "unknown"})


class ReplayPolicy:
    """Implements `aipo.policies.Policy` for one replayed rollout, recorded with `tokenizer`.

    Args:
        live: samples after the fork; None = the replay is frozen.
        reuse: counts what was reused.

    Attributes:
        live_from: length of the context at the first live turn, None while there was none.
    """

    def __init__(
        self,
        source: Trace,
        tokenizer: Tokenizer,
        live: Policy | None = None,
        *,
        reuse: Reuse | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.reuse = Reuse() if reuse is None else reuse
        self.live_from: int | None = None
        self._turn = 0
        self._source, self._live = source, live
        self._histories = [_RecordedHistory(pieces) for pieces in histories(source.segments)]
        self._asked = _RecordedHistory(())
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
        if self.reuse.missing is not None:  # a graph caught it as an error of an agent
            raise self.reuse.missing
        if recorded := self._recorded(request):
            segment, size, finish = recorded
            if size < len(segment):
                what = f"a stop string ends the recorded answer after {size} of its {len(segment)} tokens now"
                self.reuse.leave("sampling", f"{self._where()}: {what}")
            self.reuse.turns += 1
            self._turn += 1
            return _completion(segment, size, finish, self._version)
        at, detail = self._difference(request)
        if self._live is None:
            raise self._error_then(request.token_ids) or self.reuse.refuse(at, self._where(), detail)
        if self.live_from is None:
            self.live_from = len(request.token_ids)
        self.reuse.leave(at, f"{self._where()}: {detail}")
        self.reuse.live_turns += 1
        self._turn += 1
        completion = await self._live.sample(request)
        # Versions never fall within a trace, whatever the live weights are.
        return replace(completion, policy_version=max(completion.policy_version, self._version))

    def _recorded(self, request: SampleRequest) -> tuple[Segment, int, Finish] | None:
        """The segment that was sampled after exactly this context, and where a sampler would end it now, and why."""
        start, asked = len(request.token_ids), [h for h in self._histories if h.asked_at(request.token_ids)]
        # Calls at the same time can have the same context, each in a history of its own.
        unused = [history for history in asked if start not in history.used] or asked[-1:]
        if self.live_from is not None or not unused:
            return None
        self._asked = unused[0]
        segment = self._asked.turns[start]
        end = self._end(start, segment, request.max_tokens, request.stop)
        if end is None or not self._same_sampling(request):
            return None
        self._asked.used.add(start)
        return (segment, *end)

    def _same_sampling(self, request: SampleRequest) -> bool:
        """Were the log-probs recorded under this temperature and these forbidden ids?"""
        recorded = self._source.sampling.get("temperature", request.temperature)
        forbidden = set(self._source.forbidden_ids)
        return request.temperature == recorded and set(request.forbidden_ids) == forbidden

    def _end(
        self, start: int, segment: Segment, max_tokens: int, stop: tuple[str, ...]
    ) -> tuple[int, Finish] | None:
        """Where in `segment` a sampler would end now, and why; None after it, or where a limit would cut it."""
        size = len(segment)
        stopped = first_end(stop, segment.token_ids, self.tokenizer) if stop else None
        if stopped is not None and stopped < size:
            return (stopped, "stop") if stopped <= max_tokens else None
        if size > max_tokens:
            return None
        if segment.token_ids[-1] == self.tokenizer.eos_id:
            return size, "eos"
        if stopped is not None:
            return size, "stop"
        if size == max_tokens:
            return size, "length"
        # Out of the model's positions, or of tokens: then nothing came after it, and no more was allowed.
        out = start == max(self._asked.turns) and self._source.stop_reason is StopReason.LENGTH
        return (size, "length") if out and max_tokens <= self._room(start, max_tokens) else None

    def _room(self, start: int, unknown: int) -> int:
        """Tokens that were left at `start`; see `RolloutContext.room`."""
        limit = self._source.sampling.get("max_tokens")
        prompt = sum(len(s) for s in self._asked.pieces if s.role is Role.PROMPT)
        return unknown if limit is None else limit - (start - prompt)

    def _error_then(self, token_ids: npt.NDArray[np.int32]) -> Exception | None:
        """The error that the recorded rollout ended with, when it is asked for the turn that had none."""
        trace = self._source
        at_its_end = any(np.array_equal(token_ids, history.token_ids) for history in self._histories)
        if trace.stop_reason is not StopReason.ERROR or not at_its_end:
            return None
        error = trace.error or ""
        outcomes = [
            v.outcome for v in trace.visits if v.outcome not in _NO_ERROR and error.startswith(v.outcome)
        ]
        return recorded_error(outcomes[-1] if outcomes else error, retried=False)

    def _nearest(self, token_ids: npt.NDArray[np.int32]) -> "_RecordedHistory":
        """The recorded context that shares most with this one."""
        return max(self._histories or [self._asked], key=lambda history: history.shared(token_ids))

    def _where(self) -> str:
        return f"turn {self._turn} of {self._source.trace_id!r}"

    def _difference(self, request: SampleRequest) -> tuple[str, str]:
        """What is asked that was not recorded: in short, and in full."""
        if self.live_from is not None:
            return "policy", "everything is live after the first live turn"
        token_ids, recorded = request.token_ids, self._nearest(request.token_ids)
        here, then, first = len(token_ids), len(recorded.token_ids), recorded.shared(token_ids)
        if first < min(here, then):
            got, was = (self.tokenizer.decode([ids[first]]) for ids in (token_ids, recorded.token_ids))
            at = recorded.producer(first)
            return at, f"token {first} of the context is {got!r}, recorded {was!r} ({at})"
        if here in recorded.turns:
            answer = f"the recorded answer to token {first} ends where it would not end now"
            settings = "another temperature, or other forbidden tokens, than recorded"
            return "sampling", answer if self._same_sampling(request) else settings
        if here >= then:
            return "end", f"the recording ends with token {then - 1}, the context is {here} tokens long"
        at = recorded.producer(first)
        return at, f"the policy is asked at token {first}, where recorded was {at}"


class _RecordedHistory:
    """One context of the recording, and the segments that were sampled in it, by the length of the context before each."""

    def __init__(self, pieces: Sequence[Segment]) -> None:
        self.pieces, self.token_ids = pieces, concatenate(pieces)
        self.turns: dict[int, Segment] = {}
        self.used: set[int] = set()
        starts = accumulate(map(len, pieces), initial=0)
        for start, segment in zip(starts, pieces, strict=False):
            # A segment that is sampled and not trained has another role, and a version.
            if segment.role is Role.POLICY or segment.policy_version is not None:
                self.turns[start] = segment

    def asked_at(self, token_ids: npt.NDArray[np.int32]) -> bool:
        """Was something sampled behind exactly this context?"""
        return len(token_ids) in self.turns and np.array_equal(token_ids, self.token_ids[: len(token_ids)])

    def shared(self, token_ids: npt.NDArray[np.int32]) -> int:
        """How many tokens a context begins with that it was recorded to begin with."""
        size = min(len(token_ids), len(self.token_ids))
        different = np.flatnonzero(token_ids[:size] != self.token_ids[:size])
        return int(different[0]) if different.size else size

    def producer(self, token: int) -> str:
        """The producer of a token, for people."""
        for segment in self.pieces:
            if token < len(segment):
                return {Role.AGENT: f"feedback of {segment.source}", Role.ENV: "notice"}.get(
                    segment.role, segment.role.value
                )
            token -= len(segment)
        return "end"


def _completion(segment: Segment, size: int, finish: Finish, version: int) -> Completion:
    """The first `size` tokens of a segment."""
    assert segment.logprobs is not None, "a policy segment has log-probs, or it is no segment"
    return Completion(
        token_ids=segment.token_ids[:size],
        logprobs=segment.logprobs[:size],
        entropies=None if segment.entropies is None else segment.entropies[:size],
        finish=finish,
        policy_version=version if segment.policy_version is None else segment.policy_version,
    )
