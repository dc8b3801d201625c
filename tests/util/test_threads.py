"""Threads: how they wait is set before torch is imported, in every process; how many there are."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.progress import Progress

from aipo.compare import jobs
from aipo.compare.jobs import Job, run_jobs
from aipo.util import threads
from aipo.util.threads import COUNT, limit_torch, share_cores, usable_cores, wait_briefly

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
ENTRIES = ("aipo.cli", "aipo.rollout.workers.process", "aipo.trace", "envs.sandbox", "graphs.consult")


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A new process that nobody told how threads wait, but for `variables`."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env={**environment, **variables}, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize("name", ENTRIES)
def test_every_process_sets_how_threads_wait_before_torch_is_imported(name: str) -> None:
    code = f"""
import sys
class Watch:
    def find_spec(self, module, path, target=None):
        import os
        if module == "torch":
            assert os.environ["GOMP_SPINCOUNT"] == "1000", "torch came first"
sys.meta_path.insert(0, Watch())
import {name}, os
print(*(os.environ.get(name) for name in {VARIABLES}))
"""
    assert python(code).stdout.split() == ["None", "1000", "0"]


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch brings GNU's OpenMP on Linux only")
def test_openmp_heeds_it() -> None:
    said = python("import aipo, torch", OMP_DISPLAY_ENV="verbose").stderr
    assert "GOMP_SPINCOUNT = '1000'" in said
    passive = python("import aipo, torch", OMP_DISPLAY_ENV="verbose", OMP_WAIT_POLICY="PASSIVE").stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in passive and "GOMP_SPINCOUNT = '0'" in passive


def test_both_runtimes_are_told_unless_the_user_has_told_one() -> None:
    environments: list[dict[str, str]] = [{}, *({name: "mine"} for name in VARIABLES)]
    for environment in environments:
        wait_briefly(environment)
    both = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
    assert environments == [both, *({name: "mine"} for name in VARIABLES)]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "400000 100000"}, 4),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 16),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000"}, 16),
    ],
)
def test_usable_cores_are_those_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert usable_cores(tmp_path) == cores


def test_torch_gets_no_more_threads_than_cores_unless_somebody_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(COUNT, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 3)
    before = torch.get_num_threads()
    try:
        counts: list[int] = []
        for start, given in ((8, None), (2, None), (2, 5)):
            torch.set_num_threads(start)
            limit_torch(given)
            counts.append(torch.get_num_threads())
        monkeypatch.setenv(COUNT, "8")
        torch.set_num_threads(8)
        limit_torch(None)
        assert [*counts, torch.get_num_threads()] == [3, 2, 5, 8]
    finally:
        torch.set_num_threads(before)


def test_runs_side_by_side_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COUNT, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    assert [share_cores(count)[COUNT] for count in (1, 2, 3, 16)] == ["8", "4", "2", "1"]
    monkeypatch.setenv(COUNT, "6")
    assert share_cores(2)[COUNT] == "6"


def test_the_jobs_of_a_comparison_share_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[str] = []

    def start(command: list[str], *, env: dict[str, str], **others: Any) -> subprocess.Popen[bytes]:
        started.append(env[COUNT])
        return subprocess.Popen([sys.executable, "-c", ""], env=env, **others)

    monkeypatch.delenv(COUNT, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    monkeypatch.setattr(jobs, "POLL_S", 0.05)
    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
    for count, at_once in ((3, 2), (1, 2)):
        todo = [
            Job(name=str(i), commands=[["--help"]], log=tmp_path / f"{i}.log", follow=lambda note: None)
            for i in range(count)
        ]
        run_jobs(todo, Progress(disable=True), at_once=at_once, ended=lambda job, code: None)
    assert started == ["4", "4", "4", "8"]
