"""Replay: rollouts whose policies and chat models answer from recorded traces.

    recordings → Replay.run → pairs (recorded, replayed)

The engine, the graph and the environment are those of any rollout. What the recording does not answer, live models
answer. A replay without live models is frozen: the rollout ends there with an error.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from aipo.errors import ReplayError
from aipo.policies import Policy, Sampling, Tokenizer
from aipo.replay.chat import AgentModel, Question, question_of, replay_chat
from aipo.replay.policy import ReplayPolicy
from aipo.replay.recordings import task_of
from aipo.replay.reuse import CALL, Reuse
from aipo.rollout.context import ChatModel, RolloutContext
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Call, Mode, StopReason, Trace
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


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Runs recorded rollouts again.

    Args:
        engine: with the graph, the environment and the reward's weights of now.
        tokenizer: the one that the traces were recorded with.
        agents: the chat models of now, by agent.
        live: policies that go on where a recording ends, by name; none = frozen.
        sampling: of now; None = each rollout's own.
        shared: calls that answer for agents whose replies came from a cache; see `shared_calls`.
    """

    engine: RolloutEngine
    tokenizer: Tokenizer
    agents: Mapping[str, AgentModel]
    live: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    sampling: Sampling | None = None
    shared: Mapping[Question, Call] = field(default_factory=dict[Question, Call])

    def run(self, traces: Sequence[Trace], on_pair: Callable[[TracePair], None]) -> list[TracePair]:
        """Replays the rollouts of `traces`; the traces of one rollout stand or fall together.

        Args:
            on_pair: called with each pair as its rollout ends.

        Returns:
            Pairs, in the order of the rollouts.
        """
        rollouts = {place: self._rollout(of_rollout) for place, of_rollout in _by_rollout(traces).items()}
        pairs: list[TracePair] = []

        def note(trace: Trace) -> None:
            pair = rollouts[_place(trace)].pair(trace)
            pairs.append(pair)
            on_pair(pair)

        def adapt(spec: RolloutSpec, context: RolloutContext) -> RolloutContext:
            return rollouts[spec.step, spec.group_id, spec.index].adapt(context, self.sampling)

        replace(self.engine, adapt=adapt).run_sync([rollout.spec for rollout in rollouts.values()], note)
        order = {place: number for number, place in enumerate(rollouts)}
        return sorted(pairs, key=lambda pair: order[_place(pair.source)])

    def _rollout(self, sources: Mapping[str, Trace]) -> "_ReplayedRollout":
        reuse = Reuse()
        first = next(iter(sources.values()))
        replayed = {
            name: ReplayPolicy(trace, self.tokenizer, self.live.get(name), reuse=reuse)
            for name, trace in sources.items()
        }
        chats = {
            agent: replay_chat(agent, first, agent_model, reuse=reuse, shared=self.shared)
            for agent, agent_model in self.agents.items()
        }
        # Recorded ones first: a rollout that fails before anything was written is a trace of the first policy.
        policies = replayed | {name: live for name, live in self.live.items() if name not in replayed}
        return _ReplayedRollout(sources, replayed, policies, _Chats(chats, first, reuse), reuse)


class _Chats(dict[str, ChatModel]):
    """Chat models by agent. A graph that asks for one which does not exist ends the replay, unless the recording
    has the same error: a graph may take it for the agent's own error and continue."""

    def __init__(self, chats: Mapping[str, ChatModel], source: Trace, reuse: Reuse) -> None:
        super().__init__(chats)
        self._source, self._reuse = source, reuse

    def __contains__(self, agent: object) -> bool:
        exists = super().__contains__(agent)
        if not exists and not any(f"agent: got {agent!r}, allowed" in v.outcome for v in self._source.visits):
            error = (
                f"chat model of agent: got {agent!r}, allowed {sorted(self)}, in {self._source.trace_id!r}"
            )
            self._reuse.leave(f"{CALL} {agent}", error)
            self._reuse.missing = ReplayError(error)
        return exists


@dataclass(frozen=True, slots=True)
class _ReplayedRollout:
    """The policies and chat models of one replayed rollout."""

    sources: Mapping[str, Trace]
    replayed: Mapping[str, ReplayPolicy]
    policies: Mapping[str, Policy]
    chats: Mapping[str, ChatModel]
    reuse: Reuse

    @property
    def source(self) -> Trace:
        return next(iter(self.sources.values()))

    @property
    def spec(self) -> RolloutSpec:
        trace = self.source
        return RolloutSpec(
            task=task_of(trace),
            mode=trace.mode,
            group_id=trace.group_id,
            index=trace.index,
            step=trace.step,
            seed=trace.seed,
        )

    def adapt(self, context: RolloutContext, sampling: Sampling | None) -> RolloutContext:
        return replace(
            context,
            policies=self.policies,
            chats=self.chats,
            sampling=sampling or recorded_sampling(self.source, context.sampling),
            forbidden_ids=self.source.forbidden_ids,
            demonstration_ids=self._demonstration(),
        )

    def _demonstration(self) -> npt.NDArray[np.int32] | None:
        """The recorded demonstration, whatever the environment would show now."""
        solutions = [s.token_ids for s in self.source.segments if s.role is self.source.author]
        return solutions[0] if self.source.mode is Mode.EXPERT and solutions else None

    def pair(self, trace: Trace) -> TracePair:
        source = self.sources.get(trace.policy, self.source)
        policy = self.replayed.get(trace.policy)
        fork = fork_token(source, trace, policy.live_from) if policy else 0 if trace.segments else None
        stamped = replace(trace, parent_id=source.trace_id, fork_token=fork)
        return TracePair(source, self._ended(stamped), self.reuse)

    def _ended(self, trace: Trace) -> Trace:
        """A graph may catch the error that ends a frozen replay; the rollout has failed all the same."""
        if self.reuse.missing is None or trace.failed:
            return trace
        failed = {"stop_reason": StopReason.ERROR, "error": error_text(self.reuse.missing)}
        return replace(trace, **failed, reward_parts={}, reward=None)


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


def _by_rollout(traces: Iterable[Trace]) -> dict[Place, dict[str, Trace]]:
    rollouts: dict[Place, dict[str, Trace]] = defaultdict(dict)
    for trace in traces:
        rollouts[_place(trace)][trace.policy] = trace
    return dict(rollouts)


def _place(trace: Trace) -> Place:
    return trace.step, trace.group_id, trace.index


def recorded_sampling(trace: Trace, otherwise: Sampling) -> Sampling:
    """The recorded settings; traces of other programs may have none."""
    try:
        return Sampling(**trace.sampling)
    except TypeError:
        return otherwise
