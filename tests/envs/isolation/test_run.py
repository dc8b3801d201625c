"""What runs a program: its result comes back whole, failures of ours are none of its, and nothing is left behind."""

import asyncio
import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from aipo.errors import ConfigError, ScoreError
from envs.isolation import Isolation, Limits, Outcome, seccomp
from kit.parts import isolation

LIMITS = Limits(seconds=10, deadline=60.0, memory=2**29, processes=8, output=2**20, disk=2**22)


@pytest.fixture(scope="module")
def isolated() -> Isolation:
    return isolation()


def left() -> tuple[int, int, list[str]]:
    """What a run could leave: open files, children, and folders for temporary files."""
    gc.collect()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return (
        len(os.listdir("/proc/self/fd")),
        len(children),
        sorted(Path(tempfile.gettempdir()).glob("aipo-unsafe-*")),
    )


@pytest.mark.parametrize("unsafe", [False, True], ids=["isolated", "unsafe"])
@pytest.mark.parametrize(
    ("command", "stdin", "outcome"),
    [
        (
            ["sh", "-c", "cat; echo no >&2; exit 3"],
            b"\x00\xff",
            Outcome(code=3, stdout=b"\x00\xff", stderr=b"no\n"),
        ),
        (["sh", "-c", "cat text; kill -9 $$; exit 5"], b"", None),
        (["awk", "{print $1 + 1}"], b"1\n2\n", Outcome(code=0, stdout=b"2\n3\n", stderr=b"")),
    ],
    ids=["shell", "killed", "awk"],
)
def test_a_program_of_any_language(
    isolated: Isolation, unsafe: bool, command: list[str], stdin: bytes, outcome: Outcome | None
) -> None:
    before = left()
    run = Isolation(unsafe=True) if unsafe else isolated
    got = asyncio.run(run.run(command, files={"text": "é"}, stdin=stdin, limits=LIMITS))
    if outcome is None:  # the first process of a namespace cannot end itself by a signal
        assert (got.code, got.stdout) == (137 if unsafe else 5, "é".encode())
    else:
        assert got == outcome
    assert left() == before


def test_a_program_can_answer_on_a_socket(isolated: Isolation) -> None:
    async def talk() -> bytes:
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            running = asyncio.create_task(
                isolated.run(["sh", "-c", "read x; echo $x$x >&0"], stdin=theirs, limits=LIMITS)
            )
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(ours, b"ab\n")
            reply = await loop.sock_recv(ours, 100)
            await running
            assert await loop.sock_recv(ours, 100) == b""  # nobody holds the other end
            return reply

    assert asyncio.run(talk()) == b"abab\n"


def test_sixty_four_at_once(isolated: Isolation) -> None:
    async def all_of_them() -> list[Outcome]:
        numbers = (str(n).encode() for n in range(64))
        return await asyncio.gather(
            *(isolated.run(["cat"], stdin=number, limits=LIMITS) for number in numbers)
        )

    before = left()
    assert [int(outcome.stdout) for outcome in asyncio.run(all_of_them())] == list(range(64))
    assert left() == before


@pytest.mark.parametrize("unsafe", [False, True], ids=["isolated", "unsafe"])
def test_a_cancelled_run_leaves_nothing(isolated: Isolation, unsafe: bool) -> None:
    run = Isolation(unsafe=True) if unsafe else isolated

    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await run.run(["sleep", "1000"], limits=LIMITS)

    before = left()
    asyncio.run(cancel())
    assert left() == before


PARENT = """
import asyncio
from envs.isolation import Isolation, Limits
print('ready', flush=True)
asyncio.run(Isolation().run(['sleep', '{marker}'], limits=Limits(deadline=900.0)))
"""


def test_a_killed_parent_leaves_no_process(isolated: Isolation) -> None:
    marker = f"66{os.getpid()}"
    program = PARENT.replace("{marker}", marker)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        while not running(marker):
            assert parent.poll() is None
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    while running(marker):  # the test's own time limit ends it
        time.sleep(0.05)


def running(marker: str) -> list[str]:
    """The processes that sleep for so long."""
    wanted = f"sleep\0{marker}\0".encode()
    found: list[str] = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path("/proc", pid, "cmdline").read_bytes() == wanted:
                found.append(pid)
        except OSError:
            continue
    return found


def test_a_sandbox_that_does_not_start_is_no_outcome(isolated: Isolation) -> None:
    broken = Isolation()
    broken._folders = ["/no/such/folder"]
    with pytest.raises(
        ScoreError, match=r"sandbox: got exit status \d+.*, allowed a program that runs to its end"
    ):
        asyncio.run(broken.run(["true"], limits=LIMITS))


@pytest.mark.parametrize("unsafe", [False, True], ids=["isolated", "unsafe"])
def test_a_full_disk_is_no_outcome(
    isolated: Isolation, unsafe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    run = Isolation(unsafe=True) if unsafe else isolated
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(
        ScoreError, match=r"sandbox: got .*No space left on device.*, allowed a program that starts"
    ):
        asyncio.run(run.run(["true"], limits=LIMITS))


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Outcome(code=None, stdout=b"", stderr=b"x", ended="deadline"), "ended at its limit `deadline`"),
        (Outcome(code=137, stdout=b"", stderr=b""), "killed (SIGKILL), as by the limit `seconds`"),
        (Outcome(code=1, stdout=b"", stderr=b"Traceback\nValueError: 3\n"), "exit status 1: ValueError: 3"),
        (Outcome(code=2, stdout=b"", stderr=b""), "exit status 2"),
    ],
)
def test_an_outcome_in_words(outcome: Outcome, says: str) -> None:
    assert outcome.says == says


def call(program: bytes, machine: int, number: int) -> int:
    """What the filter says of a call: the kernel's own rules, in Python."""
    lines, place, value = list(struct.iter_unpack("HBBI", program)), 0, 0
    while True:
        code, if_true, if_false, operand = lines[place]
        match code:
            case 0x20:
                value = {0: number, 4: machine}[operand]
                place += 1
            case 0x15:
                place += 1 + (if_true if value == operand else if_false)
            case 0x35:
                place += 1 + (if_true if value >= operand else if_false)
            case _:
                return operand


@pytest.mark.parametrize(
    ("name", "machine", "column"), [("x86_64", 0xC000003E, 0), ("aarch64", 0xC00000B7, 1)]
)
def test_the_filter_refuses_what_is_listed_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, name: str, machine: int, column: int
) -> None:
    monkeypatch.setattr("platform.machine", lambda: name)
    program = seccomp.call_filter()
    refused = {number for number in range(500) if call(program, machine, number) == 0x00050001}
    assert refused == {row[column] for row in seccomp._REFUSED.values()}
    assert {call(program, machine, number) for number in set(range(500)) - refused} == {0x7FFF0000}
    assert call(program, machine, 0x40000001) == 0x00050001
    assert call(program, 0x40000003, 1) == 0x80000000


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ConfigError, match="processor: got 'riscv64', allowed one of"):
        seccomp.call_filter()
