"""How much memory a run takes: arithmetic on the shape of the network, in bytes. An estimate to plan with.

What is counted is what grows with the model, the context and the batch. The rest (kernels' work space,
fragments, the CUDA context) is a few GiB per process, for which `HEADROOM` leaves room.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SIZES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 1 << 30
HEADROOM = 0.9
"""Share of a GPU that a plan may fill."""

_ADAM = 2  # running means of the gradient and of its square, each in the type of the weights
_DENSE = 4  # float32 copies of the logits that aipo.loss.token_logprobs holds at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a decoder-only network decides how much memory it takes.

    Args:
        parameters: all of them; tied ones count once.
        hidden, intermediate: widths of the residual stream and inside the gated MLP.
        heads, kv_heads, head_dim: of attention; keys and values may be shared by several heads.
        vocabulary: how many ids it has.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """The shape that a transformers configuration describes. The network is drawn up, without numbers in it."""
        import torch
        from transformers import AutoModelForCausalLM

        text: Any = config.get_text_config(decoder=True)
        with torch.device("meta"):
            network: Any = AutoModelForCausalLM.from_config(config)
        heads = text.num_attention_heads
        return cls(
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocabulary=text.vocab_size,
        )


def training(
    shape: Shape,
    *,
    dtype: str,
    tokens: int,
    trainable: int | None = None,
    ranks: int = 1,
    autocast: bool = False,
    activation_checkpointing: bool = False,
    reference: bool = False,
    dense: bool = False,
) -> dict[str, int]:
    """What one training process holds at its fullest, by part.

    Args:
        dtype: of weights, gradients and AdamW's two running means.
        tokens: of one micro-batch of this process, padding included.
        trainable: parameters that are trained; None = all.
        ranks: processes that weights, gradients and optimiser are cut over (FSDP2); 1 = none, or copies (DDP).
        autocast: computes in bfloat16.
        activation_checkpointing: only each layer's input is kept for the backward pass.
        reference: the first policy is kept besides, for a KL term.
        dense: whole logits are scored at once, as rows with forbidden tags need; else TRL's fused head.
    """
    size, trained = SIZES[dtype], shape.parameters if trainable is None else trainable
    held = size * shape.parameters // ranks
    parts = {
        "weights": held,
        "gradients": size * trained // ranks,
        "optimiser": _ADAM * size * trained // ranks,
        "compute copies": _copies(shape, 2 if autocast else size, ranks, autocast=autocast),
        "activations": activations(
            shape, dtype=dtype, tokens=tokens, autocast=autocast, checkpointing=activation_checkpointing
        ),
        "logits": logits(shape, tokens=tokens, dense=dense),
        "reference": held if reference else 0,
    }
    return {name: count for name, count in parts.items() if count}


def activations(shape: Shape, *, dtype: str, tokens: int, autocast: bool, checkpointing: bool) -> int:
    """What the backward pass needs of the forward pass of a Llama or Qwen decoder whose attention keeps no
    scores (SDPA, flash), logits apart."""
    size, stream = SIZES[dtype], shape.hidden
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_dim  # queries and output, keys and values
    inside = attention + 4 * shape.intermediate  # gate, its activation, up, and their product
    exact = 2 + shape.heads  # norms' and attention's own numbers
    if autocast:
        # Norms and the stream stay float32; inputs of the seven projections are cast, each for itself.
        layer = 2 * (5 * stream + inside) + 4 * (4 * stream + exact)
    else:
        # Two norms compute in float32, whatever the weights are.
        layer = size * (4 * stream + inside) + 4 * (2 * stream + exact)
    if not checkpointing:
        return tokens * shape.layers * layer
    return tokens * (shape.layers * size * stream + layer)  # one layer at a time is computed again


def logits(shape: Shape, *, tokens: int, dense: bool) -> int:
    """What scoring takes. TRL's fused head never holds them all, but its gradients are whole and in float32."""
    if dense:
        return _DENSE * 4 * tokens * shape.vocabulary
    return 4 * shape.hidden * (shape.vocabulary + tokens)


def cache(shape: Shape, *, dtype: str, tokens: int) -> int:
    """Keys and values of `tokens` tokens of context, on a server."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * SIZES[dtype] * tokens


def checkpoint(shape: Shape, *, dtype: str, trainable: int | None = None) -> int:
    """A checkpoint on the disk: weights, and AdamW's two running means of what is trained."""
    trained = shape.parameters if trainable is None else trainable
    return SIZES[dtype] * (shape.parameters + _ADAM * trained)


def gib(count: float) -> str:
    """Bytes as people say them."""
    for unit, size in (("GiB", GIB), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count / 1024:.3g} KiB"


def _copies(shape: Shape, size: int, ranks: int, *, autocast: bool) -> int:
    """Weights besides those that are held: autocast's bfloat16 copies, or the two layers that FSDP2 has gathered
    whole at a time."""
    if ranks > 1:
        return 2 * size * shape.parameters // shape.layers
    return size * shape.parameters if autocast else 0
