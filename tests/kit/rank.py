"""Trains tiny models on given rows, alone or as one of several ranks; rank 0 writes down what came out.

python worker.py OUT
accelerate launch --multi_gpu --num_processes 2 worker.py OUT
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from transformers import Qwen2ForCausalLM

from aipo.method.batch import Totals
from aipo.method.loss import LossSettings
from aipo.method.rows import rows_of
from aipo.method.step_rows import StepRows
from aipo.trace.token_stats import TokenStats
from aipo.train.ranks import RankedSource, Ranks, join, leave
from aipo.train.trainer import AIPOTrainer, arguments
from kit import tiny
from kit.tiny import agent, policy, prompt, trace

CASES: dict[str, dict[str, Any]] = {
    "dapo": {},
    "grpo": {"settings": {"objective": "grpo"}, "accumulation": 2},
    "dr_grpo, two passes": {"settings": {"objective": "dr_grpo"}, "updates": 2, "iterations": 2},
    "importance": {"settings": {"importance_cap": 1.1}, "how": {"recompute": True}, "updates": 2},
    "kl, clipped gradient": {"settings": {"beta": 0.3}, "updates": 2, "max_grad_norm": 0.05},
    "fewer rows than places": {"updates": 2, "accumulation": 3},
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
    return StepRows(rows=rows, totals=Totals.of(rows), active_share=6 / 7, metrics={"active_share": 6 / 7})


def train(case: dict[str, Any], folder: Path, ranks: Ranks) -> None:
    """Trains one case; rank 0 leaves `trained.pt` beside the metrics."""
    how = dict(case)
    settings = LossSettings(**how.pop("settings", {}))
    told: list[TokenStats] = []
    given = tiny.Rows([generation(0), generation(1)])
    made = {"generations": 2, "learning_rate": 1e-3, "max_completion_length": 16, "settings": settings}
    options = how.pop("how", {})
    ranks.on_main(lambda: tiny.saved(folder / "start"))
    trainer = AIPOTrainer(
        Qwen2ForCausalLM.from_pretrained(folder / "start"),
        arguments(folder, **made, **how, use_cpu=True),
        RankedSource(ranks=ranks, source=ranks.on_main(lambda: given)),
        settings,
        tokenizer=tiny.tokenizer(),
        on_token_stats=lambda _, token_stats: told.extend(token_stats),
        ranks=ranks,
        **options,
    )
    trainer.train()
    assert given.asked == ([0, 1] if ranks.is_main else [])
    if ranks.is_main:
        weights = {name: p.detach() for name, p in trainer.model.named_parameters()}
        token_stats = {
            f"{one.trace_id} {one.update}": [one.weights_T.tolist(), np.nan_to_num(one.ratios_T).tolist()]
            for one in told
        }
        torch.save({"weights": weights, "token_stats": token_stats}, folder / "trained.pt")


def main(out: Path) -> None:
    torch.set_num_threads(1)
    ranks = join(cpu=True)
    for name, case in CASES.items():
        train(case, out / name, ranks)
    leave(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
