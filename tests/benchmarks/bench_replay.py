"""How many traces per second does `aipo replay check` run again on one core, and do all come out as they were?

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_replay.py RUN [FILTER ...] [--repeats 3]

RUN is a run folder, for instance the one that `aipo demo` leaves in `runs/demo/aipo`. A filter is one of `aipo traces`
(`step=..20`). Counted is everything after start-up: reading the traces, running their graphs, scoring and comparing.
The bar is 100 traces per second and core, and every trace identical.
"""

import argparse
from pathlib import Path
from statistics import median

from measure import wall

from aipo.replay.questions.check import divergence
from aipo.replay.recordings import Recordings
from aipo.replay.restore import recorded_experiment, restore
from aipo.rollout.engine import freeze_gc
from aipo.trace.filters import parse_filter

BAR = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("filters", nargs="*")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    rates: list[float] = []
    for _ in range(given.repeats):
        count, diverged, left_out, seconds = check(given.run, given.filters, given.config)
        rates.append(count / seconds)
        print(f"{count} traces, {diverged} diverged, {left_out} left out, {rates[-1]:.0f} per second")
    print(f"median {median(rates):.0f} per second (bar {BAR})")


def check(run: Path, filters: list[str], config: Path | None) -> tuple[int, int, int, float]:
    recordings = Recordings(path=run, where=parse_filter(filters))
    restored = restore(recordings, recorded_experiment(recordings, [], file=config), run_id="check")
    freeze_gc()
    pairs: list[object] = []
    seconds = wall(
        lambda: pairs.extend(
            divergence(p) for traces in recordings for p in restored.replay.run(traces, lambda _: None)
        )
    )
    return len(pairs), sum(d is not None for d in pairs), len(recordings.left_out), seconds


if __name__ == "__main__":
    main()
