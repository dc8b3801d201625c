"""Does training fit in memory? A rough estimate from the network's shape, for a machine of any kind.

`aipo.doctor.step` measures instead, where there is a GPU. The estimate counts what grows with the model, the context
and the batch. Kernels' work space, fragments and the CUDA context come on top: `HEADROOM` leaves room for them.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aipo.config.build import Experiment
from aipo.config.load import PRESETS
from aipo.doctor.check import Check
from aipo.doctor.tokens import needs_tags
from aipo.policies.lora import LoRASettings

SIZES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 1 << 30
HEADROOM = 0.9
"""Share of a GPU that a plan may fill."""
SMALLER = "train.activation_checkpointing, more train.gradient_accumulation, a smaller rollout.max_tokens, policy.lora"

_FSDP2 = PRESETS / "accelerate" / "fsdp2.yaml"
_MORE = ", or more GPUs (FSDP2, with policy.engine=vllm and policy.vllm.sync=disk)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides how much memory a decoder-only network takes.

    Args:
        parameters: all of them; tied ones count once.
        adapter: parameters of the LoRA adapter that is trained, in float32; 0 = all weights are trained.
        layers, hidden, intermediate, vocabulary: as in its configuration.
        cache: numbers in the KV cache per token.
    """

    parameters: int
    adapter: int = 0
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    cache: int

    @classmethod
    def of(cls, config: Any, lora: LoRASettings | None = None) -> "Shape":
        """The shape that a transformers configuration describes, trained whole or with an adapter."""
        import torch
        from transformers import AutoModelForCausalLM

        text: Any = config.get_text_config(decoder=True)
        with torch.device("meta"):
            network: Any = AutoModelForCausalLM.from_config(config)
        heads = text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
        widths = [
            module.in_features + module.out_features
            for name, module in network.named_modules()
            if isinstance(module, torch.nn.Linear)
            and module is not network.get_output_embeddings()
            and lora
            and (lora.targets is None or name.rpartition(".")[2] in lora.targets)
        ]
        return cls(
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            adapter=lora.rank * sum(widths) if lora else 0,
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            vocabulary=text.vocab_size,
            cache=2 * text.num_hidden_layers * kv_heads * head_dim,
        )


def training(experiment: Experiment, shape: Shape, prompt: int, *, ranks: int) -> dict[str, int]:
    """Bytes that one of `ranks` training processes holds at its fullest, by part, if all rollouts are long.

    Several processes share weights, gradients and optimiser state (FSDP2).

    Args:
        prompt: tokens of a long prompt.
    """
    train, size = experiment.train, SIZES[experiment.policy.dtype]
    whole, adapter = size * shape.parameters, 4 * shape.adapter // ranks
    weights, gradients = whole // ranks, adapter or whole // ranks
    tokens = micro_batch_rows(experiment, ranks) * (prompt + experiment.rollout.max_tokens)
    # FSDP2 gathers two layers and the output layer at a time, and two layers' gradients where weights are trained.
    gathered = (2 if adapter else 4) * shape.parameters // shape.layers + shape.vocabulary * shape.hidden
    # Sharded weights are cast anew for each product, unless the backward pass needs the copies.
    copied = train.autocast and not (ranks > 1 and train.activation_checkpointing)
    reference = experiment.method.beta > 0 and not adapter
    parts = {
        "weights": weights,
        "adapter": adapter,
        "gradients": gradients,
        "optimiser": 2 * gradients,  # AdamW's running means
        "gathered": size * gathered if ranks > 1 else 0,
        "compute copies": 2 * shape.parameters if copied else 0,
        "activations": tokens * _activations(experiment, shape),
        "logits": _logits(experiment, shape, tokens),
        "reference": weights + (2 * whole if ranks > 1 else 0) if reference else 0,
    }
    return {name: count for name, count in parts.items() if count}


def micro_batch_rows(experiment: Experiment, ranks: int = 1) -> int:
    """The most rows that one of `ranks` processes trains at once."""
    train, method = experiment.train, experiment.method
    rows = (
        train.tasks_per_step * train.group_size * (1 + method.assist_share_most * (method.distil_weight > 0))
    )
    return math.ceil(rows / (train.minibatches * train.gradient_accumulation * ranks))


def suppresses(experiment: Experiment) -> bool:
    """Whether there are rows with suppressed tags, whose logits are all in memory at once."""
    return bool(set(needs_tags(experiment)) & {"method.suppress_share", "method.distil_suppress"})


def _activations(experiment: Experiment, shape: Shape) -> int:
    """Bytes per token that the backward pass needs, logits apart; about what a Llama or Qwen decoder keeps whose
    attention stores no scores. Tests compare it with what autograd keeps: it is at most 10 % less."""
    size = SIZES[experiment.policy.dtype]
    compute = 2 if experiment.train.autocast else size
    # Norms and the residual stream, in float32. Then the MLP: gate, its activation, up, product; an adapter's cast.
    layer = 36 * shape.hidden + (4 * compute + (2 if shape.adapter else 0)) * shape.intermediate
    if experiment.train.activation_checkpointing:
        return shape.layers * size * shape.hidden + layer
    return shape.layers * layer


def _logits(experiment: Experiment, shape: Shape, tokens: int) -> int:
    if suppresses(experiment):
        return 4 * 4 * tokens * shape.vocabulary  # four float32 copies
    # TRL's fused head never holds all logits. It holds the gradients of its input and of its weights, in float32.
    return 4 * shape.hidden * (tokens + (0 if shape.adapter else shape.vocabulary))


def host(experiment: Experiment, shape: Shape, *, ranks: int) -> dict[str, int]:
    """Bytes of the machine's own memory that `ranks` processes hold when they start FSDP2: each has the whole network,
    and the first one a copy to save and to give to servers."""
    whole = SIZES[experiment.policy.dtype] * shape.parameters
    references = ranks * whole if experiment.method.beta > 0 and not shape.adapter else 0
    parts = {"networks": ranks * whole, "references": references, "copy": whole}
    return {name: count for name, count in parts.items() if count}


def check_memory(experiment: Experiment, shape: Shape, prompt: int) -> Iterator[Check]:
    """The estimate against the free memory of a GPU, or of this machine; for FSDP2 where only several GPUs suffice."""
    gpus, free, place = _place(experiment)
    ranks = processes(experiment, shape, prompt)
    parts = training(experiment, shape, prompt, ranks=ranks)
    if ranks > 1:
        launch = f"--config_file {_FSDP2} --num_processes {gpus} -m aipo.cli train"
        what = f"training with FSDP2 over {gpus} GPUs (accelerate launch {launch}) takes about"
        yield _fits("memory", what, parts, free, f"each {place}", SMALLER)
        what, machine = f"{ranks} processes begin with about", f"this machine of {gib(_machine())}"
        advice = "a machine with more memory, or fewer GPUs (CUDA_VISIBLE_DEVICES)"
        yield _fits("host memory", what, host(experiment, shape, ranks=ranks), _machine(), machine, advice)
    else:
        yield _fits("memory", "training takes about", parts, free, f"a {place}", SMALLER + _MORE)
    if experiment.policy.engine == "vllm":
        size = SIZES[experiment.policy.vllm.serve.dtype or experiment.policy.dtype]
        long = size * shape.cache * (prompt + experiment.rollout.max_tokens)
        weights = gib(size * shape.parameters)
        found = f"a server takes {weights} for weights and {gib(long)} of cache per long rollout"
        yield Check("ok", "server memory", found)


def processes(experiment: Experiment, shape: Shape, prompt: int) -> int:
    """1, or as many as there are GPUs where only all of them together have room and may share the weights."""
    gpus, free, _ = _place(experiment)
    vllm = (
        experiment.policy.engine == "vllm" and experiment.policy.vllm.sync == "disk"
    )  # else `aipo train` refuses
    if gpus < 2 or not vllm or _total(experiment, shape, prompt, 1) <= HEADROOM * free:
        return 1
    return gpus if _total(experiment, shape, prompt, gpus) <= free else 1


def _total(experiment: Experiment, shape: Shape, prompt: int, ranks: int) -> int:
    return sum(training(experiment, shape, prompt, ranks=ranks).values())


def on_gpu(experiment: Experiment) -> bool:
    """Whether the policy is trained on a GPU of this machine."""
    import torch

    return experiment.policy.device != "cpu" and torch.cuda.is_available()


def _place(experiment: Experiment) -> tuple[int, int, str]:
    """How many GPUs there are, how much memory one of them, or else the machine, offers, and how to say that."""
    import torch

    if not on_gpu(experiment):
        return 0, _machine(), f"machine of {gib(_machine())}"
    free, whole = torch.cuda.mem_get_info(0)  # servers may use some of it
    return torch.cuda.device_count(), free, f"GPU with {gib(free)} of {gib(whole)} free"


def _machine() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _fits(name: str, what: str, parts: Mapping[str, int], free: int, place: str, advice: str) -> Check:
    total = sum(parts.values())
    found = f"{what} {gib(total)}: {listed(parts)}"
    if total <= HEADROOM * free:
        return Check("ok", name, f"{found}; fits {place}")
    return Check("warn" if total <= free else "fail", name, f"{found}; too much for {place}", advice)


def listed(parts: Mapping[str, int]) -> str:
    """The parts of an amount of memory, in words."""
    return ", ".join(f"{name} {gib(count)}" for name, count in parts.items())


def gib(count: float) -> str:
    """Bytes in readable units."""
    for unit, size in (("GiB", GIB), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count / 1024:.3g} KiB"
