"""Live forks: a recorded rollout up to a request, and from there the policy alone.

Everything before the request's opening tag is recorded, tokens and replies. There the policy goes on with the
consult tags forbidden, in the same graph, and its answer is scored like any other. A fork's `forbidden_ids` are its
source's, which holds for the beginning alone: forks are to be looked at, not learned from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aipo.errors import TraceError, one_of
from aipo.policies import Completion, Policy, SampleRequest, Sampling, Tokenizer
from aipo.render.consults import consultations
from aipo.replay.chat import Asks, Question, replay_chat
from aipo.replay.policy import ReplayPolicy
from aipo.replay.recordings import task_of
from aipo.replay.reuse import Reuse
from aipo.rollout.context import RolloutContext
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.spec import RolloutSpec, derive_seed
from aipo.trace import Call, Role, Trace

Key = tuple[str, int]
"""A trace's id and the number of a consult in it."""


class Alone:
    """A policy that first says again the beginning of a recorded turn, then goes on without asking.

    Implements `aipo.policies.Policy` for what comes after a fork.

    Args:
        live: who goes on.
        head: recorded ids of the turn, up to the request, and what is known of each.
        forbidden_ids: of the consult tags.
    """

    def __init__(self, live: Policy, head: Completion, forbidden_ids: tuple[int, ...]) -> None:
        self.tokenizer = live.tokenizer
        self._live, self._forbidden = live, forbidden_ids
        self._head: Completion | None = head

    @property
    def version(self) -> int:
        return self._live.version

    async def sample(self, request: SampleRequest) -> Completion:
        """See `aipo.policies.Policy.sample`.

        Raises:
            PolicyError: the live policy failed.
        """
        head, self._head = self._head, None
        said = np.empty(0, np.int32) if head is None else head.token_ids
        done = await self._live.sample(
            replace(
                request,
                token_ids=np.concatenate([request.token_ids, said]),
                max_tokens=request.max_tokens - len(said),
                forbidden_ids=tuple(sorted({*request.forbidden_ids, *self._forbidden})),
            )
        )
        return done if head is None or not len(said) else _joined(head, done)


def _joined(head: Completion, done: Completion) -> Completion:
    both = None if head.entropies is None or done.entropies is None else (head.entropies, done.entropies)
    return replace(
        done,
        token_ids=np.concatenate([head.token_ids, done.token_ids]),
        logprobs=np.concatenate([head.logprobs, done.logprobs]),
        entropies=None if both is None else np.concatenate(both),
    )


@dataclass(frozen=True, slots=True)
class _Fork:
    """One rollout from one consult."""

    source: Trace
    key: Key
    spec: RolloutSpec
    policy: ReplayPolicy
    context: Callable[[RolloutContext], RolloutContext]
    request: int
    start: int

    def stamped(self, trace: Trace) -> Trace:
        """The trace, with where it comes from.

        Raises:
            TraceError: it did not come to the request as the recording did, or an agent replied after it.
        """
        if self.policy.live_from != self.request:
            raise TraceError(
                one_of(
                    "fork",
                    self.policy.live_from,
                    f"token {self.request}, before the request",
                    self.source.trace_id,
                )
            )
        later = [c.agent for c in trace.consults[self.key[1] :] if c.reply is not None]
        if later:
            where = f"a fork of {self.source.trace_id}"
            raise TraceError(one_of("replies after the fork", later, "none: the policy goes on alone", where))
        return replace(trace, parent_id=self.source.trace_id, fork_token=self.start)


@dataclass(frozen=True, kw_only=True)
class Forks:
    """Runs forks.

    Args:
        engine: with the graph and the environment.
        live: the policy that goes on.
        tokenizer: the one that the traces were recorded with.
        asks: by agent, what its chat model is asked with; what comes before a request is recorded, so nobody
            needs to answer.
        tag_ids: ids of the consult tags.
        samples: forks of each consult.
        shared: see `aipo.replay.engine.shared_calls`.
    """

    engine: RolloutEngine
    live: Policy
    tokenizer: Tokenizer
    asks: Mapping[str, Asks]
    tag_ids: tuple[int, ...]
    samples: int
    shared: Mapping[Question, Call] = field(default_factory=dict[Question, Call])
    failed: dict[Key, str] = field(default_factory=dict[Key, str])

    def run(
        self, wanted: Sequence[tuple[Trace, int]], on_trace: Callable[[Trace], None]
    ) -> dict[Key, list[Trace]]:
        """Forks of these consults (a trace, and the number of the consult), by trace id and number.

        Those that cannot be forked are in `failed`, with the reason.

        Args:
            on_trace: called with each trace as it ends.
        """
        forks: dict[tuple[str, int], _Fork] = {}
        for trace, number in wanted:
            try:
                made = [self._fork(trace, number, sample) for sample in range(self.samples)]
            except TraceError as error:
                self.failed[trace.trace_id, number] = str(error)
            else:
                forks |= {(fork.spec.group_id, fork.spec.index): fork for fork in made}
        found: dict[Key, list[Trace]] = {}

        def note(trace: Trace) -> None:
            fork = forks[trace.group_id, trace.index]
            try:
                stamped = fork.stamped(trace)
            except TraceError as error:
                self.failed[fork.key] = str(error)
                return
            found.setdefault(fork.key, []).append(stamped)
            on_trace(stamped)

        def adapt(spec: RolloutSpec, context: RolloutContext) -> RolloutContext:
            return forks[spec.group_id, spec.index].context(context)

        replace(self.engine, adapt=adapt).run_sync([fork.spec for fork in forks.values()], note)
        return found

    def _fork(self, trace: Trace, number: int, sample: int) -> _Fork:
        consult = trace.consults[number]
        if consult.request_start is None:
            raise TraceError(
                one_of(
                    "opening tag", "one that shares a token with other text", "one of its own", trace.trace_id
                )
            )
        before, asking = trace.segments[: consult.request_segment], trace.segments[consult.request_segment]
        assert asking.logprobs is not None, "a policy segment has log-probs"
        start = consult.request_start
        head = Completion(
            token_ids=asking.token_ids[:start],
            logprobs=asking.logprobs[:start],
            entropies=None if asking.entropies is None else asking.entropies[:start],
            finish="length",
            policy_version=asking.policy_version or 0,
        )
        reuse = Reuse()
        turns = sum(s.role is Role.POLICY for s in before)
        alone = Alone(self.live, head, self.tag_ids)
        policy = ReplayPolicy(trace, self.tokenizer, alone, turns=turns, reuse=reuse)
        before_it = _until(trace, number)
        chats = {
            agent: replay_chat(agent, before_it, asks, reuse=reuse, shared=self.shared)
            for agent, asks in self.asks.items()
        }

        def context(given: RolloutContext) -> RolloutContext:
            try:
                sampling = Sampling(**trace.sampling)
            except TypeError:
                sampling = given.sampling
            policies = {**given.policies, trace.policy: policy}
            return replace(
                given, policies=policies, chats=chats, sampling=sampling, forbidden_ids=trace.forbidden_ids
            )

        spec = RolloutSpec(
            task=task_of(trace),
            mode=trace.mode,
            group_id=f"{trace.group_id}-{trace.index}-consult-{number}",
            index=sample,
            step=trace.step,
            seed=derive_seed(trace.seed, "fork", number, sample),
        )
        request = sum(map(len, before))
        return _Fork(trace, (trace.trace_id, number), spec, policy, context, request, request + start)


def _until(trace: Trace, number: int) -> Trace:
    """The recording without what ran to answer this consult or came after it: nobody is told that again."""
    answers = [c.visit for c in consultations(trace)[number:] if c.visit is not None]
    first = (
        next((i for i, visit in enumerate(trace.visits) if visit is answers[0]), None) if answers else None
    )
    return replace(trace, visits=trace.visits[:first])
