"""Replay: rollouts whose policies and chat models answer from recorded traces.

    recordings → Replay.run → pairs (recorded, replayed)

The engine, the graph and the environment are those of any rollout. What the recording does not answer, live models
answer. A replay without live models is frozen: the rollout ends there with an error.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from aipo.policies import Policy, Sampling, Tokenizer
from aipo.replay.chat import AgentModel, Question, question_of, replay_chat
from aipo.replay.policy import ReplayPolicy
from aipo.replay.recordings import task_of
from aipo.replay.reuse import Reuse
from aipo.rollout.context import ChatModel, RolloutContext
from aipo.rollout.engine import OnTrace, Progress, RolloutEngine
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Call, Mode, StopReason, Trace, histories
from aipo.util.text import error_text

Place = tuple[int, str, int]
"""Step, group and index: one rollout, which leaves one trace for each policy."""


@dataclass(frozen=True, slots=True)
class TracePair:
    """A recorded trace, its replay, and what was reused."""

    source: Trace
    trace: Trace
    reuse: Reuse

    @property
    def new(self) -> bool:
        """Is the trace of a policy that was not recorded? `source` is then of another policy of the rollout."""
        return self.source.policy != self.trace.policy


@dataclass(frozen=True, slots=True)
class ReplayedRollout:
    """A rollout, and the policies and chat models that answer in it.

    Args:
        sources: the recorded traces of the rollout, by policy.
    """

    sources: Mapping[str, Trace]
    spec: RolloutSpec
    policies: Mapping[str, Policy]
    chats: Mapping[str, ChatModel]
    reuse: Reuse

    @property
    def source(self) -> Trace:
        return next(iter(self.sources.values()))

    def adapt(self, context: RolloutContext, sampling: Sampling | None) -> RolloutContext:
        """The context with what answers, and with the recorded sampling, forbidden ids and demonstration."""
        source = self.source
        solutions = [s.token_ids for s in source.segments if s.role is source.author]
        return replace(
            context,
            policies=self.policies,
            chats=self.chats,
            sampling=sampling or _recorded_sampling(source, context.sampling),
            forbidden_ids=source.forbidden_ids,
            demonstration_ids=solutions[0] if source.mode is Mode.EXPERT and solutions else None,
        )

    def pair(self, trace: Trace) -> TracePair:
        """The replay `trace` beside its recording."""
        source, policy = self.sources.get(trace.policy, self.source), self.policies.get(trace.policy)
        if isinstance(policy, ReplayPolicy):
            several = len(histories(trace.segments)) > 1  # its contexts have no one length
            fork = fork_token(source, trace, None if several else policy.live_from)
        else:
            fork = 0 if trace.segments else None
        stamped = replace(trace, parent_id=source.trace_id, fork_token=fork)
        return TracePair(source, self._ended(stamped), self.reuse)

    def _ended(self, trace: Trace) -> Trace:
        """A graph may catch the error that ends a frozen replay; the rollout has failed all the same."""
        if self.reuse.missing is None or trace.failed:
            return trace
        failed = {"stop_reason": StopReason.ERROR, "error": error_text(self.reuse.missing)}
        return replace(trace, **failed, reward_parts={}, reward=None, reason=None)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Runs recorded rollouts again.

    Args:
        engine: with the graph, the environment and the reward's weights of now.
        tokenizers: those that the traces were recorded with, by policy.
        agents: the chat models of now, by agent.
        live: policies that go on where a recording ends, by name; none = frozen.
        sampling: of now; None = each rollout's own.
        shared: calls that answer for agents whose replies came from a cache; see `shared_calls`.
    """

    engine: RolloutEngine
    tokenizers: Mapping[str, Tokenizer]
    agents: Mapping[str, AgentModel]
    live: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    sampling: Sampling | None = None
    shared: Mapping[Question, Call] = field(default_factory=dict[Question, Call])

    def run(
        self,
        traces: Sequence[Trace],
        on_pair: Callable[[TracePair], None],
        progress: Progress = lambda done, total: None,
    ) -> list[TracePair]:
        """Replays the rollouts of `traces`; the pairs are in their order. `on_pair` is called as a rollout ends."""
        by_rollout: dict[Place, dict[str, Trace]] = defaultdict(dict)
        for trace in traces:
            by_rollout[place_of(trace)][trace.policy] = trace
        rollouts = {place: self._rollout(sources) for place, sources in by_rollout.items()}
        pairs: list[TracePair] = []

        def note(trace: Trace) -> None:
            pair = rollouts[place_of(trace)].pair(trace)
            pairs.append(pair)
            on_pair(pair)

        self.run_rollouts(rollouts, note, progress)
        order = {place: number for number, place in enumerate(rollouts)}
        return sorted(pairs, key=lambda pair: order[place_of(pair.source)])

    def run_rollouts(
        self,
        rollouts: Mapping[Place, ReplayedRollout],
        on_trace: OnTrace,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Runs rollouts; `on_trace` is called with each trace as it ends."""

        def adapt(spec: RolloutSpec, context: RolloutContext) -> RolloutContext:
            return rollouts[place_of(spec)].adapt(context, self.sampling)

        specs = [rollout.spec for rollout in rollouts.values()]
        replace(self.engine, adapt=adapt).run_sync(specs, on_trace, progress)

    def chats(self, source: Trace, reuse: Reuse) -> dict[str, ChatModel]:
        """The agents' chat models for a replay of `source`."""
        return {
            agent: replay_chat(agent, source, agent_model, reuse=reuse, shared=self.shared)
            for agent, agent_model in self.agents.items()
        }

    def tokenizer_of(self, policy: str) -> Tokenizer:
        """The policy's; the first one's for a policy that the run does not have."""
        return self.tokenizers.get(policy) or next(iter(self.tokenizers.values()))

    def _rollout(self, sources: Mapping[str, Trace]) -> ReplayedRollout:
        reuse, first = Reuse(), next(iter(sources.values()))
        # Recorded ones first: a rollout that fails before anything was written is a trace of the first policy.
        policies: dict[str, Policy] = {
            name: ReplayPolicy(trace, self.tokenizer_of(name), self.live.get(name), reuse=reuse)
            for name, trace in sources.items()
        }
        policies |= {name: live for name, live in self.live.items() if name not in policies}
        return ReplayedRollout(sources, spec_of(first), policies, self.chats(first, reuse), reuse)


def spec_of(trace: Trace) -> RolloutSpec:
    """The rollout that left a trace."""
    return RolloutSpec(
        task=task_of(trace),
        mode=trace.mode,
        group_id=trace.group_id,
        index=trace.index,
        step=trace.step,
        seed=trace.seed,
        grant=trace.grant,
        abilities=trace.sampling.get("abilities", {}),
    )


def place_of(rollout: Trace | RolloutSpec) -> Place:
    """The rollout's place in its run."""
    return rollout.step, rollout.group_id, rollout.index


def vanished(traces: Iterable[Trace], pairs: Iterable[TracePair]) -> list[Trace]:
    """Those of `traces` that have no replay among `pairs`."""
    replayed = {pair.source.trace_id for pair in pairs if not pair.new}
    return [trace for trace in traces if trace.trace_id not in replayed]


def fork_token(source: Trace, trace: Trace, live_from: int | None) -> int | None:
    """Index of the first token of `trace` that was not reused; None if all were."""
    was, now = source.token_ids, trace.token_ids
    size = min(len(was), len(now))
    different = np.flatnonzero(was[:size] != now[:size])
    same = int(different[0]) if different.size else size
    forks = [n for n in (same, live_from) if n is not None and n < len(now)]
    return min(forks, default=None)


def shared_calls(traces: Iterable[Trace], agents: Iterable[str]) -> dict[Question, Call]:
    """The first good reply to each question that these agents were asked."""
    names = set(agents)
    calls = (call for trace in traces for visit in trace.visits for call in visit.calls)
    replies: dict[Question, Call] = {}
    for call in calls:
        if call.agent in names and call.error is None:
            replies.setdefault(question_of(call), call)
    return replies


def _recorded_sampling(trace: Trace, otherwise: Sampling) -> Sampling:
    """The recorded settings; traces of other programs may have none."""
    try:
        names = {field.name for field in fields(Sampling)}
        return Sampling(**{name: value for name, value in trace.sampling.items() if name in names})
    except TypeError:
        return otherwise
