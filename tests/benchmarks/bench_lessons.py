"""What it costs to keep lessons: CPU time of a training step with them and without, and bytes on the disk.

    python tests/benchmarks/bench_lessons.py [--repeats 60]

Rows and model are those of bench_train.py. A step is all of it: batching, forward, loss, backward, optimiser,
and writing the generation's file. Steps with and without alternate, and the ratio is that of the medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import bench_train  # also makes tests/ importable
import numpy as np
import torch

from aipo.method.loss import LossSettings
from aipo.method.step_rows import StepRows
from aipo.trace.token_stats import TokenStatsStore
from aipo.train.trainer import AIPOTrainer, arguments
from kit import tiny


def trainer(folder: Path, rows: StepRows, *, lessons: bool) -> AIPOTrainer:
    settings = LossSettings()
    args = arguments(
        folder, generations=1, learning_rate=1e-4, max_completion_length=128, settings=settings, use_cpu=True
    )
    made = AIPOTrainer(
        tiny.model(vocabulary=bench_train.VOCABULARY, hidden=96),
        args,
        tiny.Rows([rows]),
        settings,
        tokenizer=tiny.tokenizer(bench_train.VOCABULARY),
        on_token_stats=TokenStatsStore(folder / "lessons").publish if lessons else None,
    )
    made.current_gradient_accumulation_steps = 1
    made.create_optimizer()
    return made


def one_step(runner: AIPOTrainer, generation: int) -> float:
    """Seconds of CPU."""
    runner._step = 0
    started = time.process_time()
    runner.training_step(runner.model, [], None)
    runner._report()
    runner.optimizer.step()
    runner.token_stats.close(generation)
    runner.model.zero_grad()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rows = bench_train.made(np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        on = trainer(folder / "on", rows, lessons=True)
        off = trainer(folder / "off", rows, lessons=False)
        seconds = [(one_step(on, i), one_step(off, i)) for i in range(repeats + 1)][1:]
        files = list((folder / "on" / "lessons").glob("*.parquet"))
        size = statistics.median(file.stat().st_size for file in files)
    on_s, off_s = (statistics.median(column) for column in zip(*seconds, strict=True))
    tokens = sum(len(row) - row.prompt_tokens for row in rows.rows)
    print(f"step with lessons      {1000 * on_s:.1f} ms of CPU")
    print(f"step without           {1000 * off_s:.1f} ms of CPU")
    print(f"ratio                  {on_s / off_s:.3f}")
    print(f"bytes per token        {size / tokens:.2f}")


if __name__ == "__main__":
    main()
