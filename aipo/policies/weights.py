"""Weights of a network for saving and for servers, in the form that `from_pretrained` reads.

An adapter is merged into the weights that it sits beside.
"""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_peft_available

_PREFIX, _ADAPTER = "base_model.model.", "default"


def plain(network: PreTrainedModel) -> PreTrainedModel:
    """The network itself, or the one inside an adapter."""
    adapted: Any = network
    return adapted.get_base_model() if has_adapter(network) else network


def has_adapter(network: PreTrainedModel) -> bool:
    """Is an adapter trained, and not the network's own weights?"""
    if not is_peft_available():
        return False
    from peft import PeftModel

    return isinstance(network, PeftModel)


def snapshot(network: PreTrainedModel) -> dict[str, Tensor]:
    """Weights by name, each tied one once. Nothing is copied that need not be."""
    inner: Any = plain(network)
    state = {name.removeprefix(_PREFIX): weight for name, weight in network.state_dict().items()}
    names = [name for name, _ in (*inner.named_parameters(), *inner.named_buffers()) if name in state]
    weights = {name.replace(".base_layer.", "."): state[name] for name in names if ".lora_" not in name}
    if has_adapter(network):
        from peft.tuners.lora import LoraLayer

        for name, layer in inner.named_modules():
            if isinstance(layer, LoraLayer):
                down, up = (state[f"{name}.lora_{part}.{_ADAPTER}.weight"].float() for part in "AB")
                whole, scale = weights[f"{name}.weight"], float(layer.scaling[_ADAPTER])
                weights[f"{name}.weight"] = (whole.float() + scale * (up @ down)).to(whole.dtype)
    return weights


def save_snapshot(network: PreTrainedModel, folder: Path) -> None:
    """Leaves a folder for `from_pretrained`."""
    plain(network).save_pretrained(folder, state_dict=snapshot(network))
