"""Are the sampler's log-probs those of the trainer's own network? Sampled there, scored here."""

from typing import TYPE_CHECKING

from aipo.doctor.check import Check
from aipo.doctor.server import Served
from aipo.policies import SampleRequest
from aipo.policies.logprobs import score
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.client import Server
from aipo.policies.vllm.weight_sync import measure_gap, tolerance_of
from aipo.util.event_loop import LOOP

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel

    from aipo.policies.local.policy import LocalPolicy

_TOKENS = 16


async def check_served(
    server: Server,
    served: Served,
    network: "PreTrainedModel",
    tokenizer: HFTokenizer,
    allowed: float,
) -> Check:
    """The probe that also follows every push, with the weights that the server has now."""
    gap = await measure_gap(server, served.model, served.positions, network, tokenizer)
    found = (
        f"differ by {gap.mean:.1e} on average, {gap.largest:.1e} at most (allowed on average: {allowed:g})"
    )
    if gap.mean <= allowed:
        return Check("ok", "exactness", f"log-probs of server and trainer {found}")
    return Check(
        "fail",
        "exactness",
        f"log-probs of server and trainer {found}",
        "restart the server: it may hold weights of an earlier run. Else: another model than policy.model, another "
        "dtype (then policy.vllm.tolerance), raw log-probs, quantisation",
    )


def check_local(policy: "LocalPolicy", network: "PreTrainedModel", prompt: "npt.NDArray[np.int32]") -> Check:
    """The same for sampling in this process."""
    import numpy as np

    done = LOOP.run(policy.sample(SampleRequest(prompt, max_tokens=_TOKENS)))
    gap = float(np.abs(score(network, prompt, done.token_ids) - done.logprobs).mean())
    allowed = tolerance_of(str(network.dtype))
    found = f"log-probs while sampling and training differ by {gap:.1e} on average (allowed: {allowed:g})"
    if gap <= allowed:
        return Check("ok", "exactness", found)
    return Check("fail", "exactness", found, "policy.engine=vllm, or another type of weights (policy.dtype)")
