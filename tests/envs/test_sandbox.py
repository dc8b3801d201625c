"""The sandbox: whatever becomes of a call, the next one gets its answer, and nothing is left behind."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aipo.errors import ConfigError, LoadError, ScoreError
from envs import sandbox as sandbox_module
from envs.sandbox import Sandbox

ROOT = Path(__file__).parents[2]


@pytest.fixture
def made() -> Iterator[list[Sandbox]]:
    """Sandboxes that a test made; afterwards they are closed, with every process waited for."""
    sandboxes: list[Sandbox] = []
    before = open_files()
    yield sandboxes
    processes = [worker.process for sandbox in sandboxes for worker in sandbox._alive]
    for sandbox in sandboxes:
        sandbox.close()
    assert all(process.returncode is not None for process in processes)
    assert open_files() == before


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def make(made: list[Sandbox], name: str, **settings) -> Sandbox:
    sandbox = Sandbox(name if ":" in name else f"kit.sandboxed:{name}", **{"workers": 1, **settings})
    made.append(sandbox)
    return sandbox


def call(sandbox: Sandbox, *arguments: object) -> object:
    return asyncio.run(sandbox.call(*arguments))


async def several(sandbox: Sandbox, count: int) -> list[object]:
    return await asyncio.gather(*(sandbox.call() for _ in range(count)))


@pytest.mark.parametrize(
    "value",
    ["x" * 3_000_000, "\ud800 \x00 \u2028\n", [1, {"a": None}], 2**200, ""],
    ids=["long", "odd", "nested", "large", "empty"],
)
def test_whatever_json_can_hold_comes_through_unchanged(made: list[Sandbox], value: object) -> None:
    assert call(make(made, "print_and_give"), value) == value  # and what is printed is no reply


def test_all_workers_hash_alike(made: list[Sandbox]) -> None:
    orders = [tuple(call(make(made, "order"))) for _ in range(3)]
    assert len(set(orders)) == 1 and len(set(orders[0])) == 6


def test_workers_are_few_and_used_again_from_one_event_loop_to_the_next(made: list[Sandbox]) -> None:
    sandbox = make(made, "os:getpid", workers=2)
    seen = {*asyncio.run(several(sandbox, 20)), *asyncio.run(several(sandbox, 20))}
    assert 1 <= len(seen) <= 2 and os.getpid() not in seen


def test_calls_run_beside_each_other_and_beside_the_event_loop(made: list[Sandbox], tmp_path: Path) -> None:
    # Each of three waits for the next one: whoever blocked the loop, or took turns, would wait for ever.
    a, b, c = (str(tmp_path / name) for name in "abc")
    sandbox = make(made, "meet", workers=2)

    async def here() -> None:
        while not Path(b).exists():
            await asyncio.sleep(0)
        Path(c).touch()

    async def all_three() -> list[object]:
        return await asyncio.gather(sandbox.call(a, b), sandbox.call(b, c), here())

    assert asyncio.run(all_three()) == ["met", "met", None]


def test_it_works_in_a_thread(made: list[Sandbox]) -> None:
    sandbox = make(made, "operator:add")
    sums: list[object] = []
    thread = threading.Thread(target=lambda: sums.append(call(sandbox, 1, 2)))
    thread.start()
    thread.join()
    assert sums == [3]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("operator:truediv", [1, 0], "operator:truediv: got ZeroDivisionError: division by zero, allowed"),
        ("complain", ["\ud800"], r"got ValueError: \?, allowed"),
        ("operator:add", [1], "got TypeError: add expected 2 arguments"),
        ("builtins:set", [], "got TypeError: Object of type set is not JSON serializable"),
        ("builtins:bytearray", [2**40], "got MemoryError"),
    ],
)
def test_what_the_function_raises_is_said_and_its_worker_stays(
    made: list[Sandbox], name: str, arguments: list[object], says: str
) -> None:
    sandbox = make(made, name)
    for _ in range(2):
        with pytest.raises(ScoreError, match=says):
            call(sandbox, *arguments)
    assert len(sandbox._idle) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "limits", "says"),
    [
        ("math:factorial", [10**9], {"seconds": 0.2}, "got no result, allowed 0.2 s of processor time"),
        ("time:sleep", [1000], {"deadline": 0.5}, "got nothing, allowed a result in 0.5 s"),
        ("die", [signal.SIGKILL], {}, r"got the end of its process \(SIGKILL\)"),
        ("ctypes:string_at", [0], {}, r"got the end of its process \(SIGSEGV\)"),
        ("sys:exit", [3], {}, r"got the end of its process \(exit status 3\)"),
    ],
)
def test_a_worker_that_is_lost_is_replaced(
    made: list[Sandbox], name: str, arguments: list[object], limits: dict[str, float], says: str
) -> None:
    sandbox = make(made, name, **limits)
    for _ in range(2):
        with pytest.raises(ScoreError, match=says) as raised:
            call(sandbox, *arguments)
        assert raised.type is ScoreError and not sandbox._alive and not sandbox._idle


@pytest.mark.parametrize("workers", [1, 2])
def test_calls_that_hang_hold_up_no_other(
    made: list[Sandbox], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    # A tenth of a second at first, then so long that the test would not end if anything waited for it.
    monkeypatch.setattr(sandbox_module, "_FIRST", 1e-5)
    monkeypatch.setattr(sandbox_module, "_LEAST_S", 0.1)
    sandbox = make(made, "math:factorial", workers=workers, seconds=1e4, deadline=1e7)

    async def all_of_them() -> None:
        hanging = [asyncio.create_task(sandbox.call(10**9)) for _ in range(2 * workers + 2)]
        assert await asyncio.gather(*(sandbox.call(n) for n in (5, 4, 3))) == [120, 24, 6]
        assert not any(task.done() for task in hanging)
        assert len(sandbox._alive) <= 2 * workers
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    asyncio.run(all_of_them())


def test_a_call_that_takes_long_gets_all_of_its_time(
    made: list[Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is killed once after a tenth of it, and comes back in the second attempt.
    monkeypatch.setattr(sandbox_module, "_LEAST_S", 0.1)
    sandbox = make(made, "compute_once_more", seconds=2.0)
    assert call(sandbox, str(tmp_path / "log"), 0.6) == 2


@pytest.mark.parametrize("seconds", [2.0, 0.8])
def test_calls_of_a_part_of_a_second_cost_no_worker(made: list[Sandbox], seconds: float) -> None:
    sandbox = make(made, "compute", workers=2, seconds=seconds)

    async def six() -> list[object]:
        return await asyncio.gather(*(sandbox.call(0.3) for _ in range(6)))

    assert len({*asyncio.run(six())}) <= 2


def test_a_call_that_had_all_of_its_time_is_not_begun_again(made: list[Sandbox], tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"allowed 0\.2 s of processor time"):
        call(make(made, "compute_once_more", seconds=0.2), str(tmp_path / "log"), 60.0)
    assert (tmp_path / "log").read_text() == "begun\n"


def test_a_worker_that_keeps_growing_is_replaced(made: list[Sandbox]) -> None:
    # It starts with some tens of megabytes; half of what it may have is 256.
    sandbox = make(made, "keep", memory=2**29, seconds=600.0)
    assert [call(sandbox, megabytes) for megabytes in (10, 250, 10, 10)] == [1, 2, 1, 2]
    with pytest.raises(ScoreError, match="got MemoryError"):
        call(sandbox, 500)


def test_a_cancelled_call_takes_its_worker_with_it(made: list[Sandbox], tmp_path: Path) -> None:
    sandbox = make(made, "meet")

    async def give_up() -> None:
        task = asyncio.create_task(sandbox.call(str(tmp_path / "a"), str(tmp_path / "b")))
        while not (tmp_path / "a").exists():
            await asyncio.sleep(0.01)
        (worker,) = sandbox._alive
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert worker.process.returncode == -signal.SIGKILL

    asyncio.run(give_up())
    (tmp_path / "b").touch()
    assert call(sandbox, str(tmp_path / "a"), str(tmp_path / "b")) == "met"


def test_an_idle_worker_that_somebody_ended_costs_no_call(made: list[Sandbox]) -> None:
    sandbox = make(made, "operator:add")
    call(sandbox, 0, 0)
    (worker,) = sandbox._alive
    os.kill(worker.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.process.pid, os.WEXITED | os.WNOWAIT)  # until it is dead; not yet buried
    assert call(sandbox, 2, 3) == 5
    assert worker not in sandbox._alive


def test_a_worker_that_cannot_start_says_why(made: list[Sandbox]) -> None:
    with pytest.raises(LoadError, match="got ModuleNotFoundError: No module named 'nowhere'"):
        call(make(made, "nowhere:add"))
    with pytest.raises(LoadError, match="got AttributeError"):
        call(make(made, "operator:divide"))
    assert not any(sandbox._alive for sandbox in made)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"seconds": 0.0}, {"deadline": float("nan")}])
def test_no_worker_and_no_time_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(wrong))}.*allowed >"):
        Sandbox("operator:add", **wrong)


PROGRAM = """
import asyncio, sys
from envs.sandbox import Sandbox

async def main():
    asyncio.get_running_loop().slow_callback_duration = 1e9  # a busy machine is no complaint
    name, *arguments = sys.argv[1:]
    sandbox = Sandbox(name, workers=2)
    calls = [asyncio.create_task(sandbox.call(*map(int, arguments))) for _ in range(2)]
    while len(sandbox._alive) < 2 or not all(w.is_started for w in sandbox._alive):
        await asyncio.sleep(0.01)
    if name == "os:getpid":
        await asyncio.gather(*calls)
    print(*(w.process.pid for w in sandbox._alive), flush=True)
    {ending}

asyncio.run(main())
"""


def program(ending: str, *function: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM.replace("{ending}", ending), *function],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("function", [["os:getpid"], ["time:sleep", "1000"]])
@pytest.mark.parametrize(
    ("ending", "code"), [("pass", 0), ("sys.exit(3)", 3), ("global kept; kept = sandbox", 0)]
)
def test_a_process_ends_without_a_word_and_takes_its_workers_along(
    function: list[str], ending: str, code: int
) -> None:
    with program(ending, *function) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (code, "")
    assert len(out.split()) == 2 and not any(is_alive(int(pid)) for pid in out.split())


def test_workers_of_a_killed_process_end_as_well() -> None:
    with program("await asyncio.sleep(1000)", "os:getpid") as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2 and all(map(is_alive, pids))
        process.kill()
        process.communicate()
    while any(map(is_alive, pids)):
        time.sleep(0.01)
