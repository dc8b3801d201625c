"""CPU threads: how those of PyTorch wait for work, and how many of them there should be."""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

COUNT = "OMP_NUM_THREADS"
WAITING: Mapping[str, str] = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""How OpenMP's threads wait: GNU's (PyTorch on Linux) spin for some microseconds, about as long as putting a thread to
sleep takes; LLVM's and Intel's (macOS, Windows) do not spin. By default both spin for milliseconds, on cores that other
processes could use. tests/benchmarks/bench_threads.py measures it."""
_CHOSEN_BY = ("OMP_WAIT_POLICY", *WAITING)


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets how OpenMP's threads wait, unless the environment says so already.

    OpenMP reads it when torch is imported. Processes that this one starts inherit it.
    """
    if not any(name in environment for name in _CHOSEN_BY):
        environment.update(WAITING)


def usable_cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: by its affinity, and by the limit of its container (cgroup v2 or v1)."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (groups / quota_file).read_text().split()
            words += (groups / period_file).read_text().split() if period_file else []
            quota, period = words
            if quota not in ("max", "-1"):
                cores = min(cores, max(1, round(int(quota) / int(period))))
        except (OSError, ValueError):  # no such limit
            continue
    return cores


def limit_torch(threads: int | None) -> None:
    """Sets the number of torch's threads in this process.

    Args:
        threads: None = as many as the environment says (OMP_NUM_THREADS), else at most one for each usable core:
            torch counts all cores of the machine, also where a container may use few of them.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    elif COUNT not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


def share_cores(processes: int) -> dict[str, str]:
    """The environment of one of several processes that run side by side: as many threads as its share of the cores."""
    count = {} if COUNT in os.environ else {COUNT: str(max(1, usable_cores() // processes))}
    return {**os.environ, **count}
