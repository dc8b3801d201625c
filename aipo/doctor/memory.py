"""How much memory a run takes: arithmetic on the shape of the network, in bytes. An estimate to plan with.

What is counted is what grows with the model, the context and the batch. The rest (kernels' work space,
fragments, the CUDA context) is a few GiB per process, for which `HEADROOM` leaves room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SIZES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 1 << 30
HEADROOM = 0.9
"""Share of a GPU that a plan may fill."""

_ADAM = 2  # running means of the gradient and of its square, each in the type of the weights
_DENSE = 4  # float32 copies of the logits that aipo.policies.logprobs.token_logprobs holds at once


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
        """The shape that a transformers configuration describes."""
        text: Any = config.get_text_config(decoder=True)
        network = _drawn(config)
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


@dataclass(frozen=True, slots=True)
class Adapter:
    """What is trained of a network with LoRA (2106.09685): `parameters` of matrices of width `rank`, in float32."""

    rank: int
    parameters: int

    @classmethod
    def of(cls, config: Any, rank: int, targets: Sequence[str] | None = None) -> "Adapter":
        """The adapter of every linear layer but the output layer, or of those that are called `targets`."""
        import torch

        network = _drawn(config)
        widths = [
            module.in_features + module.out_features
            for name, module in network.named_modules()
            if isinstance(module, torch.nn.Linear)
            and module is not network.get_output_embeddings()
            and (targets is None or name.rpartition(".")[2] in targets)
        ]
        return cls(rank, rank * sum(widths))


def training(
    shape: Shape,
    *,
    dtype: str,
    tokens: int,
    adapter: Adapter | None = None,
    ranks: int = 1,
    autocast: bool = False,
    activation_checkpointing: bool = False,
    reference: bool = False,
    dense: bool = False,
) -> dict[str, int]:
    """What one training process holds at its fullest, by part.

    Args:
        dtype: of the weights, and of gradients and AdamW's two running means where all of them are trained.
        tokens: of one micro-batch of this process, padding included.
        adapter: is trained instead of the weights.
        ranks: processes that weights, gradients and optimiser are cut over (FSDP2); 1 = none, or copies (DDP).
        autocast: computes in bfloat16.
        activation_checkpointing: only each layer's input is kept for the backward pass.
        reference: the first policy is kept for a KL term; besides, unless what is trained is an adapter. With FSDP2
            it is gathered in one piece: its weights, and until they are in place what has arrived of them.
        dense: whole logits are scored at once, as rows with forbidden tags need; else TRL's fused head.
    """
    size = SIZES[dtype]
    whole = size * shape.parameters
    held = whole // ranks
    gradients = held if adapter is None else 4 * adapter.parameters // ranks
    # Of sharded weights no copy outlives its product, unless the backward pass needs it (aipo.train.ranks.keep_types).
    copied = autocast and not (ranks > 1 and activation_checkpointing)
    parts = {
        "weights": held,
        "adapter": 4 * adapter.parameters // ranks if adapter else 0,
        "gradients": gradients,
        "optimiser": _ADAM * gradients,
        "gathered": gathered(shape, dtype=dtype, frozen=adapter is not None) if ranks > 1 else 0,
        "compute copies": 2 * shape.parameters if copied else 0,
        "activations": activations(
            shape,
            dtype=dtype,
            tokens=tokens,
            autocast=autocast,
            checkpointing=activation_checkpointing,
            rank=adapter.rank if adapter else 0,
        ),
        "logits": logits(shape, tokens=tokens, dense=dense, frozen=adapter is not None),
        "reference": held + (2 * whole if ranks > 1 else 0) if reference and adapter is None else 0,
    }
    return {name: count for name, count in parts.items() if count}


def gathered(shape: Shape, *, dtype: str, frozen: bool = False) -> int:
    """What FSDP2 has whole for a while, in the type of the weights: the layer that computes, the next one, and the
    output layer; and of weights that are trained as many layers' gradients, one made and one on its way. Those of
    the output layer are the head's (`logits`)."""
    layer = shape.parameters // shape.layers
    return SIZES[dtype] * ((2 if frozen else 4) * layer + shape.vocabulary * shape.hidden)


def activations(
    shape: Shape, *, dtype: str, tokens: int, autocast: bool, checkpointing: bool, rank: int = 0
) -> int:
    """What the backward pass needs of the forward pass of a Llama or Qwen decoder whose attention keeps no
    scores (SDPA, flash), logits apart.

    Args:
        rank: of an adapter on each of a layer's seven projections; 0 = none.
    """
    size, stream = SIZES[dtype], shape.hidden
    width = shape.heads * shape.head_dim
    attention = 2 * (width + shape.kv_heads * shape.head_dim)  # queries and output, keys and values
    inside = attention + 4 * shape.intermediate  # gate, its activation, up, and their product
    exact = 2 + shape.heads + 7 * rank  # norms', attention's and the adapter's own numbers
    norms = 0 if rank else 2 * stream  # what only the norms' own weights need
    if rank and size < 4:
        # The adapter is float32, and casts the inputs of the seven projections, each for itself.
        layer = size * (inside - shape.intermediate) + 4 * (7 * stream + width + shape.intermediate + exact)
    elif autocast:
        # Norms and the stream stay float32; inputs of the seven projections are cast, each for itself.
        layer = 2 * (5 * stream + inside) + 4 * (2 * stream + norms + exact)
    else:
        # Two norms compute in float32, whatever the weights are.
        layer = size * (2 * stream + norms + inside) + 4 * (2 * stream + exact)
    if not checkpointing:
        return tokens * shape.layers * layer
    return tokens * (shape.layers * size * stream + layer)  # one layer at a time is computed again


def logits(shape: Shape, *, tokens: int, dense: bool, frozen: bool = False) -> int:
    """What scoring takes. TRL's fused head never holds them all, but its gradients are whole and in float32: those
    of its input, and those of its weights unless they are frozen."""
    if dense:
        return _DENSE * 4 * tokens * shape.vocabulary
    return 4 * shape.hidden * (tokens + (0 if frozen else shape.vocabulary))


def host(shape: Shape, *, dtype: str, ranks: int, reference: bool = False) -> dict[str, int]:
    """What `ranks` processes that train together with FSDP2 hold in their machine's memory at its fullest, which is
    before the GPUs have their parts: each has all of the network, and the first a copy to save and to give to
    servers. Later there is that copy, and as much again while new weights come together (`aipo.train.ranks`).

    Args:
        reference: see `training`.
    """
    whole = SIZES[dtype] * shape.parameters
    parts = {"networks": ranks * whole, "references": ranks * whole if reference else 0, "copy": whole}
    return {name: count for name, count in parts.items() if count}


def cache(shape: Shape, *, dtype: str, tokens: int) -> int:
    """Keys and values of `tokens` tokens of context, on a server."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * SIZES[dtype] * tokens


def checkpoint(shape: Shape, *, dtype: str, adapter: Adapter | None = None) -> int:
    """A checkpoint on the disk: what is trained, and AdamW's two running means of it."""
    return (1 + _ADAM) * (SIZES[dtype] * shape.parameters if adapter is None else 4 * adapter.parameters)


def gib(count: float) -> str:
    """Bytes as people say them."""
    for unit, size in (("GiB", GIB), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count / 1024:.3g} KiB"


def _drawn(config: Any) -> Any:
    """The network that a transformers configuration describes, without numbers in it."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
