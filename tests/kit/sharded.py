"""Trains a tiny model whose weights are spread over the ranks (FSDP2), and as a whole; both write down what came out.

accelerate shards on GPUs only, and is told here that these CPUs are some; what it does then is what the presets' own
file says (aipo/presets/accelerate/fsdp2.yaml).

    python sharded.py OUT
    accelerate launch --multi_gpu --num_processes 2 sharded.py OUT
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import yaml
from accelerate import DistributedType, PartialState
from transformers import Qwen2ForCausalLM, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import aipo.train.trainer
from aipo.config.load import PRESETS
from aipo.method.loss import LossSettings
from aipo.policies.lora import add_adapter
from aipo.policies.weights import save_snapshot
from aipo.train.ranks import RankedSource, Ranks, join, leave
from aipo.train.trainer import AIPOTrainer, arguments
from aipo.train.whole import full_weights
from kit import tiny
from kit.rank import generation

CASES: dict[str, dict[str, Any]] = {
    "all weights": {"accumulation": 2},
    "tied, two passes": {"tied": True, "updates": 2, "iterations": 2},
    "kl": {"beta": 0.3, "updates": 2},
    "adapter": {"lora": True, "updates": 2},
    "adapter, kl": {"lora": True, "beta": 0.3, "accumulation": 2},
    "autocast": {"autocast": True, "singly": True},
    "autocast, checkpointing": {"autocast": True, "singly": True, "activation_checkpointing": True},
    "autocast, fused head": {"autocast": True, "singly": True, "dense": 0},
}


class Summed(TrainerCallback):
    """Sees how a rank holds its gradients between two micro-batches of an optimiser step."""

    def __init__(self, types: set[str]) -> None:
        self._types = types

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        gradients = [p.grad for p in more["model"].parameters() if p.requires_grad]
        self._types |= {"none" if g is None else f"{type(g).__name__} of {g.dtype}" for g in gradients}


def train(case: dict[str, Any], folder: Path, ranks: Ranks) -> None:
    how = dict(case)
    tied, lora, beta = how.pop("tied", False), how.pop("lora", False), how.pop("beta", 0.0)
    if how.pop("singly", False):  # of the six rows; in company bfloat16 rounds otherwise
        how["accumulation"] = 6 // ranks.size
    aipo.train.trainer._DENSE_LOGITS = how.pop("dense", 2**24)

    def start() -> None:
        network = tiny.model()
        network.config.tie_word_embeddings = tied
        network.tie_weights()
        network.save_pretrained(folder / "start")

    ranks.on_main(start)
    network: Any = Qwen2ForCausalLM.from_pretrained(folder / "start")
    if lora:
        network = add_adapter(network, rank=4, alpha=8, seed=0)
    whole = full_weights(network, ranks)
    gathered: list[float] = []
    gradients: set[str] = set()

    def gather() -> None:
        whole.gather()
        if ranks.is_main:
            gathered.append(sum(p.detach().double().sum().item() for p in whole.network.parameters()))

    settings = LossSettings(beta=beta)
    given = tiny.Rows([generation(0), generation(1)])
    args = arguments(
        folder,
        generations=2,
        learning_rate=1e-3,
        max_completion_length=16,
        settings=settings,
        use_cpu=True,
        **how,
    )
    if ranks.sharded:
        PartialState().distributed_type = DistributedType.MULTI_GPU  # arguments start it anew
    trainer = AIPOTrainer(
        network,
        args,
        RankedSource(ranks=ranks, source=ranks.on_main(lambda: given), gather=gather),
        settings,
        tokenizer=tiny.tokenizer(),
        recompute=True,
        callbacks=[Summed(gradients)],
        ranks=ranks,
    )
    trainer.train()
    gather()
    ranks.on_main(lambda: save_snapshot(whole.network, folder / "model"))
    with trainer.accelerator.autocast():
        kept = how.get("autocast", False) and torch.is_autocast_cache_enabled()
    seen = {"gathered": gathered, "gradients": gradients, "kept": kept}
    ranks.on_main(lambda: torch.save(seen, folder / "seen.pt"))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    ranks = join(cpu=True)
    ranks = replace(ranks, sharded=ranks.size > 1)
    if ranks.sharded:
        how = yaml.safe_load((PRESETS / "accelerate" / "fsdp2.yaml").read_text())["fsdp_config"]
        os.environ |= {name.upper(): str(value) for name, value in how.items()}  # as the launcher does
        os.environ["ACCELERATE_USE_FSDP"] = "true"
    for name, case in CASES.items():
        train(case, out / name, ranks)
    leave(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
