"""Rows: what a trace gives the trainer.

A row is flat: one array per fact about a token. The segment index lets it be folded back. A trace
gives one row as it was sampled, and a rewarded assisted trace can give one more, *distilled*: its
consults and their replies are cut out of the context and what the policy wrote afterwards is learned
as off-policy tokens. This is what turns "asks itself and answers itself" into "knows".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from aipo.errors import TrainError
from aipo.trace import Role, Segment, Trace, segment


class Code(IntEnum):
    """What the loss does with a token. PROMPT, ENV and CONTEXT never carry a gradient."""

    PROMPT = 0
    POLICY = 1
    AGENT = 2
    ENV = 3
    CONTEXT = 4
    DISTILLED = 5


CODES = {Role.PROMPT: Code.PROMPT, Role.POLICY: Code.POLICY, Role.AGENT: Code.AGENT, Role.ENV: Code.ENV}


class Head(NamedTuple):
    """What a segment says of all its tokens. `known` tells no log-probs from an empty list of them."""

    role: Role
    source: str
    policy: str
    policy_version: int | None
    known: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One sequence to train on; T tokens.

    Args:
        token_ids_T: int32, prompt first.
        codes_T: int8, see `Code`.
        logprobs_T: float32 behaviour log-probs (nats), NaN where unknown.
        segments_T: int32, which of the trace's segments a token is from.
        heads: of the trace's segments.
        policy_tokens, agent_tokens: how many tokens the policy sampled and agents wrote in the trace; what the
            denominators count, so that a distilled row is weighed like the row that it stems from. Those of a
            demonstration count as the policy's: it stands for a rollout.
        forbidden_ids: ids with probability 0, in the trainer's softmax as in the sampler's.

    Raises:
        TrainError: lengths differ, the advantage is not finite, or a policy token has no log-prob.
    """

    trace_id: str
    kind: Literal["sampled", "distilled"]
    token_ids_T: npt.NDArray[np.int32]
    codes_T: npt.NDArray[np.int8]
    logprobs_T: npt.NDArray[np.float32]
    segments_T: npt.NDArray[np.int32]
    heads: tuple[Head, ...] = field(repr=False)
    advantage: float
    policy_tokens: int
    agent_tokens: int
    forbidden_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(a) for a in (self.token_ids_T, self.codes_T, self.logprobs_T, self.segments_T)}
        if len(lengths) != 1:
            raise TrainError(f"arrays of a row: got lengths {lengths}, allowed one, in {self.trace_id!r}")
        if not np.isfinite(self.advantage):
            raise TrainError(
                f"advantage: got {self.advantage}, allowed a finite number, in {self.trace_id!r}"
            )
        if not np.isfinite(self.logprobs_T[self.codes_T == Code.POLICY]).all():
            raise TrainError(f"log-prob of a policy token: got NaN or infinity, in {self.trace_id!r}")

    def __len__(self) -> int:
        return len(self.token_ids_T)

    @property
    def prompt_tokens(self) -> int:
        """How many tokens stand before the first one that is not prompt."""
        after = np.flatnonzero(self.codes_T != Code.PROMPT)
        return int(after[0]) if len(after) else len(self)


def check_known(rows: Iterable[Row]) -> None:
    """Refuses agents' tokens whose own model was never asked how likely they are.

    Raises:
        TrainError: names the agent and the trace.
    """
    for row in rows:
        for head in row.heads if row.kind == "sampled" else ():
            if head.role is Role.AGENT and not head.known:
                raise TrainError(
                    f"log-probs of agent {head.source!r} by its own model: got none, allowed those of every token "
                    f"that it inserted (NaN where unknown) with method.coefficient=ratio, in {row.trace_id!r}"
                )


def rows_of(trace: Trace) -> list[Row]:
    """The trace as it was sampled; no row at all when it has no advantage (a failed rollout)."""
    if trace.advantage is None:
        return []
    return [_row(trace, "sampled", [(i, s, CODES[s.role]) for i, s in enumerate(trace.segments)])]


def segments_of(row: Row) -> tuple[Segment, ...]:
    """The inverse of `rows_of`. Entropies are the one thing that a row does not carry."""
    if row.kind != "sampled":
        raise TrainError(f"row to fold back: got {row.kind!r}, allowed 'sampled', in {row.trace_id!r}")

    def back(index: int, head: Head) -> Segment:
        own = row.segments_T == index
        return segment(
            head.role,
            head.source,
            row.token_ids_T[own],
            logprobs=row.logprobs_T[own] if head.known else None,
            policy_version=head.policy_version,
            policy=head.policy,
        )

    return tuple(back(i, head) for i, head in enumerate(row.heads))


def distillable(trace: Trace) -> bool:
    """Rewarded, with a positive advantage, and helped by an agent."""
    return (
        (trace.advantage or 0.0) > 0
        and (trace.reward or 0.0) > 0
        and any(consult.reply is not None for consult in trace.consults)
    )


def distil(
    trace: Trace, tag_ids: tuple[int, ...], *, suppress: bool = True, prompt: Segment | None = None
) -> Row | None:
    """The trace without its consults, or None when it is not `distillable` or cannot be cut.

    Of every consult, the request (from its opening tag on) and the reply leave the context. What
    precedes the first cut is context, what the policy wrote after it is to be learned. It cannot be
    cut when an opening tag shares a token with other text, when a tag is left over (trained under the
    mask, it would ruin the row), or when nothing follows.

    Args:
        tag_ids: ids of the consult tags.
        suppress: train the row with these ids forbidden. It then teaches what to say when not asking;
            otherwise it also teaches not to ask.
        prompt: replaces the trace's own prompt, when solo rollouts are asked in other words.
    """
    if not distillable(trace) or any(consult.request_start is None for consult in trace.consults):
        return None
    keep = {i: len(s) for i, s in enumerate(trace.segments)}
    for consult in trace.consults:
        keep[consult.request_segment] = min(keep[consult.request_segment], consult.request_start or 0)
        keep[consult.reply_segment] = 0
    first_cut = min(consult.request_segment for consult in trace.consults)

    pieces: list[tuple[int, Segment, Code]] = []
    for i, own in enumerate(trace.segments):
        if own.role is Role.PROMPT:
            pieces.append((i, own if prompt is None or i else prompt, Code.PROMPT))
        elif own.role is Role.POLICY:
            if keep[i]:
                code = Code.DISTILLED if i > first_cut else Code.CONTEXT
                pieces.append((i, _head_of(own, keep[i]), code))
        elif keep[i]:
            return None  # text of an agent or a notice that belongs to no consult
    row = _row(trace, "distilled", pieces, forbidden_ids=tag_ids if suppress else ())
    own_words = row.token_ids_T[row.codes_T != Code.PROMPT]
    if np.isin(own_words, tag_ids).any() or not (row.codes_T == Code.DISTILLED).any():
        return None
    return row


def _head_of(own: Segment, stop: int) -> Segment:
    assert own.logprobs is not None  # a policy segment always has them
    return segment(own.role, own.source, own.token_ids[:stop], logprobs=own.logprobs[:stop])


def _row(
    trace: Trace,
    kind: Literal["sampled", "distilled"],
    pieces: Sequence[tuple[int, Segment, Code]],
    forbidden_ids: tuple[int, ...] | None = None,
) -> Row:
    def join(arrays: list[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype, copy=False)

    def behaviour(piece: Segment, code: Code) -> npt.NDArray[Any]:
        if piece.logprobs is None or code in (Code.CONTEXT, Code.DISTILLED):
            return np.full(len(piece), np.nan)  # sampled in another context, so it is not known in this one
        return piece.logprobs

    assert trace.advantage is not None
    return Row(
        trace_id=trace.trace_id,
        kind=kind,
        token_ids_T=join([piece.token_ids for _, piece, _ in pieces], np.int32),
        codes_T=join([np.full(len(piece), code) for _, piece, code in pieces], np.int8),
        logprobs_T=join([behaviour(piece, code) for _, piece, code in pieces], np.float32),
        segments_T=join([np.full(len(piece), i) for i, piece, _ in pieces], np.int32),
        heads=tuple(
            Head(s.role, s.source, s.policy, s.policy_version, s.logprobs is not None) for s in trace.segments
        ),
        advantage=trace.advantage,
        policy_tokens=trace.count(trace.author),
        agent_tokens=trace.count(Role.AGENT) if trace.author is Role.POLICY else 0,
        forbidden_ids=trace.forbidden_ids if forbidden_ids is None else forbidden_ids,
    )
