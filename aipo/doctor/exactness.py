"""Are the sampler's log-probs those of the trainer's own network? Sampled there, scored here."""

import numpy as np

from aipo.doctor.check import Check, PolicyParts
from aipo.policies import Policy, SampleRequest
from aipo.policies.logprobs import score
from aipo.policies.vllm.weight_sync import LogprobGap, tolerance_of
from aipo.util.event_loop import LOOP


def check_served(gap: LogprobGap, allowed: float) -> Check:
    """The probe that also follows every push, with the weights that the server has now."""
    advice = (
        "restart the server: it may hold weights of an earlier run. Else: another model than policy.model, another "
        "dtype (then policy.vllm.tolerance), raw log-probs, quantisation"
    )
    return _compare("log-probs of server and trainer", gap, allowed, advice)


def check_local(parts: PolicyParts, policy: Policy) -> Check:
    """The same for sampling in this process."""
    prompt = np.array(parts.prompt, np.int32)
    done = LOOP.run(policy.sample(SampleRequest(prompt, max_tokens=16)))
    gap = LogprobGap.between(score(parts.network, prompt, done.token_ids), done.logprobs)
    advice = "policy.engine=vllm, or another type of weights (policy.dtype)"
    allowed = tolerance_of(str(parts.network.dtype))
    return _compare("log-probs while sampling and training", gap, allowed, advice)


def _compare(what: str, gap: LogprobGap, allowed: float, advice: str) -> Check:
    found = f"{what} differ by {gap.mean:.1e} on average, {gap.largest:.1e} at most (allowed on average: {allowed:g})"
    if gap.mean <= allowed:
        return Check("ok", "exactness", found)
    return Check("fail", "exactness", found, advice)
