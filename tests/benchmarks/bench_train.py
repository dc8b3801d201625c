"""One optimiser step of AIPO against TRL's own, on the same rows.

    python tests/benchmarks/bench_train.py [--repeats 60]

The miniature's size: 2 layers, width 96, 40 ids, 64 rows of about 70 tokens, one thread, no agent tokens.
The rows are those of a sampled batch, so both do the same work. Steps of the two alternate, and the
ratio is that of the medians.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from trl import GRPOTrainer

from aipo.method.batch import Totals
from aipo.method.loss import LossSettings
from aipo.method.rows import rows_of
from aipo.method.step_rows import StepRows
from aipo.train.trainer import AIPOTrainer, arguments
from kit import handmade, tiny

ROWS, VOCABULARY = 64, 40


def made(rng: np.random.Generator) -> StepRows:
    def trace(i: int) -> tiny.Trace:
        length = int(rng.integers(40, 80))
        ids = rng.integers(2, VOCABULARY, 10 + length)
        policy = handmade.policy(*ids[10:], logprobs=-3 - rng.random(length))
        return handmade.trace(
            handmade.prompt(*ids[:10]), policy, trace_id=str(i), advantage=float(rng.choice([-1, 1]))
        )

    rows = tuple(row for i in range(ROWS) for row in rows_of(trace(i)))
    return StepRows(rows=rows, totals=Totals.of(rows), active_share=1.0)


class TheirLoss(AIPOTrainer):
    """Same loop and rows; the loss and its metrics are TRL's."""

    def _compute_loss(self, model, inputs):
        theirs = {k: inputs[k] for k in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")}
        tokens = torch.tensor(float(self.source.rows(0).totals.policy_tokens))
        theirs |= {"advantages": inputs["advantages"], "num_items_in_batch": tokens}
        theirs["old_per_token_logps"] = inputs["behaviour"].nan_to_num()
        return GRPOTrainer._compute_loss(self, model, theirs)

    def _report(self):
        pass


def trainer(kind: type[AIPOTrainer], folder: str, rows: StepRows) -> AIPOTrainer:
    settings = LossSettings()
    args = arguments(
        f"{folder}/{kind.__name__}",
        generations=1,
        learning_rate=1e-4,
        max_completion_length=128,
        settings=settings,
    )
    model = tiny.model(vocabulary=VOCABULARY, hidden=96)
    return kind(model, args, tiny.Rows([rows]), settings, tokenizer=tiny.tokenizer(VOCABULARY))


def one_step(runner: AIPOTrainer) -> float:
    """Seconds from rows to scaled gradients: batching, forward, loss, metrics, backward."""
    runner._step = 0
    started = time.perf_counter()
    runner.training_step(runner.model, [], None)
    runner._report()
    runner.model.zero_grad()
    return time.perf_counter() - started


def loop_overhead(folder: str, rows: StepRows, steps: int = 100) -> float:
    """Seconds per optimiser step of the whole loop, on rows so small that little else is left."""
    settings = LossSettings()
    small = StepRows(rows=rows.rows[:1], totals=Totals.of(rows.rows[:1]), active_share=1.0)
    args = arguments(
        f"{folder}/loop", generations=steps, learning_rate=1e-4, max_completion_length=128, settings=settings
    )
    runner = AIPOTrainer(tiny.model(), args, tiny.Rows([small]), settings, tokenizer=tiny.tokenizer())
    small.rows[0].token_ids_T[:] %= tiny.VOCABULARY
    started = time.perf_counter()
    runner.train()
    return (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rows = made(np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = trainer(AIPOTrainer, folder, rows), trainer(TheirLoss, folder, rows)
        for runner in (ours, theirs):
            runner.current_gradient_accumulation_steps = 1
            one_step(runner)
        seconds = [(one_step(ours), one_step(theirs)) for _ in range(repeats)]
        loop = loop_overhead(folder, made(np.random.default_rng(0)))
    ours_s, theirs_s = (statistics.median(column) for column in zip(*seconds, strict=True))
    tokens = sum(map(len, rows.rows))
    print(f"rows {ROWS}, tokens {tokens}, repeats {repeats}")
    print(f"AIPO {1e3 * ours_s:8.2f} ms/step  {tokens / ours_s:10,.0f} tok/s")
    print(f"TRL  {1e3 * theirs_s:8.2f} ms/step  {tokens / theirs_s:10,.0f} tok/s")
    print(f"ratio of medians {ours_s / theirs_s:.3f}")
    print(f"loop {1e3 * loop:8.2f} ms per optimiser step with one row")


if __name__ == "__main__":
    main()
