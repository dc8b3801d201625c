"""Rows: the training sequences of a trace.

A row is flat: one array per fact about a token, with the index of the token's segment. A trace gives one row as it was
sampled, or one for each of its histories. A rewarded assisted trace can give one more, a *distilled* row (context
distillation): its consults and their replies are cut out of the context, and what the policy wrote afterwards is learned
as off-policy tokens. The policy then learns to answer without the help, and not only to ask itself and answer itself.

Solo rollouts may have another prompt than assisted ones. What an agent says is then needed under the solo prompt. With
`method.agent_prompt=solo` an assisted trace gives its row as sampled, in which agents' tokens are context, and an
*exchanged* row: the same behind the solo prompt, in which only agents' tokens are learned.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aipo.errors import TrainError
from aipo.policies.tags import Tags
from aipo.trace import Role, Segment, Trace, segment
from aipo.trace.token_stats import RowKind


class Code(IntEnum):
    """The treatment of a token by the loss. PROMPT, ENV and CONTEXT never carry a gradient."""

    PROMPT = 0
    POLICY = 1
    AGENT = 2
    ENV = 3
    CONTEXT = 4
    DISTILLED = 5
    REHEARSED = 6


CODES = {Role.PROMPT: Code.PROMPT, Role.POLICY: Code.POLICY, Role.AGENT: Code.AGENT, Role.ENV: Code.ENV}
TAUGHT_CODES = {**CODES, Role.TEACHER: Code.AGENT, Role.AGENT: Code.CONTEXT}
"""In a rollout that a teacher wrote, its tokens have the coefficient of agents' tokens; what agents said is context."""


class SegmentInfo(NamedTuple):
    """Facts of a trace's segment. `has_logprobs` is False where its log-probs were not recorded at all; `advantage` is None
    where it is the trace's."""

    role: Role
    source: str
    has_logprobs: bool
    advantage: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One sequence to train on; T tokens.

    Args:
        token_ids_T: int32, prompt first.
        codes_T: int8, see `Code`.
        behaviour_logprobs_T: float32, log-probs (nats) by the sampler, or by an agent's own model; NaN where unknown.
        segments_T: int32, index of the token's segment in the trace.
        segments: facts of the trace's segments.
        advantage: the trace's; see `advantages_T`.
        policy_tokens, agent_tokens: token counts of the *source trace*. Loss denominators use them, so a distilled or
            an exchanged row weighs as much as its source, and each of several histories its share of one rollout. A
            demonstration's tokens count as policy tokens.
        forbidden_ids: ids with probability 0, in the trainer's softmax as in the sampler's.
        factors_T: float32, by which the advantages are multiplied; None = 1.
        counts: whether totals count its trace by it; of several histories, the first row does.

    Raises:
        TrainError: lengths differ, the advantage is not finite, or a policy token has no log-prob.
    """

    trace_id: str
    kind: RowKind
    token_ids_T: npt.NDArray[np.int32]
    codes_T: npt.NDArray[np.int8]
    behaviour_logprobs_T: npt.NDArray[np.float32]
    segments_T: npt.NDArray[np.int32]
    segments: tuple[SegmentInfo, ...] = field(repr=False)
    advantage: float
    policy_tokens: int
    agent_tokens: int
    forbidden_ids: tuple[int, ...] = ()
    factors_T: npt.NDArray[np.float32] | None = None
    counts: bool = True

    def __post_init__(self) -> None:
        lengths = {
            len(a) for a in (self.token_ids_T, self.codes_T, self.behaviour_logprobs_T, self.segments_T)
        }
        if len(lengths) != 1:
            raise TrainError(f"arrays of a row: got lengths {lengths}, allowed one, in {self.trace_id!r}")
        if not np.isfinite(self.advantage):  # a segment's own is finite
            raise TrainError(
                f"advantage: got {self.advantage}, allowed a finite number, in {self.trace_id!r}"
            )
        if not np.isfinite(self.behaviour_logprobs_T[self.codes_T == Code.POLICY]).all():
            raise TrainError(f"log-prob of a policy token: got NaN or infinity, in {self.trace_id!r}")

    def __len__(self) -> int:
        return len(self.token_ids_T)

    @property
    def advantages_T(self) -> npt.NDArray[np.float32]:
        """The advantage of each token: its segment's, where that has one of its own, else the trace's; times its factor."""
        if all(one.advantage is None for one in self.segments):
            advantages_T = np.full(len(self), self.advantage, np.float32)
        else:
            of_segments = [
                self.advantage if one.advantage is None else one.advantage for one in self.segments
            ]
            advantages_T = np.array(of_segments, np.float32)[self.segments_T]
        return advantages_T if self.factors_T is None else advantages_T * self.factors_T

    @property
    def agents(self) -> set[str]:
        """Agents with tokens that can be learned."""
        return {self.segments[i].source for i in np.unique(self.segments_T[self.codes_T == Code.AGENT])}

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens before the first one that is not prompt."""
        after = np.flatnonzero(self.codes_T != Code.PROMPT)
        return int(after[0]) if len(after) else len(self)


def check_agent_logprobs(rows: Iterable[Row], needed: Callable[[str], bool]) -> None:
    """Refuses agents' tokens without recorded log-probs of their own model.

    Args:
        needed: whether they are needed of an agent.

    Raises:
        TrainError: names the agent and the trace.
    """
    for row in rows:
        for one in row.segments if row.kind != "distilled" else ():
            if one.role is Role.AGENT and not one.has_logprobs and needed(one.source):
                raise TrainError(
                    f"log-probs of agent {one.source!r} by its own model: got none, allowed those of every token that it "
                    "inserted (NaN where unknown) with method.coefficient=ratio or a function that needs μ, in "
                    f"{row.trace_id!r}"
                )


def rows_of(trace: Trace) -> list[Row]:
    """The trace as it was sampled, one row for each history in which something is learned; no row when it has no advantage
    (a failed rollout). A teacher's request of a wrong form is context."""
    if trace.advantage is None:
        return []
    misformed = [consult.request_segment for consult in trace.consults if consult.misformed]
    codes, unlearned = (TAUGHT_CODES, misformed) if trace.taught else (CODES, ())
    numbers = [*dict.fromkeys(part.history for part in trace.segments)]
    if len(numbers) < 2:
        return [_uncut(trace, "sampled", trace.segments, codes, unlearned)]
    rows = [_uncut(trace, "sampled", trace.segments, codes, unlearned, history=number) for number in numbers]
    learned = [row for row in rows if np.isin(row.codes_T, (Code.POLICY, Code.AGENT)).any()]
    return [replace(row, counts=place == 0) for place, row in enumerate(learned)]


def exchange_prompt(trace: Trace, prompt: Segment) -> list[Row]:
    """Two rows of a trace that has an advantage: as sampled, with agents' tokens as context; and behind `prompt`
    instead of its own, with the policy's tokens as context, because they were sampled behind another prompt. If the
    prompts are equal, or a teacher wrote the trace, it is the row as sampled."""
    if trace.taught or np.array_equal(prompt.token_ids, trace.segments[0].token_ids):
        return rows_of(trace)
    policy_only, agents_only = CODES | {Role.AGENT: Code.CONTEXT}, CODES | {Role.POLICY: Code.CONTEXT}
    return [
        _uncut(trace, "sampled", trace.segments, policy_only),
        _uncut(trace, "exchanged", (prompt, *trace.segments[1:]), agents_only),
    ]


def _uncut(
    trace: Trace,
    kind: RowKind,
    segments: Sequence[Segment],
    codes: Mapping[Role, Code],
    unlearned: Sequence[int] = (),
    history: int | None = None,
) -> Row:
    """A row of whole segments, all or those of one history; `unlearned` are places of some that are context whatever their
    role."""
    coded = [(i, s) for i, s in enumerate(segments) if history in (None, s.history)]
    return _row(trace, kind, [(i, s, Code.CONTEXT if i in unlearned else codes[s.role]) for i, s in coded])


def distillable(trace: Trace) -> bool:
    """Rewarded, with a positive advantage, written by the policy, and helped by an agent."""
    return (
        not trace.taught
        and (trace.advantage or 0.0) > 0
        and (trace.reward or 0.0) > 0
        and any(consult.reply is not None for consult in trace.consults)
    )


def distil(trace: Trace, tags: Tags, *, suppress: bool = True, prompt: Segment | None = None) -> Row | None:
    """The trace without its consults, or None when it is not `distillable` or cannot be cut.

    Of every consult, the request (from its opening tag on) and the reply leave the context. What precedes the first
    cut is context; what the policy wrote after it is learned. Where an opening tag shares a token with the text before
    it, that text is encoded by itself. A trace cannot be cut when a request has no opening tag, when a tag remains,
    whichever tokens spell it (it would be learned, or its probability is 0 under the mask), or when nothing follows.

    Args:
        tags: the consult tags.
        suppress: train the row with their ids masked. It then teaches what to write when not asking; otherwise it also
            teaches not to ask.
        prompt: replaces the trace's own prompt, where solo rollouts have another one.
    """
    if not distillable(trace):
        return None
    kept = {i: s.token_ids for i, s in enumerate(trace.segments)}
    for consult in trace.consults:
        asking = kept[consult.request_segment]
        head = tags.before(asking) if consult.request_start is None else asking[: consult.request_start]
        if head is None:
            return None
        kept[consult.request_segment], kept[consult.reply_segment] = head, head[:0]
    first_cut = min(consult.request_segment for consult in trace.consults)

    pieces: list[tuple[int, Segment, Code]] = []
    for i, part in enumerate(trace.segments):
        if part.role is Role.PROMPT:
            pieces.append((i, part if prompt is None or i else prompt, Code.PROMPT))
        elif part.role is Role.POLICY:
            if len(kept[i]):
                code = Code.DISTILLED if i > first_cut else Code.CONTEXT
                pieces.append((i, _with_tokens(part, kept[i]), code))
        elif len(kept[i]):
            return None  # text of an agent or a notice that belongs to no consult
    row = _row(trace, "distilled", pieces, forbidden_ids=tags.ids if suppress else ())
    written = row.token_ids_T[row.codes_T != Code.PROMPT]
    if tags.are_in(written) or not (row.codes_T == Code.DISTILLED).any():
        return None
    return row


def _with_tokens(part: Segment, token_ids: npt.NDArray[np.int32]) -> Segment:
    assert part.logprobs is not None  # a policy segment always has them
    return segment(part.role, part.source, token_ids, logprobs=part.logprobs[: len(token_ids)])


def _row(
    trace: Trace,
    kind: RowKind,
    pieces: Sequence[tuple[int, Segment, Code]],
    forbidden_ids: tuple[int, ...] | None = None,
) -> Row:
    def join(arrays: list[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype, copy=False)

    def behaviour(piece: Segment, code: Code) -> npt.NDArray[Any]:
        if piece.logprobs is None or code in (Code.CONTEXT, Code.DISTILLED):
            return np.full(len(piece), np.nan)  # sampled in another context, so unknown in this one
        return piece.logprobs

    assert trace.advantage is not None
    return Row(
        trace_id=trace.trace_id,
        kind=kind,
        token_ids_T=join([piece.token_ids for _, piece, _ in pieces], np.int32),
        codes_T=join([np.full(len(piece), code) for _, piece, code in pieces], np.int8),
        behaviour_logprobs_T=join([behaviour(piece, code) for _, piece, code in pieces], np.float32),
        segments_T=join([np.full(len(piece), i) for i, piece, _ in pieces], np.int32),
        segments=tuple(
            SegmentInfo(s.role, s.source, s.logprobs is not None, s.advantage) for s in trace.segments
        ),
        advantage=trace.advantage,
        policy_tokens=trace.count(trace.author),
        agent_tokens=trace.count(Role.AGENT) if trace.author is Role.POLICY else 0,
        forbidden_ids=trace.forbidden_ids if forbidden_ids is None else forbidden_ids,
    )
