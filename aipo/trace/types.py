"""The trace: what happened in one rollout, token by token.

A graph's state *is* the trace: segments are appended while the graph runs and nothing is ever
decoded and encoded again, so the concatenated segments are exactly the ids that the policy saw and
sampled. Whoever produced a segment sets its role; the text never does. All nouns are frozen.

Nothing heavy is imported here: the store, the viewer and `aipo --help` all read traces.
"""

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import TypeAdapter, ValidationError, with_config

from aipo.errors import TraceError
from aipo.trace.arrays import ByValue
from aipo.trace.segment import SCHEMA, Consult, Role, Segment, concatenate
from aipo.util.http.reply import is_cut
from aipo.util.text import error_text, fits_json, parse_line, to_json

SCHEMA_VERSION = 1


class Mode(StrEnum):
    """The mode of a rollout. In `expert` a demonstration replaces the policy's tokens; in `text` they are characters."""

    ASSISTED = "assisted"
    SOLO = "solo"
    EXPERT = "expert"
    REPLAY = "replay"
    TEXT = "text"

    @property
    def author(self) -> Role:
        """The role whose tokens are the answer: the policy, or who stood in for it."""
        return Role.AGENT if self in (Mode.EXPERT, Mode.TEXT) else Role.POLICY


class StopReason(StrEnum):
    """The reason why a rollout ended. The last four are failures: no reward, no gradient."""

    EOS = "eos"
    LENGTH = "length"
    UNSCORED = "unscored"
    ERROR = "error"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"

    @property
    def failed(self) -> bool:
        return self not in (StopReason.EOS, StopReason.LENGTH)


@with_config(SCHEMA)
@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One chat-model call inside an agent. Times are seconds since the rollout began. `reply` is the answer without
    `thinking`; `finish` says why it ended, in its server's word."""

    agent: str
    visit: str
    model: str
    messages: tuple[dict[str, str], ...]
    reply: str | None
    settings: dict[str, Any] = field(default_factory=dict)
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    attempts: int = 1
    started: float
    seconds: float
    cached: bool = False
    error: str | None = None
    thinking: str | None = None
    finish: str | None = None

    @property
    def cut(self) -> bool:
        """Did a limit on its tokens end the reply?"""
        return is_cut(self.finish)

    @property
    def silent(self) -> str | None:
        """Why a call that did not fail has no answer; None where it has one."""
        if self.reply is None or self.reply.strip():
            return None
        said = "no text" if self.thinking is None else f"only thinking ({len(self.thinking)} characters)"
        limit = f", cut by its server (finish_reason {self.finish})" if self.cut else ""
        return f"{self.model} wrote {said}{limit}"


@with_config(SCHEMA)
@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One execution of a node. `path` nests by slashes; times are seconds since the rollout began. Those of the rollout that
    a trace was forked from began before it: below 0."""

    path: str
    started: float
    seconds: float | None
    outcome: str
    calls: tuple[Call, ...] = ()


@with_config(SCHEMA)
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace(ByValue):
    """One rollout of one policy.

    `reward` is the weighted sum of `reward_parts`; None means never scored, which is not 0.0. `reason` is what the
    environment says of its verdict.
    `advantage` is set by `aipo.method.credit` and stays None for a failed rollout. Times are in seconds:
    `started` since 1970, `seconds` the rollout's own. A rollout that was forked from another one of its group shares the
    first `fork_token` tokens with `parent_id`, whose they are; see `own`. A replay's parent is the trace that it replays,
    and `fork_token` the first token that was not reused.

    Raises:
        TraceError: a reward, a part of it or an advantage is not finite, or a failed rollout has one.
    """

    trace_id: str
    run_id: str
    group_id: str
    task_id: str
    step: int
    index: int
    mode: Mode
    policy: str = "policy"
    parent_id: str | None = None
    fork_token: int | None = None
    task: dict[str, Any]
    seed: int
    sampling: dict[str, Any]
    forbidden_ids: tuple[int, ...] = ()
    segments: tuple[Segment, ...]
    consults: tuple[Consult, ...] = ()
    visits: tuple[Visit, ...] = ()
    reward_parts: dict[str, float] = field(default_factory=dict)
    reward: float | None = None
    reason: str | None = None
    advantage: float | None = None
    stop_reason: StopReason
    error: str | None = None
    policy_version: int | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    started: float = 0.0
    seconds: float = 0.0
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        numbers = [*self.reward_parts.items(), ("reward", self.reward), ("advantage", self.advantage)]
        for name, value in numbers:
            if value is not None and not math.isfinite(value):
                raise TraceError(f"{name} of {self.trace_id!r}: got {value}, allowed a finite number")
        if self.failed and (self.reward is not None or self.advantage is not None):
            raise TraceError(
                f"failed rollout {self.trace_id!r} ({self.stop_reason}): got reward {self.reward} "
                f"and advantage {self.advantage}, allowed None"
            )

    @property
    def failed(self) -> bool:
        return self.stop_reason.failed

    @property
    def taught(self) -> bool:
        """Did a teacher write in the policy's place?"""
        return any(part.role is Role.TEACHER for part in self.segments)

    @property
    def kind(self) -> str:
        """The mode, or `taught`; `suppressed` is a solo rollout that was sampled with the consult tags masked."""
        suppressed = self.mode is Mode.SOLO and bool(self.forbidden_ids)
        return "taught" if self.taught else "suppressed" if suppressed else str(self.mode)

    @property
    def author(self) -> Role:
        return Role.TEACHER if self.taught else self.mode.author

    @property
    def grant(self) -> float:
        """The probability with which its requests were granted."""
        return self.sampling.get("grant", 1.0)

    @property
    def forked(self) -> bool:
        """Was it forked from another rollout of its group? (A replay's parent is of another run, or has its own name.)"""
        place = f"{self.run_id}/{self.group_id}/"
        return self.parent_id != self.trace_id and (self.parent_id or "").startswith(place)

    @property
    def own(self) -> Self:
        """The trace without what it shares with its parent: what counts where rollouts are summed up. A trace that was not
        forked is its own."""
        if not self.forked:
            return self
        shared = self._shared_segments
        consults = (
            replace(c, request_segment=c.request_segment - shared, reply_segment=c.reply_segment - shared)
            for c in self.consults[self.shared_consults :]
        )
        visits = tuple(visit for visit in self.visits if visit.started >= 0)
        return replace(self, segments=self.segments[shared:], consults=tuple(consults), visits=visits)

    @property
    def shared_consults(self) -> int:
        """How many of its first consults are its parent's."""
        return sum(c.reply_segment < self._shared_segments for c in self.consults)

    @property
    def _shared_segments(self) -> int:
        ends = np.cumsum([len(s) for s in self.segments])
        return int(np.searchsorted(ends, self.fork_token or 0, side="right")) if self.forked else 0

    def advantage_of(self, segment: Segment) -> float | None:
        """The advantage of the tokens of one of its segments."""
        return self.advantage if segment.advantage is None else segment.advantage

    @property
    def token_ids(self) -> npt.NDArray[np.int32]:
        """Every id of the context, in order; shape (T,)."""
        return concatenate(self.segments)

    def count(self, role: Role) -> int:
        """Number of tokens that `role` produced."""
        return sum(len(s) for s in self.segments if s.role is role)

    def writable(self) -> Self:
        """Itself; or, when JSON cannot hold it, a failed trace without the fields that are to blame."""
        try:
            self.to_json()
        except TraceError as error:
            lost = {name: empty for name, empty in _LOSABLE.items() if not fits_json(getattr(self, name))}
            failed = {"stop_reason": StopReason.ERROR, "error": error_text(error)}
            return replace(self, **lost, **failed, reward_parts={}, reward=None, advantage=None)
        return self

    def to_json(self) -> bytes:
        """One line of JSON, without the line end. float32 values survive exactly.

        Raises:
            TraceError: the task's metadata or a text holds something that JSON cannot.
        """
        try:
            return to_json(self)
        except orjson.JSONEncodeError as error:
            raise TraceError(f"trace {self.trace_id!r} of task {self.task_id!r}: {error}") from error

    @classmethod
    def from_json(cls, line: bytes | str, where: str = "a trace") -> "Trace":
        """The inverse of `to_json`.

        Raises:
            TraceError: not JSON, or see `from_raw`; names `where`.
        """
        return cls.from_raw(parse_line(line, where), where)

    @classmethod
    def from_raw(cls, raw: object, where: str = "a trace") -> "Trace":
        """From what JSON holds, parsed.

        Raises:
            TraceError: another schema version, or fields that do not fit; names `where`.
        """
        if (version := raw.get("schema_version") if isinstance(raw, dict) else None) != SCHEMA_VERSION:
            raise TraceError(f"schema version of {where}: got {version!r}, allowed {SCHEMA_VERSION}")
        try:
            return _adapter().validate_python(raw)
        except ValidationError as error:
            raise TraceError(f"{where} does not fit the schema: {error}") from error


# What a graph, an agent or an environment can fill with anything.
_LOSABLE: dict[str, Any] = {"task": {}, "segments": (), "consults": (), "visits": ()}


@cache
def _adapter() -> TypeAdapter[Trace]:
    return TypeAdapter(Trace)
