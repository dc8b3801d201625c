"""Trains tiny models on given rows, alone or as one of several ranks; rank 0 writes down what came out.

`whole` has a copy of the weights on every rank. `sharded` spreads them over the ranks (FSDP2): accelerate does so on GPUs
only, and is told here that these CPUs are some; what it does then is what the presets' own file says
(aipo/presets/accelerate/fsdp2.yaml).

    python ranks.py whole|sharded OUT
    accelerate launch --multi_gpu --num_processes 2 ranks.py whole|sharded OUT
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # in place of kit/, whose vllm.py is not vLLM

import numpy as np
import torch
import yaml
from accelerate import DistributedType, PartialState
from transformers import Qwen2ForCausalLM, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import aipo.train.trainer
from aipo.config import PRESETS
from aipo.method.batch import TokenTotals
from aipo.method.rows import rows_of
from aipo.method.step_rows import StepRows
from aipo.policies.lora import LoRASettings, add_adapter
from aipo.policies.weights import save_snapshot
from aipo.trace.token_stats import TokenStats
from aipo.train.ranks import RankedSource, Ranks, full_weights, join, leave
from aipo.train.schedule import trl_arguments
from aipo.train.trainer import AIPOTrainer
from kit import tiny
from kit.handmade import agent, policy, prompt, trace

_SIZE = {"rollout_steps": 2, "learning_rate": 1e-3, "max_completion_length": 16}
CASES: dict[str, dict[str, Any]] = {
    "dapo": {},
    "grpo": {"method": {"objective": "grpo"}, "gradient_accumulation": 2},
    "dr_grpo, two passes": {"method": {"objective": "dr_grpo"}, "minibatches": 2, "passes": 2},
    "importance": {"method": {"importance_cap": 1.1}, "minibatches": 2},
    "kl, clipped gradient": {"method": {"beta": 0.3}, "minibatches": 2, "max_grad_norm": 0.05},
    "fewer rows than places": {"minibatches": 2, "gradient_accumulation": 3},
}


def generation(seed: int) -> StepRows:
    """Seven rollouts of different lengths, one of them helped and one without an advantage."""
    rng = np.random.default_rng(seed)
    traces = []
    for i, advantage in enumerate((1.0, -0.5, 0.7, 0.0, -1.0, 0.3, 0.9)):
        ids = rng.integers(2, tiny.VOCABULARY, 14).tolist()
        own = policy(*ids[2 : 4 + i], logprobs=(-2.5 - 0.5 * rng.random(2 + i)).tolist())
        told = [agent(*ids[10:13])] if i == 2 else []
        traces.append(trace(prompt(*ids[: 1 + i % 2]), own, *told, trace_id=f"t{i}", advantage=advantage))
    rows = tuple(row for one in traces for row in rows_of(one))
    return StepRows(
        rows=rows, totals=TokenTotals.of(rows), active_share=6 / 7, metrics={"active_share": 6 / 7}
    )


def train_whole(case: dict[str, Any], folder: Path, ranks: Ranks) -> None:
    """Trains one case; rank 0 leaves `trained.pt` beside the metrics."""
    how = dict(case)
    method = tiny.method(**how.pop("method", {}))
    told: list[TokenStats] = []
    given = tiny.Rows([generation(0), generation(1)])
    ranks.on_main(lambda: tiny.saved(folder / "start"))
    trainer = AIPOTrainer(
        Qwen2ForCausalLM.from_pretrained(folder / "start"),
        trl_arguments(folder, method, **_SIZE, **how, use_cpu=True),
        RankedSource(ranks=ranks, source=ranks.on_main(lambda: given)),
        method,
        tokenizer=tiny.tokenizer(),
        on_token_stats=lambda _, token_stats: told.extend(token_stats),
        ranks=ranks,
    )
    trainer.train()
    assert given.asked == ([0, 1] if ranks.is_main else [])
    if ranks.is_main:
        weights = {name: p.detach() for name, p in trainer.model.named_parameters()}
        token_stats = {
            f"{one.trace_id} {one.optimizer_step}": [
                one.weights_T.tolist(),
                np.nan_to_num(one.ratios_T).tolist(),
            ]
            for one in told
        }
        torch.save({"weights": weights, "token_stats": token_stats}, folder / "trained.pt")


# -- weights that are spread over the ranks -----------------------------------------------------------------

SHARDED: dict[str, dict[str, Any]] = {
    "all weights": {"gradient_accumulation": 2},
    "tied, two passes": {"tied": True, "minibatches": 2, "passes": 2},
    "kl": {"beta": 0.3, "minibatches": 2},
    "adapter": {"lora": True, "minibatches": 2},
    "adapter, kl": {"lora": True, "beta": 0.3, "gradient_accumulation": 2},
    "adapter, rows of tokens": {"lora": True, "token_ids": (3, 5), "minibatches": 2},
    "autocast": {"autocast": True, "singly": True},
    "autocast, checkpointing": {"autocast": True, "singly": True, "activation_checkpointing": True},
    "autocast, fused head": {"autocast": True, "singly": True, "dense": 0},
}


class Summed(TrainerCallback):
    """Sees how a rank holds its gradients between two micro-batches of an optimizer step."""

    def __init__(self, types: set[str]) -> None:
        self._types = types

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        gradients = [p.grad for p in more["model"].parameters() if p.requires_grad]
        self._types |= {"none" if g is None else f"{type(g).__name__} of {g.dtype}" for g in gradients}


def train_sharded(case: dict[str, Any], folder: Path, ranks: Ranks) -> None:
    """Trains one case; leaves the model, and `seen.pt` on how it was held."""
    how = dict(case)
    tied, lora, beta = how.pop("tied", False), how.pop("lora", False), how.pop("beta", 0.0)
    token_ids = how.pop("token_ids", ())
    if how.pop("singly", False):  # of the six rows; in company bfloat16 rounds otherwise
        how["gradient_accumulation"] = 6 // ranks.size
    aipo.train.trainer._DENSE_LOGITS = how.pop("dense", 2**24)

    def start() -> None:
        network = tiny.model()
        network.config.tie_word_embeddings = tied
        network.tie_weights()
        network.save_pretrained(folder / "start")

    ranks.on_main(start)
    network: Any = Qwen2ForCausalLM.from_pretrained(folder / "start")
    if lora:
        network = add_adapter(network, LoRASettings(rank=4, alpha=8), seed=0, token_ids=token_ids)
    whole = full_weights(network, ranks)
    gathered: list[float] = []
    gradients: set[str] = set()

    def gather() -> None:
        whole.gather()
        if ranks.is_main:
            gathered.append(sum(p.detach().double().sum().item() for p in whole.network.parameters()))

    method = tiny.method(beta=beta)
    given = tiny.Rows([generation(0), generation(1)])
    args = trl_arguments(folder, method, **_SIZE, **how, use_cpu=True)
    if ranks.sharded:
        PartialState().distributed_type = DistributedType.MULTI_GPU  # arguments start it anew
    trainer = AIPOTrainer(
        network,
        args,
        RankedSource(ranks=ranks, source=ranks.on_main(lambda: given), gather=gather),
        method,
        tokenizer=tiny.tokenizer(),
        scores_again=True,
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


def main(kind: str, out: Path) -> None:
    torch.set_num_threads(1)
    ranks = join(cpu=True)
    if kind == "sharded":
        ranks = replace(ranks, sharded=ranks.size > 1)
    if ranks.sharded:
        how = yaml.safe_load((PRESETS / "accelerate" / "fsdp2.yaml").read_text())["fsdp_config"]
        os.environ |= {name.upper(): str(value) for name, value in how.items()}  # as the launcher does
        os.environ["ACCELERATE_USE_FSDP"] = "true"
    train, cases = (train_sharded, SHARDED) if kind == "sharded" else (train_whole, CASES)
    for name, case in cases.items():
        train(case, out / name, ranks)
    leave(ranks)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
