"""Does the policy ask its agents at all? A few assisted rollouts tell."""

from collections import Counter
from dataclasses import replace

from aipo.config.build import Experiment
from aipo.doctor.check import Check
from aipo.policies import Policy
from aipo.render.consults import ASK_ADVICE
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Mode

_ROLLOUTS = 8
_LONGEST = 256
"""Tokens of each: a policy that asks does so early, and a long rollout would take minutes on a CPU."""


def asks_agents(experiment: Experiment) -> bool:
    """Are there rollouts in which it could?"""
    return bool(experiment.agents) and experiment.method.assist_share_most > 0


def check_consults(experiment: Experiment, policy: Policy) -> Check:
    """Rolls out the first tasks of the first step with agents, and counts requests."""
    engine = experiment.engine(policy, run_id="doctor", forbidden_ids=())
    sampling = replace(engine.sampling, max_tokens=min(_LONGEST, engine.sampling.max_tokens))
    specs = [
        RolloutSpec(task=task, mode=Mode.ASSISTED, group_id=str(n), index=0, step=0, seed=n)
        for n, task in enumerate(experiment.tasks(0)[:_ROLLOUTS])
    ]
    traces = replace(engine, sampling=sampling).run_sync(specs, lambda _: None)
    if failed := [trace for trace in traces if trace.failed]:
        return Check("fail", "consults", f"{len(failed)} of {len(traces)} rollouts failed: {failed[0].error}")
    asked = Counter(consult.agent or "nobody" for trace in traces for consult in trace.consults)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(asked.items())) or "no request"
    found = f"{counts} in {len(traces)} assisted rollouts of at most {sampling.max_tokens} tokens"
    return Check("ok", "consults", found) if asked else Check("warn", "consults", found, ASK_ADVICE)
