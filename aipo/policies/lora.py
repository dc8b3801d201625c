"""A LoRA adapter: small matrices beside frozen weights (2106.09685), which are all that is trained.

At its start it changes nothing, so the policy with its adapter switched off stays the first policy: the
reference of a KL term. There is no dropout: what is trained has to be what has sampled.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from aipo.errors import ConfigError
from aipo.util.section import Count, Section

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LoRASettings(Section):
    """The section `policy.lora`."""

    rank: Count = Field(16, description="width of the adapter's matrices")
    alpha: Count = Field(32, description="the adapter is scaled by alpha / rank")
    targets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="last names of the layers; default: every linear one but the output layer",
    )


def add_adapter(
    network: "PreTrainedModel", lora: LoRASettings, *, seed: int, token_ids: Sequence[int] = ()
) -> "PreTrainedModel":
    """`network` with an adapter, which its layers get in place: every holder of `network` samples with it.

    Args:
        token_ids: tokens whose embeddings, and rows of an output layer of its own, are trained beside the adapter.

    Raises:
        ConfigError: the network has no such layers, or they cannot have one.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    _check(network, lora.targets or ())
    how = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules="all-linear" if lora.targets is None else list(lora.targets),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        trainable_token_indices={name: [*token_ids] for name in _embeddings(network)} if token_ids else None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(network, how)
    return adapted


def base_of(folder: Path | str) -> str | None:
    """The weights that the adapter in `folder` belongs to; None if there is no adapter."""
    file = Path(folder) / "adapter_config.json"
    if not file.is_file():
        return None
    return str(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])


def restore_adapter(adapted: "PreTrainedModel", folder: Path | str) -> None:
    """Gives an adapter the weights of a checkpoint."""
    network: Any = adapted
    network.load_adapter(str(folder), "default", is_trainable=True)


def _embeddings(network: "PreTrainedModel") -> list[str]:
    """Last names of the layers with a row for each token; one where the output layer is tied, which follows."""
    layers: list[Any] = [network.get_input_embeddings(), network.get_output_embeddings()]
    rows = {id(layer.weight): layer for layer in reversed(layers) if layer is not None}
    return [
        name.rpartition(".")[2]
        for name, one in network.named_modules()
        if any(one is r for r in rows.values())
    ]


def _check(network: "PreTrainedModel", targets: tuple[str, ...]) -> None:
    from torch.nn import Linear

    head = network.get_output_embeddings()
    layers = [
        name for name, layer in network.named_modules() if isinstance(layer, Linear) and layer is not head
    ]
    allowed = sorted({name.rpartition(".")[2] for name in layers})
    unknown = sorted(set(targets) - set(allowed))
    if unknown or not allowed:
        raise ConfigError(
            f"policy.lora.targets: got {unknown or 'none'}, allowed {allowed}, the linear layers of "
            f"{type(network).__name__} but for its output layer"
        )
