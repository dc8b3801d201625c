"""What do worker processes (`rollout.workers`) gain, where servers are fast enough?

    python tests/benchmarks/bench_workers.py

A server in a process of its own answers each request after a fixed time. Assisted rollouts of the miniature
(consult graph, rule-based agents in process) ask it; what it says depends on context and seed, so that everybody
does the same job. In turns: all rollouts in this process, and the same in so many worker processes.

Rollouts per second of wall time, medians with the least and the most, and CPU time of all our processes (the
server's not among them) per rollout, which other work on the machine disturbs less. So many processes can use
no more cores than there are: the server takes one of them for itself.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import orjson
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from fixed_vllm import running

from aipo.rollout.engine import RolloutEngine, freeze_gc
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Mode
from kit.vllm import WORDS, seeded_completion
from kit.workers import both, configured

TICK = os.sysconf("SC_CLK_TCK")


def answer(asked: bytes) -> bytes:
    return orjson.dumps(seeded_completion(orjson.loads(asked)))


def specs(engine: RolloutEngine, count: int) -> list[RolloutSpec]:
    tasks = engine.env.tasks("hard")
    return [
        RolloutSpec(task=tasks[i % len(tasks)], mode=Mode.ASSISTED, group_id=f"g{i}", index=0, step=0, seed=i)
        for i in range(count)
    ]


def cpu(engine: RolloutEngine) -> float:
    """Seconds that this process and its workers have computed so far."""
    pids = [os.getpid()]
    if engine.elsewhere is not None:
        pids += [worker.process.pid for worker in engine.elsewhere.__self__._workers]  # type: ignore[attr-defined]
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICK


def measure(engine: RolloutEngine, count: int) -> tuple[float, float]:
    """Rollouts per second, and CPU milliseconds of a rollout."""
    asked = specs(engine, count)
    began, computed = time.perf_counter(), cpu(engine)
    traces = engine.run_sync(asked, lambda trace: None)
    seconds, computed = time.perf_counter() - began, cpu(engine) - computed
    assert len(traces) == count and not any(trace.failed for trace in traces)
    return count / seconds, 1e3 * computed / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--latency", type=float, default=0.25, help="seconds until the server answers")
    parser.add_argument("--workers", type=int, nargs="*", default=[2])
    given = parser.parse_args()
    engines: dict[str, RolloutEngine] = {}
    with ExitStack() as stack:
        url = stack.enter_context(running(answer, latency=given.latency))
        words = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        WORDS.save_pretrained(words)
        for count in given.workers:
            config = configured(url, f"rollout.workers={count}", "rollout.concurrency=256")
            here, there = stack.enter_context(both(words, config))
            engines |= {"this process": here, f"{count} workers": there}
        freeze_gc()
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        for round_ in range(given.rounds + 1):
            for name, engine in engines.items():
                taken = measure(engine, given.rollouts)
                if round_:  # the first one opens connections
                    found[name].append(taken)
    table = Table("", "rollouts/s (least to most)", "ratio (least to most)", "CPU ms per rollout")
    base = [speed for speed, _ in found["this process"]]
    for name, taken in found.items():
        speeds = [speed for speed, _ in taken]
        ratios = [speed / one for speed, one in zip(speeds, base, strict=True)]
        table.add_row(
            name,
            f"{median(speeds):.1f} ({min(speeds):.1f} to {max(speeds):.1f})",
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{median(ms for _, ms in taken):.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
