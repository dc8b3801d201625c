"""Attacks of a program on what is around it: none succeeds in isolation, and many do without."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.isolation import Isolation, Limits, Outcome
from kit.attacks import ATTACKS, WITHOUT_WALLS
from kit.parts import isolation

LIMITS = Limits(seconds=2, deadline=60.0, memory=2**28, processes=6, output=10_000, disk=2**20)


@pytest.fixture(scope="module")
def isolated() -> Isolation:
    return isolation()


def run(isolation: Isolation, program: str, **limits) -> Outcome:
    changed = LIMITS.model_copy(update=limits)
    command = isolation.python("attack.py")
    return asyncio.run(isolation.run(command, files={"attack.py": program}, limits=changed))


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """What an attack aims at."""
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / "secret").write_text("expected output")
    monkeypatch.setenv("AIPO_ATTACKED", "1")
    name = f"aipo-attack-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        victim = subprocess.Popen(["sleep", "1000"])
        try:
            port = server.getsockname()[1]
            yield {"folder": folder, "pid": victim.pid, "port": port, "socket": name, "victim": victim}
        finally:
            victim.kill()
            victim.wait()


def filled(attack: str, target: dict[str, object]) -> str:
    program = ATTACKS[attack]
    for name in ("folder", "pid", "port", "socket"):
        program = program.replace(f"{{{name}}}", str(target[name]))
    return program


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_no_harm(isolated: Isolation, target: dict[str, object], attack: str) -> None:
    outcome = run(isolated, filled(attack, target))
    assert b"HARM" not in outcome.stdout
    assert outcome.code is not None
    assert b"SyntaxError" not in outcome.stderr
    folder, victim = target["folder"], target["victim"]
    assert isinstance(folder, Path) and isinstance(victim, subprocess.Popen)
    assert [file.name for file in folder.iterdir()] == ["secret"]
    assert (folder / "secret").read_text() == "expected output"
    assert victim.poll() is None


@pytest.mark.parametrize("attack", WITHOUT_WALLS)
def test_the_same_attack_succeeds_without_isolation(target: dict[str, object], attack: str) -> None:
    outcome = run(Isolation(unsafe=True), filled(attack, target))
    assert b"HARM" in outcome.stdout, outcome.stderr


FORKS = """
import os, time
made = 0
try:
    while made < 50:
        if os.fork() == 0: time.sleep(30); os._exit(0)
        made += 1
except OSError: pass
print(made)
"""


def test_a_fork_bomb_gets_no_more_processes_than_allowed(isolated: Isolation) -> None:
    assert run(isolated, FORKS).stdout == b"5\n"  # beside itself


def test_threads_are_counted_as_processes(isolated: Isolation) -> None:
    program = "import threading, time\nfor n in range(50):\n    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n    print(n, flush=True)"
    outcome = run(isolated, program)
    assert outcome.code == 1
    assert b"can't start new thread" in outcome.stderr
    assert outcome.stdout.split()[-1] == b"4"


@pytest.mark.parametrize(
    "program",
    [
        "x = b'x' * 10**9",
        "x = []\nwhile True: x.append(b'x' * 2**20)",
        "import mmap\nmmap.mmap(-1, 10**9)",
    ],
    ids=["at once", "bit by bit", "shared"],
)
def test_a_memory_bomb_gets_no_more_than_allowed(isolated: Isolation, program: str) -> None:
    outcome = run(isolated, program)
    assert outcome.code == 1
    assert b"MemoryError" in outcome.stderr or b"Cannot allocate memory" in outcome.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output_is_cut(isolated: Isolation, stream: str) -> None:
    outcome = run(isolated, f"import sys\nwhile True: sys.{stream}.write('x' * 1000)")
    assert outcome.ended == "output"
    assert getattr(outcome, stream) == b"x" * 10_000


@pytest.mark.parametrize(
    "program",
    [
        "open('big', 'wb').write(b'x' * 2**22)",
        "for n in range(9): open(f'part{n}', 'wb').write(b'x' * 2**18)",
    ],
    ids=["one file", "many files"],
)
def test_a_full_disk_is_the_programs_own(isolated: Isolation, program: str) -> None:
    outcome = run(isolated, program)
    assert outcome.code != 0
    assert b"OSError" in outcome.stderr or b"File size" in outcome.stderr


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import signal\nfor n in set(signal.valid_signals()) - {9, 19}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "9 ** 9 ** 9",
    ],
    ids=["loop", "ignores signals", "one operation"],
)
def test_an_endless_program_is_killed(isolated: Isolation, program: str) -> None:
    assert run(isolated, program, seconds=1).code == 137


def test_a_sleeping_program_ends_at_its_deadline(isolated: Isolation) -> None:
    assert run(isolated, "import time; time.sleep(1000)", deadline=1.0).ended == "deadline"


SURVIVE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open('/dev/null', os.O_RDWR)
        for n in range(3): os.dup2(null, n)
        os.execvp('sleep', ['sleep', '{marker}'])
    os._exit(0)
os.wait()
time.sleep({pause})
"""


def running(marker: str) -> list[int]:
    """The processes whose command line has the marker."""
    found: list[int] = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if marker.encode() in Path("/proc", pid, "cmdline").read_bytes():
                found.append(int(pid))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("pause", [0, 1000], ids=["exits", "is killed"])
def test_no_child_survives(isolated: Isolation, pause: int) -> None:
    marker = f"77{os.getpid()}{pause}"
    program = SURVIVE.replace("{marker}", marker).replace("{pause}", str(pause))
    run(isolated, program, deadline=3.0 if pause else 60.0)
    assert running(marker) == []


def test_a_child_survives_without_isolation() -> None:
    marker = f"88{os.getpid()}"
    run(Isolation(unsafe=True), SURVIVE.replace("{marker}", marker).replace("{pause}", "0"))
    survivors = running(marker)
    for pid in survivors:
        os.kill(pid, 9)
    assert len(survivors) == 1
