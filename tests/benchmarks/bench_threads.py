"""A small training step under the ways in which OpenMP's threads can wait, on an idle machine and beside busy processes.

    python tests/benchmarks/bench_threads.py [--threads 1 2] [--busy 0 2] [--spins 1000 3000 10000] [--rounds 3]

The miniature's size: 2 layers, width 96, 64 rows of 70 tokens; forward, backward and AdamW. Every measurement is a process
of its own, since OpenMP reads its variables once. Each round measures every policy once, so that other work hits all. The
first table has milliseconds (medians over rounds, with the least and the most), the second ratios: to the fastest policy
with as many threads, beside as many busy processes. `busy` counts processes that never wait, `default` is OpenMP's own way.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import alternate, options, short, show, spread

ROWS, TOKENS, VOCABULARY = 64, 70, 40
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
PASSIVE = "passive"

Setting = tuple[str, int]
"""A policy's name and the number of threads."""


def policies(spins: list[int]) -> dict[str, dict[str, str]]:
    """What to put into the environment, by the name of the policy."""
    counts = {f"spin {count}": {"GOMP_SPINCOUNT": str(count)} for count in spins}
    return {"default": {}, PASSIVE: {"OMP_WAIT_POLICY": "PASSIVE"}, **counts}


def step_seconds(threads: int, seconds: float) -> float:
    """The median step of this process, of as many as fit into `seconds`, at least ten."""
    import torch

    from kit import tiny

    torch.set_num_threads(threads)
    model = tiny.model(vocabulary=VOCABULARY, hidden=96).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids_B_T = torch.randint(0, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 12 or time.perf_counter() < end:
        started = time.perf_counter()
        optimizer.zero_grad()
        model(input_ids=ids_B_T, labels=ids_B_T).loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    return median(times[2:])


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that compute and never wait."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(variables: dict[str, str], threads: int, seconds: float) -> float:
    """Milliseconds of a step in a process with these variables."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, __file__, "--child", str(threads), str(seconds)]
    done = subprocess.run(command, env={**environment, **variables}, check=True, stdout=subprocess.PIPE)
    return 1e3 * float(json.loads(done.stdout))


def main() -> None:
    given = options(__doc__, threads=[1, 2], busy=[0, 2], spins=[1000, 3000, 10_000], rounds=3, seconds=3.0)
    ways = policies(given.spins)
    settings: list[Setting] = list(product(ways, given.threads))
    times: dict[int, dict[Setting, list[float]]] = {}
    for count in given.busy:
        work = {
            (way, threads): partial(measure, ways[way], threads, given.seconds) for way, threads in settings
        }
        with busy(count):
            times[count] = alternate(given.rounds, work, warm_up=False)
    columns = ["policy", "threads", *(f"beside {count} busy" for count in given.busy)]
    show(
        columns,
        [
            [way, str(threads), *(spread(times[count][way, threads], 0) for count in given.busy)]
            for way, threads in settings
        ],
        {
            f"{count} busy": {f"{way}, {n} threads": t for (way, n), t in by.items()}
            for count, by in times.items()
        },
        given.out,
    )

    def ratio(count: int, way: str, threads: int) -> str:
        fastest = min(median(times[count][other, threads]) for other in ways)
        return short(median(times[count][way, threads]) / fastest)

    show(columns, [[way, str(n), *(ratio(count, way, n) for count in given.busy)] for way, n in settings])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(step_seconds(int(sys.argv[2]), float(sys.argv[3]))))
    else:
        main()
