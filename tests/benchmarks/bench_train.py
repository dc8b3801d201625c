"""One optimizer step of AIPO against TRL's own, on the same rows.

    python tests/benchmarks/bench_train.py [--repeats 60]

The miniature's size: 2 layers, width 96, 40 ids, 64 rows of about 70 tokens, one thread, no agent tokens.
The rows are those of a sampled batch, so both do the same work. Steps of the two alternate, and the
ratio is that of the medians. Then the same with token stats kept and without: CPU time of a whole step (batching, forward,
loss, backward, optimizer, the file of the rollout step), and bytes on the disk.
"""

import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import alternate, cpu, options, wall
from trl import GRPOTrainer

from aipo.method.batch import TokenTotals
from aipo.method.rows import rows_of
from aipo.method.step_rows import StepRows
from aipo.trace import Trace
from aipo.trace.token_stats import TokenStatsStore
from aipo.train.schedule import trl_arguments
from aipo.train.trainer import AIPOTrainer
from kit import handmade, tiny

ROWS, VOCABULARY = 64, 40


def made(rng: np.random.Generator) -> StepRows:
    def trace(i: int) -> Trace:
        length = int(rng.integers(40, 80))
        ids = rng.integers(2, VOCABULARY, 10 + length)
        policy = handmade.policy(*ids[10:], logprobs=-3 - rng.random(length))
        return handmade.trace(
            handmade.prompt(*ids[:10]), policy, trace_id=str(i), advantage=float(rng.choice([-1, 1]))
        )

    rows = tuple(row for i in range(ROWS) for row in rows_of(trace(i)))
    return StepRows(rows=rows, totals=TokenTotals.of(rows), active_share=1.0)


class TheirLoss(AIPOTrainer):
    """Same loop and rows; the loss and its metrics are TRL's."""

    def _compute_loss(self, model, inputs):
        theirs = {k: inputs[k] for k in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")}
        tokens = torch.tensor(float(self.source.rows(0).totals.policy_tokens))
        theirs |= {"advantages": inputs["advantages"], "num_items_in_batch": tokens}
        theirs["old_per_token_logps"] = inputs["behaviour_logprobs"].nan_to_num()
        return GRPOTrainer._compute_loss(self, model, theirs)

    def _report(self):
        pass


def trainer(kind: type[AIPOTrainer], folder: Path, rows: StepRows, *, stats: bool = False) -> AIPOTrainer:
    method = tiny.method()
    args = trl_arguments(
        folder, method, rollout_steps=1, learning_rate=1e-4, max_completion_length=128, use_cpu=True
    )
    made = kind(
        tiny.model(vocabulary=VOCABULARY, hidden=96),
        args,
        tiny.Rows([rows]),
        method,
        tokenizer=tiny.tokenizer(VOCABULARY),
        on_token_stats=TokenStatsStore(folder / "token_stats").publish if stats else None,
    )
    made.current_gradient_accumulation_steps = 1
    made.create_optimizer()
    return made


def gradients(runner: AIPOTrainer) -> None:
    """From rows to scaled gradients: batching, forward, loss, metrics, backward."""
    runner.model.zero_grad()
    runner._step = 0
    runner.training_step(runner.model, [], None)
    runner._report()


def whole_step(runner: AIPOTrainer, steps: "count[int]") -> None:
    gradients(runner)
    runner.optimizer.step()
    runner.token_stats.close(next(steps))


def loop_overhead(folder: Path, rows: StepRows, steps: int = 100) -> float:
    """Seconds per optimizer step of the whole loop, on rows so small that little else is left."""
    method = tiny.method()
    small = StepRows(rows=rows.rows[:1], totals=TokenTotals.of(rows.rows[:1]), active_share=1.0)
    args = trl_arguments(folder, method, rollout_steps=steps, learning_rate=1e-4, max_completion_length=128)
    runner = AIPOTrainer(tiny.model(), args, tiny.Rows([small]), method, tokenizer=tiny.tokenizer())
    small.rows[0].token_ids_T[:] %= tiny.VOCABULARY
    return wall(runner.train) / steps


def main() -> None:
    repeats = options(__doc__, repeats=60).repeats
    torch.set_num_threads(1)
    rows = made(np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs = (trainer(kind, folder / kind.__name__, rows) for kind in (AIPOTrainer, TheirLoss))
        work = {"AIPO": partial(gradients, ours), "TRL ": partial(gradients, theirs)}
        timed = {which: partial(wall, run) for which, run in work.items()}
        seconds = {which: median(spent) for which, spent in alternate(repeats, timed).items()}
        loop = loop_overhead(folder / "loop", made(np.random.default_rng(0)))
        runners = {
            stats: trainer(AIPOTrainer, folder / f"{stats}", rows, stats=stats) for stats in (True, False)
        }
        steps = {stats: partial(whole_step, runner, count()) for stats, runner in runners.items()}
        costs = alternate(repeats, {stats: partial(cpu, run) for stats, run in steps.items()})
        size = median(file.stat().st_size for file in (folder / "True" / "token_stats").glob("*.parquet"))
    tokens = sum(map(len, rows.rows))
    trained = sum(len(row) - row.prompt_tokens for row in rows.rows)
    print(f"rows {ROWS}, tokens {tokens}, repeats {repeats}")
    for which, spent in seconds.items():
        print(f"{which} {1e3 * spent:8.2f} ms/step  {tokens / spent:10,.0f} tok/s")
    print(f"ratio of medians {seconds['AIPO'] / seconds['TRL ']:.3f}")
    print(f"loop {1e3 * loop:8.2f} ms per optimizer step with one row")
    print(f"step with token stats / without: {median(costs[True]) / median(costs[False]):.3f} of CPU time")
    print(f"token stats: {size / trained:.2f} bytes per token")


if __name__ == "__main__":
    main()
