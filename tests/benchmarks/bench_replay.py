"""How many traces per second does `aipo replay check` run again on one core, and do all come out as they were?

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_replay.py RUN [FILTER ...]

RUN is a run folder, for instance the one that `aipo demo` leaves in `runs/demo/aipo`. A filter is one of `aipo traces`
(`step=..20`). Counted is everything after start-up: reading the traces, running their graphs, scoring and comparing.
The bar is 100 traces per second and core, and every trace identical.
"""

import sys
import time
from pathlib import Path

from aipo.replay.questions.check import divergence
from aipo.replay.recordings import Recordings
from aipo.replay.restore import recorded_experiment, restore
from aipo.rollout.engine import freeze_gc
from aipo.trace.filters import parse_filter


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    recordings = Recordings(path=Path(sys.argv[1]), where=parse_filter(sys.argv[2:]))
    restored = restore(recordings, recorded_experiment(recordings, []), run_id="check")
    freeze_gc()
    started = time.perf_counter()
    pairs = [divergence(p) for traces in recordings for p in restored.replay.run(traces, lambda _: None)]
    rate = len(pairs) / (time.perf_counter() - started)
    diverged = sum(pair is not None for pair in pairs)
    print(
        f"{len(pairs)} traces, {diverged} diverged, {len(recordings.left_out)} left out, {rate:.0f} per second"
    )


if __name__ == "__main__":
    main()
