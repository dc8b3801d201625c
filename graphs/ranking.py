"""How hard a task is for peers, and how probably they solve it: item response theory, as ILR (2509.26306) uses it.

The paper has D from the peers' self-ranking and does not say how it becomes a logit. Here a difficulty is a share d between 0
and 1, and D = ln(d/(1 − d))/1.7. With an ability γ of ln(a/(1 − a))/1.7 for a share a of solved tasks, a task with d = 1/2 is
solved with probability a.
"""

import math
import re
import time
from dataclasses import replace

import numpy as np

from aipo.policies import SampleRequest
from aipo.rollout import RolloutContext, derive_seed
from aipo.rollout.context import current_visit
from aipo.trace import Call, Segment

SCALE = 1.7
LEVELS = 10
RANK_TOKENS = 8
_LEAST = 0.5 / LEVELS


def success(ability: float, difficulty: float) -> float:
    """The probability that a peer solves a task: P = 1/(1 + exp(−1.7(γ − D)))."""
    return 1 / (1 + math.exp(-SCALE * (ability - difficulty)))


def as_logits(share: float) -> float:
    """A share between 0 and 1, both excluded, on the scale of γ and D."""
    return math.log(share / (1 - share)) / SCALE


def confidence(idea: Segment) -> float:
    """The difficulty that a peer's own idea tells, as a share: 1 − the geometric mean of its tokens' probabilities. For
    peers that cannot answer in numbers; ours."""
    assert idea.logprobs is not None  # a sampled segment has them
    return min(max(1 - math.exp(float(np.mean(idea.logprobs))), _LEAST), 1 - _LEAST)


async def rank(context: RolloutContext, name: str, text: str) -> float:
    """The difficulty that a peer says when it is asked by `text`, as a share: (r − 1/2)/10 for its rank r of 1 to 10.

    What it is asked and says is a call of the node, and no part of its trace. Without such a number the task is taken for one
    of middle difficulty, and noted as `unranked`.
    """
    policy, started = context.policies[name], time.perf_counter()
    token_ids = policy.tokenizer.encode_prompt(text, untrusted=context.task.prompt)
    request = SampleRequest(
        np.array(token_ids, np.int32),
        max_tokens=RANK_TOKENS,
        temperature=context.sampling.temperature,
        seed=derive_seed(context.seed, name, "rank"),
        session=context.seed,
    )
    done = await policy.sample(request)
    reply = policy.tokenizer.decode(done.token_ids[done.token_ids != policy.tokenizer.eos_id])
    call = Call(
        agent=name,
        visit=current_visit(),
        model=name,
        messages=({"role": "human", "content": text},),
        reply=reply,
        tokens_in=len(token_ids),
        tokens_out=len(done.token_ids),
        started=started - context.started,
        seconds=time.perf_counter() - started,
    )
    number = re.search(r"\d+", reply)
    if number is None or not 1 <= int(number[0]) <= LEVELS:
        context.notes["unranked"] = 1 + context.notes.get("unranked", 0)
        context.calls.append(replace(call, error=f"no number from 1 to {LEVELS}"))
        return 0.5
    context.calls.append(call)
    return (int(number[0]) - 0.5) / LEVELS
