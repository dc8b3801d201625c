"""Live forks: a recorded rollout up to a request, and from there the policy without agents.

Everything before the request's opening tag is recorded, tokens and replies. There the policy continues in the same
graph with the consult tags suppressed, and its answer is scored like any other. A fork has the `forbidden_ids` of its
source, which are wrong for the continuation: forks are to be looked at, not learned from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aipo.errors import TraceError, one_of
from aipo.policies import Completion, Policy, SampleRequest
from aipo.render.consults import consultations
from aipo.replay.chat import replay_chat
from aipo.replay.engine import Replay, recorded_sampling
from aipo.replay.policy import ReplayPolicy
from aipo.replay.recordings import task_of
from aipo.replay.reuse import Reuse
from aipo.rollout.context import ChatModel, RolloutContext
from aipo.rollout.spec import RolloutSpec, derive_seed
from aipo.trace import Role, Trace

Key = tuple[str, int]
"""A trace's id and the number of a consult in it."""


class ForkPolicy:
    """Repeats the beginning of a recorded turn, then samples with the consult tags suppressed.

    Implements `aipo.policies.Policy` for what comes after a fork.

    Args:
        live: samples.
        head: recorded ids of the turn, up to the request, with their log-probs.
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
        head_ids = np.empty(0, np.int32) if head is None else head.token_ids
        completion = await self._live.sample(
            replace(
                request,
                token_ids=np.concatenate([request.token_ids, head_ids]),
                max_tokens=request.max_tokens - len(head_ids),
                forbidden_ids=tuple(sorted({*request.forbidden_ids, *self._forbidden})),
            )
        )
        return completion if head is None or not len(head_ids) else _joined(head, completion)


def _joined(head: Completion, rest: Completion) -> Completion:
    both = None if head.entropies is None or rest.entropies is None else (head.entropies, rest.entropies)
    return replace(
        rest,
        token_ids=np.concatenate([head.token_ids, rest.token_ids]),
        logprobs=np.concatenate([head.logprobs, rest.logprobs]),
        entropies=None if both is None else np.concatenate(both),
    )


@dataclass(frozen=True, slots=True)
class _Fork:
    """One rollout from one consult; `request` is the length of the context of the turn that asked."""

    source: Trace
    key: Key
    spec: RolloutSpec
    policy: ReplayPolicy
    chats: Mapping[str, ChatModel]
    request: int
    start: int

    def adapt(self, live: RolloutContext) -> RolloutContext:
        return replace(
            live,
            policies={**live.policies, self.source.policy: self.policy},
            chats=self.chats,
            sampling=recorded_sampling(self.source, live.sampling),
            forbidden_ids=self.source.forbidden_ids,
        )

    def stamped(self, trace: Trace) -> Trace:
        """The trace, with where it comes from.

        Raises:
            TraceError: it did not come to the request as the recording did, or an agent replied after it.
        """
        source = self.source.trace_id
        if self.policy.live_from != self.request:
            allowed = f"token {self.request}, before the request"
            raise TraceError(one_of("fork", self.policy.live_from, allowed, source))
        if later := [c.agent for c in trace.consults[self.key[1] :] if c.reply is not None]:
            allowed = "none: the policy continues without agents"
            raise TraceError(one_of("replies after the fork", later, allowed, f"a fork of {source}"))
        return replace(trace, parent_id=source, fork_token=self.start)


@dataclass(frozen=True, kw_only=True)
class Forks:
    """Runs forks.

    Args:
        replay: of the run; no agent needs to be live, all that is asked before a request is recorded.
        live: the policy that continues.
        tag_ids: ids of the consult tags.
        samples: forks of each consult.
    """

    replay: Replay
    live: Policy
    tag_ids: tuple[int, ...]
    samples: int
    failed: dict[Key, str] = field(default_factory=dict[Key, str])

    def run(
        self, consults: Sequence[tuple[Trace, int]], on_trace: Callable[[Trace], None]
    ) -> dict[Key, list[Trace]]:
        """Forks of these consults (a trace, and the number of the consult), by trace id and number.

        Those that cannot be forked are in `failed`, with the reason.

        Args:
            on_trace: called with each trace as it ends.
        """
        forks: dict[tuple[str, int], _Fork] = {}
        for trace, number in consults:
            try:
                of_consult = [self._fork(trace, number, sample) for sample in range(self.samples)]
            except TraceError as error:
                self.failed[trace.trace_id, number] = str(error)
            else:
                forks |= {(fork.spec.group_id, fork.spec.index): fork for fork in of_consult}
        traces: dict[Key, list[Trace]] = {}

        def note(trace: Trace) -> None:
            fork = forks[trace.group_id, trace.index]
            try:
                stamped = fork.stamped(trace)
            except TraceError as error:
                self.failed[fork.key] = str(error)
                return
            traces.setdefault(fork.key, []).append(stamped)
            on_trace(stamped)

        def adapt(spec: RolloutSpec, context: RolloutContext) -> RolloutContext:
            return forks[spec.group_id, spec.index].adapt(context)

        replace(self.replay.engine, adapt=adapt).run_sync([fork.spec for fork in forks.values()], note)
        return traces

    def _fork(self, trace: Trace, number: int, sample: int) -> _Fork:
        consult = trace.consults[number]
        if consult.request_start is None:
            allowed = "one of its own"
            raise TraceError(
                one_of("opening tag", "one that shares a token with other text", allowed, trace.trace_id)
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
        live = ForkPolicy(self.live, head, self.tag_ids)
        policy = ReplayPolicy(trace, self.replay.tokenizer, live, turns=turns, reuse=reuse)
        before_it = _until(trace, number)
        chats = {
            agent: replay_chat(agent, before_it, agent_model, reuse=reuse, shared=self.replay.shared)
            for agent, agent_model in self.replay.agents.items()
        }
        spec = RolloutSpec(
            task=task_of(trace),
            mode=trace.mode,
            group_id=f"{trace.group_id}-{trace.index}-consult-{number}",
            index=sample,
            step=trace.step,
            seed=derive_seed(trace.seed, "fork", number, sample),
        )
        request = sum(map(len, before))
        return _Fork(trace, (trace.trace_id, number), spec, policy, chats, request, request + start)


def _until(trace: Trace, number: int) -> Trace:
    """The recording without the visits that answered this consult or came after it."""
    answer = next((c.visit for c in consultations(trace)[number:] if c.visit is not None), None)
    first = next((i for i, visit in enumerate(trace.visits) if visit is answer), None)
    return replace(trace, visits=trace.visits[:first])
