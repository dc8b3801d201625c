"""The record of one run of a graph: its last state, its visits, and how it ended for each policy.

The record is filled from LangGraph's stream while the graph runs, so that it is whole whatever happens
to the graph. A run ends well only if its final state keeps the contract and the invariants of a trace.
"""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from aipo.errors import ConfigError, GraphError, TraceError, one_of
from aipo.trace import (
    Call,
    Consult,
    Mode,
    Role,
    Segment,
    StopReason,
    Visit,
    author_in,
    concatenate,
    of_policy,
)
from aipo.util.text import error_text


@dataclass(frozen=True, slots=True)
class Ending:
    """The ending of a rollout for one policy."""

    stop: StopReason
    reward_parts: dict[str, float] = field(default_factory=dict[str, float])
    reward: float | None = None
    error: str | None = None


@dataclass(slots=True)
class RolloutRecorder:
    """The record of one run of a graph. Times are seconds since `zero`, a reading of `time.perf_counter`."""

    zero: float
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _visits: dict[str, Visit] = field(default_factory=dict[str, Visit])
    _errors: dict[str, Exception] = field(default_factory=dict[str, Exception])

    def take(self, namespace: Sequence[str], kind: str, data: Mapping[str, Any]) -> None:
        """Takes in one part of the stream: `values` of the root graph, `tasks` of all graphs."""
        if kind == "values":
            if not namespace:
                self.state = data
        elif "result" in data:
            self._ended(data["id"], data["error"])
        else:
            # A namespace is made of 'node:id', and of a number where a node calls a graph once more.
            nodes = [part.partition(":")[0] for part in namespace if ":" in part]
            self._visits[data["id"]] = Visit(
                path="/".join([*nodes, data["name"]]), started=self._now(), seconds=None, outcome="cancelled"
            )

    def visits(self, calls: Sequence[Call]) -> tuple[Visit, ...]:
        """Every visit in the order of beginning, with its calls. Calls made outside of every node that
        was seen get a visit '?', so that none is lost."""
        found: dict[str, list[Call]] = {name: [] for name in self._visits}
        visits = dict(self._visits)
        for call in calls:
            if call.visit not in visits:
                visits[call.visit] = Visit(path="?", started=call.started, seconds=None, outcome="unknown")
            found.setdefault(call.visit, []).append(replace(call, visit=visits[call.visit].path))
        return tuple(replace(v, calls=tuple(found[name])) if found[name] else v for name, v in visits.items())

    def policies(self) -> list[str]:
        """Policies that have a segment, in the order of appearance."""
        return list(dict.fromkeys(s.policy for s in self._items("segments", Segment)))

    def segments(self, policy: str) -> tuple[Segment, ...]:
        return of_policy(self._items("segments", Segment), policy)

    def consults(self, policy: str) -> tuple[Consult, ...]:
        return tuple(c for c in self._items("consults", Consult) if c.policy == policy)

    def raised_at(self, error: BaseException) -> str:
        """' (in node ...)': the innermost node that ended with `error`, or nothing if none did."""
        return _in_node([self._visits[name].path for name, seen in self._errors.items() if seen is error])

    def open_at(self) -> str:
        """' (in node ...)': the innermost node that has not ended, or nothing if all have."""
        return _in_node([visit.path for visit in self._visits.values() if visit.seconds is None])

    def endings(
        self, known: Collection[str], reward_weights: Mapping[str, float], mode: Mode
    ) -> dict[str, Ending]:
        """How a run that came to its end ended, by policy. The reward is the weighted sum of the parts.

        Args:
            known: the policies that there are.
            reward_weights: by the part's name.
            mode: the rules under which it ran.

        Raises:
            GraphError: the final state breaks the contract of `aipo.rollout.graph`.
            TraceError: a context or a reward part breaks an invariant.
            ConfigError: a reward part has no weight.
        """
        policies = self.policies()
        _check_state(self.state, policies, known)
        return {policy: self._ending(policy, reward_weights, mode) for policy in policies}

    def _ending(self, policy: str, reward_weights: Mapping[str, float], mode: Mode) -> Ending:
        check_context(policy, self.segments(policy), self.consults(policy), mode)
        parts = self.state["reward_parts"][policy]
        if parts is None:
            return Ending(StopReason.UNSCORED, error="the environment could not score the answer")
        stop = self.state["stops"].get(policy)
        if stop not in (StopReason.EOS, StopReason.LENGTH):
            raise GraphError(one_of(f"stop of policy {policy!r}", stop, "eos, length", "the final state"))
        values = {name: float(value) for name, value in parts.items()}
        for name, value in values.items():
            if "/" in name:
                raise TraceError(one_of("reward part", name, "a name without '/'", "the final state"))
            if not math.isfinite(value):
                raise TraceError(one_of(f"reward part {name!r}", value, "a finite number", "the final state"))
            if name not in reward_weights:
                raise ConfigError(one_of("reward part", name, sorted(reward_weights), "the reward weights"))
        reward = math.fsum(reward_weights[name] * value for name, value in values.items())
        if not math.isfinite(reward):
            raise TraceError(
                one_of("weighted sum of the reward", reward, "a finite number", "the final state")
            )
        return Ending(StopReason(stop), values, reward)

    def _ended(self, name: str, error: Exception | None) -> None:
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


def _in_node(paths: Sequence[str]) -> str:
    return f" (in node {max(paths, key=lambda path: path.count('/'))})" if paths else ""


def _check_state(state: Mapping[str, Any], policies: Sequence[str], known: Collection[str]) -> None:
    where = "the final state"
    for key, noun in (("segments", Segment), ("consults", Consult)):
        for item in state[key]:
            if not isinstance(item, noun):
                raise GraphError(one_of(f"item of {key!r}", item, f"a {noun.__name__}", where))
    if not policies:
        raise GraphError(one_of("segments", [], "a prompt and what the policy samples", where))
    if not set(policies) <= set(known):
        raise GraphError(one_of("policies of segments", policies, list(known), where))
    for key in ("stops", "reward_parts"):
        if set(state[key]) != set(policies):
            raise GraphError(one_of(f"policies in {key!r}", sorted(state[key]), policies, where))
    strangers = sorted({c.policy for c in state["consults"]} - set(policies))
    if strangers:
        raise GraphError(one_of("policies of consults", strangers, policies, where))


def check_context(policy: str, segments: Sequence[Segment], consults: Sequence[Consult], mode: Mode) -> None:
    where = f"the context of policy {policy!r}"
    if segments[0].role is not Role.PROMPT:
        raise TraceError(one_of("first segment", segments[0].role.value, "prompt", where))
    sampled = [s for s in segments if s.role is Role.POLICY]
    shown = mode is Mode.EXPERT
    if shown and sampled:
        raise TraceError(
            one_of(
                "tokens that the policy sampled", len(concatenate(sampled)), "none in a demonstration", where
            )
        )
    if not any(len(s) for s in segments if s.role is author_in(mode)):
        raise TraceError(
            one_of(
                "tokens of the demonstration" if shown else "tokens that the policy sampled", 0, ">= 1", where
            )
        )
    for consult in consults:
        _check_consult(consult, segments, where)
    versions = [s.policy_version for s in sampled]
    known = [v for v in versions if v is not None]
    if len(known) < len(versions) or any(later < earlier for earlier, later in pairwise(known)):
        raise TraceError(one_of("versions of the policy", versions, "numbers that never fall", where))


def _check_consult(consult: Consult, segments: Sequence[Segment], where: str) -> None:
    asked, told, start = consult.request_segment, consult.reply_segment, consult.request_start
    for index in (asked, told):
        if not 0 <= index < len(segments):
            allowed = f"0 to {len(segments) - 1}"
            raise TraceError(one_of(f"segment of a consult of {consult.agent!r}", index, allowed, where))
    request, reply = segments[asked], segments[told]
    if request.role is not Role.POLICY:
        raise TraceError(
            one_of(f"role of the request to {consult.agent!r}", request.role.value, "policy", where)
        )
    if reply.role not in (Role.AGENT, Role.ENV):
        raise TraceError(
            one_of(f"role of the reply of {consult.agent!r}", reply.role.value, "agent, env", where)
        )
    if told <= asked:
        raise TraceError(one_of(f"segment of the reply of {consult.agent!r}", told, f"> {asked}", where))
    if start is not None and not 0 <= start < len(request):
        allowed = f"0 to {len(request) - 1}"
        raise TraceError(one_of(f"first token of the request to {consult.agent!r}", start, allowed, where))
