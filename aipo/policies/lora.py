"""A LoRA adapter: small matrices beside frozen weights (2106.09685), which are all that is trained.

At its start it changes nothing, so the policy with its adapter switched off stays the first policy: the
reference of a KL term. There is no dropout: what is trained has to be what has sampled.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from aipo.errors import ConfigError, LoadError
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
    network: "PreTrainedModel", *, rank: int, alpha: int, targets: Sequence[str] | None = None, seed: int
) -> "PreTrainedModel":
    """`network` with an adapter, which its layers get in place: every holder of `network` samples with it.

    Args:
        rank: width of the adapter's matrices.
        alpha: their product is multiplied with alpha / rank.
        targets: last names of the layers; None = every linear one but the output layer.

    Raises:
        LoadError: peft is not installed.
        ConfigError: the network has no such layers, or they cannot have one.
    """
    import torch

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise LoadError(
            "policy.lora: got an environment without peft, allowed one with it: pip install 'aipo[lora]'"
        ) from error
    _check(network, targets or ())
    how = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules="all-linear" if targets is None else list(targets),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(network, how)
    return adapted


def base_of(folder: Path | str) -> str | None:
    """The weights that the adapter in `folder` belongs to; None if there is no adapter."""
    file = Path(folder) / "adapter_config.json"
    return str(json.loads(file.read_text())["base_model_name_or_path"]) if file.is_file() else None


def restore_adapter(adapted: "PreTrainedModel", folder: Path | str) -> None:
    """Gives an adapter the weights of a checkpoint."""
    network: Any = adapted
    network.load_adapter(str(folder), "default", is_trainable=True)


def _check(network: "PreTrainedModel", targets: Sequence[str]) -> None:
    from torch.nn import Linear

    layers = {name: module for name, module in network.named_modules() if isinstance(module, Linear)}
    layers = {name: layer for name, layer in layers.items() if layer is not network.get_output_embeddings()}
    known = sorted({name.rpartition(".")[2] for name in layers})
    unknown = sorted(set(targets) - set(known))
    if unknown or not known:
        raise ConfigError(
            f"policy.lora.targets: got {unknown or 'none'}, allowed {known}, the linear layers of "
            f"{type(network).__name__} but for its output layer"
        )
