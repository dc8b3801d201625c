"""A network in one piece, for the rank that samples, pushes and saves, though its weights may be spread over ranks."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from aipo.train.ranks import Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FullWeights(NamedTuple):
    """The network as rank 0 has it.

    Args:
        network: the one that is trained or, where its weights are sharded, a copy in this machine's memory; on
            the other ranks only in the first case.
        gather: brings a copy up to date; to be called by every rank.
    """

    network: "PreTrainedModel"
    gather: Callable[[], None]


def full_weights(network: "PreTrainedModel", ranks: Ranks) -> FullWeights:
    """To be called before anything shards or patches `network`."""
    if not ranks.sharded:
        return FullWeights(network, lambda: None)
    twin: Any = ranks.on_main(lambda: copy.deepcopy(network))

    def gather() -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        # Everybody gives its part; only rank 0 gets anything.
        weights = get_model_state_dict(
            network, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        ranks.on_main(lambda: twin.load_state_dict(weights))

    return FullWeights(twin, gather)
