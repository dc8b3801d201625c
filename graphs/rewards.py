"""Reward parts that a graph knows and an environment does not: the form of a rollout, and the agents that it used."""

from collections.abc import Mapping, Sequence

from aipo.trace import Consult, StopReason


def hierarchical(
    parts: Mapping[str, float] | None, consults: Sequence[Consult], stop: StopReason | None
) -> dict[str, float] | None:
    """ARPO's hierarchical reward (2507.19849) as parts, from those of the environment.

    `malformed` is 1 where a request to an agent is wrong in form or the policy did not end by itself. `correct_in_form` is
    `correct` elsewhere, and 0 there. `several_agents` is 1 where that is above 0 and at least two agents replied. With the
    weights −1, 1 and 0.1 of these, and 0 of `correct`, which evaluations go by, the reward is −1 for a wrong form, else 0 for
    a wrong answer, else Acc, or Acc + 0.1 with two agents.
    """
    if parts is None:
        return None
    malformed = stop is not StopReason.EOS or any(consult.misformed for consult in consults)
    in_form = 0.0 if malformed else parts.get("correct", 0.0)
    replied = {consult.agent for consult in consults if consult.reply is not None}
    several = in_form > 0 and len(replied) >= 2
    named = {"correct_in_form": in_form, "malformed": float(malformed), "several_agents": float(several)}
    return {**parts, **named}
