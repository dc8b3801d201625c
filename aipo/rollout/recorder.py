"""The record of one run of a graph: its last state, its visits, and how it ended for each policy.

The record is filled from LangGraph's stream while the graph runs, so that it is whole whatever happens
to the graph. A run ends well only if its final state keeps the contract and the invariants of a trace.
"""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aipo.errors import AipoError, ConfigError, GraphError, TraceError, one_of
from aipo.rollout.chat.ledger import Ledger
from aipo.rollout.chat.places import nodes_of
from aipo.rollout.context import RolloutContext
from aipo.trace import (
    Call,
    Consult,
    Mode,
    Role,
    Segment,
    StopReason,
    Visit,
    concatenate,
    histories,
    of_policy,
)
from aipo.util.text import error_text


@dataclass(frozen=True, slots=True)
class Ending:
    """The ending of a rollout for one policy."""

    stop_reason: StopReason
    reward_parts: dict[str, float] = field(default_factory=dict[str, float])
    reward: float | None = None
    error: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class RolloutRecorder:
    """The record of one run of a graph. Times are seconds since `zero`, a reading of `time.perf_counter`. Segments are those
    of the state, and those of chat models, which are in the `ledger`."""

    zero: float
    ledger: Ledger = field(default_factory=Ledger)
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _visits: dict[str, Visit] = field(default_factory=dict[str, Visit])
    _errors: dict[str, Exception] = field(default_factory=dict[str, Exception])
    _step: int = 0
    _ended_step: bool = True
    _begun: dict[int, int] = field(default_factory=dict[int, int])

    def begin(self, state: Mapping[str, Any], visits: Sequence[Visit]) -> None:
        """Begins with the state of another rollout, and with the visits that led to it."""
        self.state = state
        self._visits = {f"{number}": visit for number, visit in enumerate(visits)}

    def begun_before(self, segments: int) -> int | None:
        """How many visits had begun before the step of the root graph that added to a context of so many segments; None
        if no step did."""
        return self._begun.get(segments)

    def take(self, namespace: Sequence[str], kind: str, data: Mapping[str, Any]) -> None:
        """Takes in one part of the stream: `values` of the root graph, `tasks` of all graphs."""
        if kind == "values":
            if not namespace:
                self._begun[len(self.state.get("segments", ()))] = self._step
                self.state = data
        elif "result" in data:
            self._ended(data["id"], data["error"])
            self._check_not_paused(data)
        else:
            if not namespace and self._ended_step:
                self._step, self._ended_step = len(self._visits), False
            self._visits[data["id"]] = Visit(
                path="/".join([*nodes_of(namespace), data["name"]]),
                started=self._now(),
                seconds=None,
                outcome="cancelled",
            )

    def _check_not_paused(self, data: Mapping[str, Any]) -> None:
        if data["interrupts"]:
            raise GraphError(
                f"node {self._visits[data['id']].path!r}: got interrupt({data['interrupts'][0]['value']!r}), allowed a "
                "node that runs to its end: nobody answers in a rollout"
            )

    def visits(self, calls: Sequence[Call]) -> tuple[Visit, ...]:
        """Every visit in the order of beginning, with its calls. Calls made outside of every node that
        was seen get a visit '?', so that none is lost."""
        visits = dict(self._visits)
        for call in calls:
            unseen = Visit(path="?", started=call.started, seconds=None, outcome="unknown")
            visit = visits.get(call.visit, unseen)
            visits[call.visit] = replace(visit, calls=(*visit.calls, replace(call, visit=visit.path)))
        return tuple(visits.values())

    def segments(self, policy: str) -> tuple[Segment, ...]:
        return of_policy(self._segments(), policy)

    def _segments(self) -> list[Segment]:
        places = {name: place for place, name in enumerate(self._visits)}
        return [*self._items("segments", Segment), *self.ledger.segments(places)]

    def consults(self, policy: str) -> tuple[Consult, ...]:
        return tuple(c for c in self._items("consults", Consult) if c.policy == policy)

    def raised_at(self, error: BaseException) -> str:
        """' (in node ...)': the innermost node that ended with `error`, or nothing if none did."""
        return _in_node([self._visits[name].path for name, seen in self._errors.items() if seen is error])

    def open_at(self) -> str:
        """' (in node ...)': the innermost node that has not ended, or nothing if all have."""
        return _in_node([visit.path for visit in self._visits.values() if visit.seconds is None])

    def endings(self, context: RolloutContext, reward_weights: Mapping[str, float]) -> dict[str, Ending]:
        """How a run that came to its end ended, by policy. The reward is the weighted sum of the parts.

        Raises:
            GraphError: the final state breaks the contract of `aipo.rollout.graph`.
            TraceError: a context or a reward part breaks an invariant.
            ConfigError: a reward part has no weight.
        """
        if any(visit.seconds is None and "/" not in visit.path for visit in self._visits.values()):
            raise GraphError(
                f"sub-graph{self.open_at()}: got interrupt_before or interrupt_after, at which it paused, allowed none "
                "in a rollout"
            )
        policies = list(dict.fromkeys(s.policy for s in self._segments()))
        last = [visit.path for visit in self._visits.values() if "/" not in visit.path]
        _check_state(self.state, policies, context.policies, last[-1] if last else "no node")
        endings = {policy: self._ending(policy, context, reward_weights) for policy in policies}
        for policy in policies:
            where, segments = f"the context of policy {policy!r}", self.segments(policy)
            # A model can have more ids than its tokenizer (padding of its vocabulary), and sample one of them.
            ids = concatenate(s for s in segments if s.role is not Role.POLICY)
            wrong = ids[(ids < 0) | (ids >= len(context.policies[policy].tokenizer))]
            require(where, (not wrong.size, "token ids", wrong[:1].tolist(), "those of its tokenizer"))
            context.samples.check(segments, where)
        return endings

    def _ending(self, policy: str, context: RolloutContext, reward_weights: Mapping[str, float]) -> Ending:
        check_context(policy, self.segments(policy), self.consults(policy), context.mode)
        parts, reason = self.state["reward_parts"][policy], context.reasons.get(policy)
        if parts is None:
            error = "the environment could not score the answer"
            return Ending(StopReason.UNSCORED, error=error, reason=reason)
        where = "the final state"
        stop, ends = self.state["stops"].get(policy), (StopReason.EOS, StopReason.LENGTH)
        require(where, (stop in ends, f"stop of policy {policy!r}", stop, "eos, length"), error=GraphError)
        return Ending(StopReason(stop), *weighted(parts, reward_weights, where), reason=reason)

    def _ended(self, name: str, error: Exception | None) -> None:
        self._ended_step |= "/" not in self._visits[name].path
        visit = self._visits[name]
        outcome = "ok" if error is None else error_text(error)
        self._visits[name] = replace(visit, seconds=self._now() - visit.started, outcome=outcome)
        if error is not None:
            self._errors[name] = error

    def _now(self) -> float:
        return time.perf_counter() - self.zero

    def _items(self, key: str, noun: type[Any]) -> list[Any]:
        # What is no such noun is refused at the end; until then it must not hide the rest.
        return [item for item in self.state.get(key, ()) if isinstance(item, noun)]


def weighted(parts: Any, reward_weights: Mapping[str, float], where: str) -> tuple[dict[str, float], float]:
    """Reward parts as numbers, and the reward: their weighted sum.

    Args:
        parts: what an environment returned for an answer that it could score.

    Raises:
        TraceError: no numbers by name, a part or the sum is not finite.
        ConfigError: a part has no weight.
    """
    named = isinstance(parts, Mapping) and len(parts) > 0
    require(where, (named, "reward parts", parts, "numbers by name, at least one; None = not scored"))
    for name, value in parts.items():
        require(
            where,
            (isinstance(name, str) and "/" not in name, "reward part", name, "a name without '/'"),
            (_is_number(value), f"reward part {name!r}", value, "a finite number"),
        )
        if name not in reward_weights:
            weights = "rollout.reward_weights; set one there, or name the part in `noted` of the environment"
            raise ConfigError(one_of("reward part", name, sorted(reward_weights), weights))
    values = {name: float(value) for name, value in parts.items()}
    reward = math.fsum(reward_weights[name] * value for name, value in values.items())
    require(where, (math.isfinite(reward), "weighted sum of the reward", reward, "a finite number"))
    return values, reward


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:  # text, or None
        return False


def _in_node(paths: Sequence[str]) -> str:
    return f" (in node {max(paths, key=lambda path: path.count('/'))})" if paths else ""


def require(
    where: str, *rules: tuple[bool, str, object, object], error: type[AipoError] = TraceError
) -> None:
    """Raises `error` for the first rule that does not hold; each is (holds, what, got, allowed)."""
    for holds, what, got, allowed in rules:
        if not holds:
            raise error(one_of(what, got, allowed, where))


def _check_state(
    state: Mapping[str, Any], policies: Sequence[str], known: Collection[str], last: str
) -> None:
    keys = (("segments", Segment), ("consults", Consult))
    items = ((key, noun, item) for key, noun in keys for item in state[key])
    strangers = sorted({c.policy for c in state["consults"] if isinstance(c, Consult)} - set(policies))
    require(
        f"the final state (the graph ended after node {last!r}; a goto=... to a node that is not there ends it, too)",
        *(
            (isinstance(item, noun), f"item of {key!r}", item, f"a {noun.__name__}")
            for key, noun, item in items
        ),
        (bool(policies), "segments", [], "a prompt and what the policy samples"),
        (set(policies) <= set(known), "policies of segments", policies, list(known)),
        *(
            (set(state[key]) == set(policies), f"policies in {key!r}", sorted(state[key]), policies)
            for key in ("stops", "reward_parts")
        ),
        (not strangers, "policies of consults", strangers, policies),
        error=GraphError,
    )


def check_context(policy: str, segments: Sequence[Segment], consults: Sequence[Consult], mode: Mode) -> None:
    """Refuses the context of a finished rollout that breaks an invariant of traces.

    Raises:
        TraceError: says which.
    """
    where, what = f"the context of policy {policy!r}", "tokens that the policy sampled"
    first, shown = segments[0].role, mode is Mode.EXPERT
    sampled = [s for s in segments if s.role is Role.POLICY]
    taught = sum(len(s) for s in segments if s.role is Role.TEACHER)
    answer = sum(len(s) for s in segments if s.role is mode.author) + taught
    require(
        where,
        (first is Role.PROMPT, "first segment", first.value, "prompt"),
        (not (shown or taught) or not sampled, what, sum(map(len, sampled)), "none in a demonstration"),
        (answer > 0, "tokens of the demonstration" if shown else what, 0, ">= 1"),
    )
    for consult in consults:
        _check_consult(consult, segments, where)
    for history in histories(sampled):
        versions = [s.policy_version for s in history]
        numbers = [version for version in versions if version is not None]
        rising = len(numbers) == len(versions) and numbers == sorted(numbers)
        require(where, (rising, "versions of the policy", versions, "numbers that never fall"))


def _check_consult(consult: Consult, segments: Sequence[Segment], where: str) -> None:
    agent, start = repr(consult.agent), consult.request_start
    asked, answered = consult.request_segment, consult.reply_segment
    for index in (asked, answered):
        inside = 0 <= index < len(segments)
        require(where, (inside, f"segment of a consult of {agent}", index, f"0 to {len(segments) - 1}"))
    request, reply = segments[asked], segments[answered].role
    last = len(request) - 1
    begins = start is None or 0 <= start <= last
    require(
        where,
        (
            request.role in (Role.POLICY, Role.TEACHER),
            f"role of the request to {agent}",
            request.role.value,
            "policy, teacher",
        ),
        (reply in (Role.AGENT, Role.ENV), f"role of the reply of {agent}", reply.value, "agent, env"),
        (answered > asked, f"segment of the reply of {agent}", answered, f"> {asked}"),
        (begins, f"first token of the request to {agent}", start, f"0 to {last}"),
    )
