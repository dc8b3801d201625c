"""A segment: a run of tokens with one producer; the context that segments add up to, and a consult, which two of them are."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, with_config

from aipo.errors import TraceError
from aipo.trace.arrays import ByValue, Float32, Int32, frozen

SCHEMA = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
HIGHEST_LOGPROB = 1e-3
"""Rounding may lift the log-probability of a sure thing a little above 0."""


class Role(StrEnum):
    """The producer of a segment. A teacher writes in the policy's place; see `aipo.warmup`."""

    PROMPT = "prompt"
    POLICY = "policy"
    AGENT = "agent"
    ENV = "env"
    TEACHER = "teacher"


REPLIES = (Role.AGENT, Role.ENV)
"""The producers of what a policy is told in the middle of a rollout."""


@with_config(SCHEMA)
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment(ByValue):
    """A run of tokens with one producer.

    Args:
        role: who produced the tokens.
        source: the node or agent that did (`policy`, `knowledge`, ...).
        token_ids: int32 ids, never empty for the policy.
        logprobs: behaviour log-probabilities (nats) of exactly these ids, one each; None = unknown. Of an
            agent: by its own model; NaN where that did not say these very ids (the tags around them).
        entropies: entropies (nats) of the distributions they were sampled from, or None. Estimates, never too large, where
            the trace's sampling settings have `top_logprobs`.
        policy_version: number of optimizer steps behind the weights that sampled, or None.
        policy: whose context the segment belongs to; one graph run may carry several contexts.
        history: number of the context, where a policy has several in one rollout: each begins with a prompt of its own.
        advantage: of its tokens, where `aipo.method.credit` gave them another one than the trace's (hard attribution).

    Raises:
        TraceError: lengths differ, a log-probability is not finite or positive, an entropy or the advantage is not
            finite, or a policy segment is empty or has no log-probabilities.
    """

    role: Role
    source: str
    token_ids: Int32
    logprobs: Float32 | None = None
    entropies: Float32 | None = None
    policy_version: int | None = None
    policy: str = "policy"
    advantage: float | None = None
    history: int = 0

    def __post_init__(self) -> None:
        where = f"a {self.role} segment from {self.source!r}"
        if self.advantage is not None and not math.isfinite(self.advantage):
            raise TraceError(f"advantage of {where}: got {self.advantage}, allowed a finite number")
        for name in ("logprobs", "entropies"):
            if (values := getattr(self, name)) is None:
                continue
            if len(values) != len(self.token_ids):
                raise TraceError(
                    f"{name} of {where}: got {len(values)} values, allowed one for each of {len(self.token_ids)} tokens"
                )
            unknown = np.isnan(values) & (name == "logprobs" and self.role is Role.AGENT)
            wrong = values[~np.isfinite(values) & ~unknown]
            if wrong.size:
                raise TraceError(f"{name} of {where}: got {wrong[0]}, allowed finite numbers")
        if self.logprobs is not None and (self.logprobs > HIGHEST_LOGPROB).any():
            raise TraceError(f"log-probability in {where}: got {self.logprobs.max()}, allowed <= 0")
        if self.role is Role.POLICY and not len(self.token_ids):
            raise TraceError(f"{where}: got no token, allowed at least one")
        if self.role is Role.POLICY and self.logprobs is None:
            raise TraceError(f"{where}: got no log-probabilities, allowed one per token")

    def __len__(self) -> int:
        return len(self.token_ids)


class Fault(StrEnum):
    """The reason why a consult got a notice instead of feedback. Only `unavailable` is the agent's own failure; only
    `declined` was drawn by lot (`method.grant_steps`)."""

    MALFORMED = "malformed"
    NESTED = "nested"
    UNCLOSED = "unclosed"
    EMPTY = "empty"
    UNKNOWN = "unknown"
    SPENT = "spent"
    EXHAUSTED = "exhausted"
    UNAVAILABLE = "unavailable"
    DECLINED = "declined"


MISFORMED = (Fault.MALFORMED, Fault.NESTED, Fault.UNCLOSED, Fault.EMPTY, Fault.UNKNOWN)
"""Faults of the request itself."""


@with_config(SCHEMA)
@dataclass(frozen=True, slots=True, kw_only=True)
class Consult:
    """One request to an agent, with its reply or error.

    Args:
        agent: the name that the policy asked for, known or not.
        request: text between the tags, None when the request was never closed.
        reply: text that was spliced in, None when the agent gave none.
        error: why there was no reply, or why it was changed; None when all went well.
        request_segment: index (within this policy's segments) of the segment that asked.
        request_start: index, in that segment, of the first token of the opening tag; None when the
            tag shares a token with other text, so that it cannot be cut out.
        reply_segment: index of the segment that answered (agent feedback or an env notice).
        policy: whose context the consult belongs to.
        fault: why a notice answered; None where the agent did, and in traces of before it was recorded.
    """

    agent: str
    request: str | None
    reply: str | None
    error: str | None = None
    request_segment: int
    request_start: int | None
    reply_segment: int
    policy: str = "policy"
    fault: Fault | None = None

    @property
    def reached(self) -> bool:
        """Did the request come to an agent?"""
        return self.fault in (None, Fault.UNAVAILABLE)

    @property
    def misformed(self) -> bool:
        """Was the request itself wrong: its tags, its agent's name, or nothing in it?"""
        return self.fault in MISFORMED

    @property
    def failed(self) -> bool:
        """Did the agent itself fail?"""
        return self.fault is Fault.UNAVAILABLE


def concatenate(segments: Iterable[Segment]) -> npt.NDArray[np.int32]:
    """Ids of `segments` in order; shape (T,)."""
    parts = [s.token_ids for s in segments]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def of_policy(segments: Sequence[Segment], policy: str) -> tuple[Segment, ...]:
    """The context of one policy out of a graph's segments."""
    return tuple(s for s in segments if s.policy == policy)


def histories(segments: Iterable[Segment]) -> tuple[tuple[Segment, ...], ...]:
    """The contexts of one policy, each by itself, in the order in which they begin."""
    by_number: dict[int, list[Segment]] = {}
    for piece in segments:
        by_number.setdefault(piece.history, []).append(piece)
    return tuple(map(tuple, by_number.values()))


def turns_behind_replies(segments: Sequence[Segment]) -> list[int]:
    """Indices of the policy's segments right behind what an agent or the machinery told it: where a rollout can be
    forked."""
    return [
        i
        for i, (before, piece) in enumerate(pairwise(segments), start=1)
        if piece.role is Role.POLICY and before.role in REPLIES
    ]


def segment(
    role: Role, source: str, token_ids: Sequence[int] | npt.NDArray[np.int32], **rest: Any
) -> Segment:
    """A segment from plain lists; converts and freezes the arrays."""
    arrays = {
        name: frozen(rest.pop(name), np.float32)
        for name in ("logprobs", "entropies")
        if rest.get(name) is not None
    }
    return Segment(role=role, source=source, token_ids=frozen(token_ids, np.int32), **arrays, **rest)
