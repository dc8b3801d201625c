"""Trains a tiny model whose weights are spread over the ranks (FSDP2), and as a whole; both write down what came out.

accelerate shards on GPUs only. On CPUs the network is sharded here, where accelerate does it there; what the
trainer does with sharded weights, and how they are gathered, is then the same.

    python sharded.py OUT
    accelerate launch --multi_gpu --num_processes 2 sharded.py OUT
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny
import torch
from ranks.worker import generation
from torch.distributed.fsdp import fully_shard
from transformers import Qwen2ForCausalLM

from aipo.adapter import add_adapter
from aipo.loss import LossSettings
from aipo.ranks import RankedSource, Ranks, join, leave
from aipo.sections import LoRAConfig
from aipo.snapshot import plain, save_snapshot
from aipo.trainer import AIPOTrainer, arguments
from aipo.whole import whole_of

CASES: dict[str, dict[str, Any]] = {
    "all weights": {"accumulation": 2},
    "tied, two passes": {"tied": True, "updates": 2, "iterations": 2},
    "kl": {"beta": 0.3, "updates": 2},
    "adapter": {"lora": True, "updates": 2},
    "adapter, kl": {"lora": True, "beta": 0.3, "accumulation": 2},
}


def shard(network: Any) -> None:
    inner = plain(network)
    for layer in inner.model.layers:
        fully_shard(layer)
    fully_shard(network)


def train(case: dict[str, Any], folder: Path, ranks: Ranks) -> None:
    how = dict(case)
    tied, lora, beta = how.pop("tied", False), how.pop("lora", False), how.pop("beta", 0.0)

    def start() -> None:
        network = tiny.model()
        network.config.tie_word_embeddings = tied
        network.tie_weights()
        network.save_pretrained(folder / "start")

    ranks.lead(start)
    network: Any = Qwen2ForCausalLM.from_pretrained(folder / "start")
    if lora:
        network = add_adapter(network, LoRAConfig(rank=4, alpha=8), seed=0)
    whole = whole_of(network, ranks)
    gathered: list[float] = []

    def gather() -> None:
        whole.gather()
        if ranks.leads:
            gathered.append(sum(p.detach().double().sum().item() for p in whole.network.parameters()))

    settings = LossSettings(beta=beta)
    given = tiny.Rows([generation(0), generation(1)])
    trainer = AIPOTrainer(
        network,
        arguments(
            folder,
            generations=2,
            learning_rate=1e-3,
            max_completion_length=16,
            settings=settings,
            use_cpu=True,
            **how,
        ),
        RankedSource(ranks=ranks, source=ranks.lead(lambda: given), gather=gather),
        settings,
        tokenizer=tiny.tokenizer(),
        ranks=ranks,
    )
    if ranks.sharded:
        shard(network)
        trainer.accelerator.prepare_model = lambda model, **_: model  # which would be DDP's
    trainer.train()
    gather()
    ranks.lead(lambda: save_snapshot(whole.network, folder / "model"))
    ranks.lead(lambda: torch.save(gathered, folder / "gathered.pt"))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    ranks = join(cpu=True)
    ranks = replace(ranks, sharded=ranks.size > 1)
    for name, case in CASES.items():
        train(case, out / name, ranks)
    leave(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
