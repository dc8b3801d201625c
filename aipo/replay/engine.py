"""Replay: rollouts whose policies and chat models answer from recorded traces.

    recordings → Replay.run → pairs (recorded, replayed)

The engine, the graph and the environment are those of any rollout. What the recording does not answer is
asked of live models where there are some; a replay without any is frozen, and ends there by name.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from aipo.errors import ReplayError
from aipo.policies import Policy, Sampling, Tokenizer
from aipo.replay.chat import Asks, Question, question_of, replay_chat
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
    """A recorded trace, the one that its replay left, and what of it was reused."""

    source: Trace
    trace: Trace
    reuse: Reuse

    @property
    def new(self) -> bool:
        """Is the trace one of a policy that was not recorded? `source` is then another one's of its rollout."""
        return self.source.policy != self.trace.policy


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Runs recorded rollouts again.

    Args:
        engine: with the graph, the environment and the reward's weights of now.
        tokenizer: the one that the traces were recorded with.
        asks: by agent, what its chat model is asked with now.
        live: policies that go on where a recording ends, by name; none = frozen.
        sampling: of now; None = each rollout's own.
        shared: calls that answer for agents whose replies came from a cache; see `shared_calls`.
    """

    engine: RolloutEngine
    tokenizer: Tokenizer
    asks: Mapping[str, Asks]
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
        casts = {place: self._cast(of_rollout) for place, of_rollout in _by_rollout(traces).items()}
        pairs: list[TracePair] = []

        def note(trace: Trace) -> None:
            pair = casts[_place(trace)].pair(trace)
            pairs.append(pair)
            on_pair(pair)

        def adapt(spec: RolloutSpec, context: RolloutContext) -> RolloutContext:
            return casts[spec.step, spec.group_id, spec.index].adapt(context, self.sampling)

        replace(self.engine, adapt=adapt).run_sync([cast.spec for cast in casts.values()], note)
        order = {place: number for number, place in enumerate(casts)}
        return sorted(pairs, key=lambda pair: order[_place(pair.source)])

    def _cast(self, sources: Mapping[str, Trace]) -> "_Cast":
        reuse = Reuse()
        first = next(iter(sources.values()))
        replayed = {
            name: ReplayPolicy(trace, self.tokenizer, self.live.get(name), reuse=reuse)
            for name, trace in sources.items()
        }
        chats = {
            agent: replay_chat(agent, first, asks, reuse=reuse, shared=self.shared)
            for agent, asks in self.asks.items()
        }
        # Recorded ones first: what fails before anybody wrote is the trace of the first one.
        policies = replayed | {name: live for name, live in self.live.items() if name not in replayed}
        return _Cast(sources, replayed, policies, _Chats(chats, first, reuse), reuse)


class _Chats(dict[str, ChatModel]):
    """Chat models by agent. A graph that asks for one that there is not has no replay: where an agent is asked
    the error would pass for the agent's, unless it was so in the recording."""

    def __init__(self, chats: Mapping[str, ChatModel], source: Trace, reuse: Reuse) -> None:
        super().__init__(chats)
        self._source, self._reuse = source, reuse

    def __contains__(self, agent: object) -> bool:
        known = super().__contains__(agent)
        if not known and not any(f"agent: got {agent!r}, allowed" in v.outcome for v in self._source.visits):
            said = f"chat model of agent: got {agent!r}, allowed {sorted(self)}, in {self._source.trace_id!r}"
            self._reuse.leave(f"{CALL} {agent}", said)
            self._reuse.missing = ReplayError(said)
        return known


@dataclass(frozen=True, slots=True)
class _Cast:
    """Who plays in one replayed rollout: its own policies and chat models."""

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
            sampling=sampling or _sampling(self.source, context.sampling),
            forbidden_ids=self.source.forbidden_ids,
            shown=self._demonstration(),
        )

    def _demonstration(self) -> npt.NDArray[np.int32] | None:
        """As it was shown then, whatever the environment would show now."""
        shown = [s.token_ids for s in self.source.segments if s.role is self.source.author]
        return shown[0] if self.source.mode is Mode.EXPERT and shown else None

    def pair(self, trace: Trace) -> TracePair:
        source = self.sources.get(trace.policy, self.source)
        policy = self.replayed.get(trace.policy)
        fork = fork_token(source, trace, policy.live_from) if policy else 0 if trace.segments else None
        stamped = replace(trace, parent_id=source.trace_id, fork_token=fork)
        return TracePair(source, self._ended(stamped), self.reuse)

    def _ended(self, trace: Trace) -> Trace:
        """A graph may catch what ends a frozen replay; its rollout has no end worth a reward all the same."""
        if self.reuse.missing is None or trace.failed:
            return trace
        failed = {"stop_reason": StopReason.ERROR, "error": error_text(self.reuse.missing)}
        return replace(trace, **failed, reward_parts={}, reward=None)


def vanished(traces: Iterable[Trace], pairs: Iterable[TracePair]) -> list[Trace]:
    """Those of `traces` that no trace of a replay came of."""
    there = {pair.source.trace_id for pair in pairs if not pair.new}
    return [trace for trace in traces if trace.trace_id not in there]


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
    wanted = set(agents)
    found: dict[Question, Call] = {}
    for trace in traces:
        for visit in trace.visits:
            for call in visit.calls:
                if call.agent in wanted and call.error is None:
                    found.setdefault(question_of(call), call)
    return found


def _by_rollout(traces: Iterable[Trace]) -> dict[Place, dict[str, Trace]]:
    found: dict[Place, dict[str, Trace]] = defaultdict(dict)
    for trace in traces:
        found[_place(trace)][trace.policy] = trace
    return dict(found)


def _place(trace: Trace) -> Place:
    return trace.step, trace.group_id, trace.index


def _sampling(trace: Trace, otherwise: Sampling) -> Sampling:
    """As it was recorded; traces that others made may not say."""
    try:
        return Sampling(**trace.sampling)
    except TypeError:
        return otherwise
