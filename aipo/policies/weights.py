"""Weights of a network: loaded whole, and saved for `from_pretrained` and for servers.

An adapter is merged into the weights that it sits beside. A model that is to be used changed (tags as tokens, embeddings
untied) is a folder of its own, so that whoever loads it needs to know nothing.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from aipo.errors import LoadError
from aipo.policies.model_folder import loading
from aipo.policies.tags import add_tags
from aipo.util.whole import CARD, cached_folder, recorded_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PREFIX, _ADAPTER = "base_model.model.", "default"
_COPIES = 1
"""Raised when copies of models are made otherwise, so that older ones in the cache are not taken."""


def plain(network: PreTrainedModel) -> PreTrainedModel:
    """The network itself, or the one inside an adapter."""
    adapted: Any = network
    return adapted.get_base_model() if has_adapter(network) else network


def has_adapter(network: PreTrainedModel) -> bool:
    """Is an adapter trained, and not the network's own weights?"""
    from peft import PeftModel

    return isinstance(network, PeftModel)


def load_network(model: Path | str, dtype: "torch.dtype | str") -> PreTrainedModel:
    """The causal language model in a folder or on the hub.

    Args:
        dtype: of its weights; `auto` = as they are there.

    Raises:
        LoadError: there is none, or weights of it are missing.
    """
    with loading(model):
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, output_loading_info=True)
    network, info = loaded
    if missing := sorted(info["missing_keys"]):  # transformers gives them random numbers
        raise LoadError(
            f"policy.model: got {str(model)!r}, whose files lack {len(missing)} weights of {type(network).__name__} such as "
            f"{missing[0]}, allowed all weights of the causal language model that its config.json names"
        )
    return network


def snapshot(network: PreTrainedModel) -> dict[str, Tensor]:
    """Weights by name, each tied one once. Nothing is copied that need not be."""
    inner: Any = plain(network)
    state = {name.removeprefix(_PREFIX): weight for name, weight in network.state_dict().items()}
    names = [name for name, _ in (*inner.named_parameters(), *inner.named_buffers()) if name in state]
    beside = (".lora_", ".trainable_tokens_")
    weights = {_own_name(name): state[name] for name in names if not any(part in name for part in beside)}
    if has_adapter(network):
        from peft.tuners.lora import LoraLayer
        from peft.tuners.trainable_tokens import TrainableTokensLayer

        for name, layer in inner.named_modules():
            if isinstance(layer, TrainableTokensLayer) and layer.tied_adapter is None:
                whole = weights[_own_name(f"{name}.base_layer.weight")].clone()
                rows = state[f"{name}.trainable_tokens_delta.{_ADAPTER}"].to(whole)
                whole[layer.token_indices[_ADAPTER]] = rows
                weights[_own_name(f"{name}.base_layer.weight")] = whole
            if isinstance(layer, LoraLayer):
                down, up = (state[f"{name}.lora_{part}.{_ADAPTER}.weight"].float() for part in "AB")
                whole, scale = weights[f"{name}.weight"], float(layer.scaling[_ADAPTER])
                weights[f"{name}.weight"] = (whole.float() + scale * (up @ down)).to(whole.dtype)
    return weights


def _own_name(name: str) -> str:
    """The name of a weight without an adapter."""
    return name.replace(".token_adapter.", ".").replace(".base_layer.", ".")


def save_snapshot(network: PreTrainedModel, folder: Path, *, for_server: bool = False) -> None:
    """Leaves a folder for `from_pretrained`.

    Args:
        for_server: also an output layer's weights that are tied, for a server that holds them by themselves; others leave
            them out.
    """
    inner, weights = plain(network), snapshot(network)
    if for_server:
        weights |= {
            tied: weights[source].clone() for tied, source in _tied(inner).items() if source in weights
        }
    inner.save_pretrained(folder, state_dict=weights)


def with_tags(model: Path | str, tags: Sequence[str]) -> Path | str:
    """The model with each tag as one token of its tokenizer; itself if they are that already.

    The rows of a new token, of the embeddings and of an output layer of its own, are the means of the rows of the tokens
    that spelled it until now, or of all rows if the tokenizer has none of its characters. A network with more rows than its tokenizer has tokens grows only by what it lacks.

    Raises:
        LoadError: there is no such model, or its tokenizer does not take the tags.
        RunError: the cache cannot be written.
    """
    with loading(model):
        if not add_tags(AutoTokenizer.from_pretrained(model), tags):
            return model

    def change(network: PreTrainedModel, tokenizer: "PreTrainedTokenizerFast") -> None:
        pieces = add_tags(tokenizer, tags)
        rows = 1 + max(pieces)
        if rows > len(_weight(network.get_input_embeddings())):
            network.resize_token_embeddings(rows, mean_resizing=False)
        layers = (network.get_input_embeddings(), network.get_output_embeddings())
        tensors = {
            id(p): p for layer in layers if layer is not None for p in layer.parameters()
        }  # a tied one once
        with torch.no_grad():
            for tensor in tensors.values():
                for token_id, spelled in pieces.items():
                    tensor[token_id] = tensor[spelled or slice(None)].float().mean(0)

    return _copy(model, f"with the tokens {' '.join(tags)}", change)


def untied(model: Path | str) -> Path | str:
    """The model with an output layer of its own, which begins as its embeddings; itself if it has one.

    Raises:
        LoadError: there is no such model.
        RunError: the cache cannot be written.
    """
    with loading(model):
        config = AutoConfig.from_pretrained(
            model, trust_remote_code=False
        )  # transformers would ask at the terminal
        if not config.get_text_config(decoder=True).tie_word_embeddings:
            return model

    def change(network: PreTrainedModel, tokenizer: "PreTrainedTokenizerFast") -> None:
        head: Any = network.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        for config in (network.config, network.config.get_text_config(decoder=True)):
            config.tie_word_embeddings = False

    return _copy(model, "with an output layer of its own", change)


def _copy(
    model: Path | str, what: str, change: "Callable[[PreTrainedModel, PreTrainedTokenizerFast], None]"
) -> Path:
    """A changed copy of the model and its tokenizer, made once and kept in the cache."""
    with loading(model):
        digest = hashlib.sha256(f"{_COPIES}\n{_identity(model)}\n{what}".encode()).hexdigest()[:16]
    name = Path(model).name

    def make(folder: Path) -> None:
        network = load_network(model, "auto")
        with loading(model):
            tokenizer = AutoTokenizer.from_pretrained(model)
            change(network, tokenizer)
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        text = f"# {name} {what}\n\nA copy that `aipo` made of {model}. It is made again when it is needed.\n"
        (folder / CARD).write_text(text, encoding="utf-8")

    return cached_folder(f"{name}-{digest}", make, what=f"{name} {what}")


def _identity(model: Path | str) -> str:
    """What changes when other weights or another tokenizer come to stand under this name."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model} {AutoConfig.from_pretrained(model)._commit_hash}"
    if recorded := recorded_files(folder):
        return json.dumps(recorded, sort_keys=True)
    files = sorted(path for path in folder.resolve().iterdir() if path.is_file() and path.name != CARD)
    return "\n".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)


def _tied(network: PreTrainedModel) -> dict[str, str]:
    """The weights that a tied model has under two names, each by the other's."""
    tied: Any = network
    return (
        dict(tied.all_tied_weights_keys)
        if network.config.get_text_config(decoder=True).tie_word_embeddings
        else {}
    )


def _weight(layer: torch.nn.Module) -> Tensor:
    return layer.get_parameter("weight")
