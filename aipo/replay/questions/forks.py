"""Live forks: a recorded rollout up to a request, and from there the policy without agents.

Everything before the request's opening tag is recorded, tokens and replies. There the policy continues in the same
graph with the consult tags suppressed, and its answer is scored like any other. A fork has the `forbidden_ids` of its
source, which are wrong for the continuation: forks are to be looked at, not learned from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aipo.errors import TraceError, one_of
from aipo.policies import Completion, Policy, SampleRequest
from aipo.render.consults import consultations
from aipo.replay.engine import Place, Replay, ReplayedRollout, place_of, spec_of
from aipo.replay.policy import ReplayPolicy
from aipo.replay.reuse import Reuse
from aipo.rollout.engine import OnTrace, Progress
from aipo.rollout.spec import derive_seed
from aipo.trace import Trace

Key = tuple[str, int]
"""A trace's id and the number of a consult in it."""


class ForkPolicy:
    """Repeats the beginning of a recorded turn, then samples with the consult tags suppressed.

    Implements `aipo.policies.Policy` for what comes after a fork. `head`: the turn up to the request.
    """

    def __init__(self, live: Policy, head: Completion, forbidden_ids: tuple[int, ...]) -> None:
        self.tokenizer = live.tokenizer
        self._live, self._forbidden = live, forbidden_ids
        self._head: Completion | None = head

    @property
    def version(self) -> int:
        return self._live.version

    async def sample(self, request: SampleRequest) -> Completion:
        """See `aipo.policies.Policy.sample`."""
        head, self._head = self._head, None
        request = replace(request, forbidden_ids=tuple(sorted({*request.forbidden_ids, *self._forbidden})))
        if head is None:
            return await self._live.sample(request)
        context = np.concatenate([request.token_ids, head.token_ids])
        room = request.max_tokens - len(head.token_ids)
        rest = await self._live.sample(replace(request, token_ids=context, max_tokens=room))
        return replace(
            rest,
            token_ids=np.concatenate([head.token_ids, rest.token_ids]),
            logprobs=np.concatenate([head.logprobs, rest.logprobs]),
            entropies=None
            if head.entropies is None or rest.entropies is None
            else np.concatenate([head.entropies, rest.entropies]),
        )


@dataclass(frozen=True, slots=True)
class _ConsultFork:
    """One rollout from one consult.

    Args:
        request: length of the context of the turn that asked.
        start: index of the first token of the request.
    """

    rollout: ReplayedRollout
    policy: ReplayPolicy
    number: int
    request: int
    start: int

    @property
    def key(self) -> Key:
        return self.rollout.source.trace_id, self.number

    def stamped(self, trace: Trace) -> Trace:
        """The trace, with where it comes from.

        Raises:
            TraceError: it did not come to the request as the recording did, or an agent replied after it.
        """
        source = self.rollout.source.trace_id
        if self.policy.live_from != self.request:
            allowed = f"token {self.request}, before the request"
            raise TraceError(one_of("fork", self.policy.live_from, allowed, source))
        if later := [c.agent for c in trace.consults[self.number :] if c.reply is not None]:
            allowed = "none: the policy continues without agents"
            raise TraceError(one_of("replies after the fork", later, allowed, f"a fork of {source}"))
        return replace(trace, parent_id=source, fork_token=self.start)


@dataclass(frozen=True, kw_only=True)
class Forks:
    """Runs forks, `samples` of each consult, which `live` continues without the ids of the consult tags.

    Args:
        replay: of the run; no agent needs to be live, all that is asked before a request is recorded.

    Attributes:
        failed: consults that cannot be forked, and why.
    """

    replay: Replay
    live: Policy
    tag_ids: tuple[int, ...]
    samples: int
    failed: dict[Key, str] = field(default_factory=dict[Key, str])

    def run(
        self,
        consults: Sequence[tuple[Trace, int]],
        on_trace: OnTrace,
        progress: Progress = lambda done, total: None,
    ) -> dict[Key, list[Trace]]:
        """Forks of these consults (a trace, and the number of the consult), by trace id and number.

        Args:
            on_trace: called with each trace as it ends.
        """
        forks: dict[Place, _ConsultFork] = {}
        for trace, number in consults:
            try:
                of_consult = [self._fork(trace, number, sample) for sample in range(self.samples)]
            except TraceError as error:
                self.failed[trace.trace_id, number] = str(error)
            else:
                forks |= {place_of(fork.rollout.spec): fork for fork in of_consult}
        traces: dict[Key, list[Trace]] = {}

        def note(trace: Trace) -> None:
            fork = forks[place_of(trace)]
            try:
                stamped = fork.stamped(trace)
            except TraceError as error:
                self.failed[fork.key] = str(error)
                return
            traces.setdefault(fork.key, []).append(stamped)
            on_trace(stamped)

        self.replay.run_rollouts({place: fork.rollout for place, fork in forks.items()}, note, progress)
        return {key: sorted(of_consult, key=lambda t: t.index) for key, of_consult in traces.items()}

    def _fork(self, trace: Trace, number: int, sample: int) -> _ConsultFork:
        consult = trace.consults[number]
        start = consult.request_start
        if start is None:
            shared = "one that shares a token with other text"
            raise TraceError(one_of("opening tag", shared, "one of its own", trace.trace_id))
        before, asking = _until(trace, number), trace.segments[consult.request_segment]
        assert asking.logprobs is not None, "a policy segment has log-probs"
        head = Completion(
            token_ids=asking.token_ids[:start],
            logprobs=asking.logprobs[:start],
            entropies=None if asking.entropies is None else asking.entropies[:start],
            finish="length",
            policy_version=asking.policy_version or 0,
        )
        reuse, live = Reuse(), ForkPolicy(self.live, head, self.tag_ids)
        policy = ReplayPolicy(before, self.replay.tokenizer_of(trace.policy), live, reuse=reuse)
        spec = replace(
            spec_of(trace),
            group_id=f"{trace.group_id}-{trace.index}-consult-{number}",
            index=sample,
            seed=derive_seed(trace.seed, "fork", number, sample),
        )
        chats = self.replay.chats(before, reuse)
        rollout = ReplayedRollout({trace.policy: trace}, spec, {trace.policy: policy}, chats, reuse)
        request = len(before.token_ids)
        return _ConsultFork(rollout, policy, number, request, request + start)


def _until(trace: Trace, number: int) -> Trace:
    """The recording up to the turn that asked, without the visits that answered this consult or came after it."""
    answer = next((c.visit for c in consultations(trace)[number:] if c.visit is not None), None)
    first = next((i for i, visit in enumerate(trace.visits) if visit is answer), None)
    segments, consults = trace.segments[: trace.consults[number].request_segment], trace.consults[:number]
    return replace(trace, segments=segments, consults=consults, visits=trace.visits[:first])
