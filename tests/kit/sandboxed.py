"""What the tests of the sandbox call in a worker, besides functions of Python's own."""

import os
import signal
import time
from pathlib import Path


def order() -> list[str]:
    """In which order this process finds words in a set."""
    return list({"one", "two", "three", "four", "five", "six"})


def complain(text: str) -> None:
    raise ValueError(text)


def print_and_give(value: object) -> object:
    print('{"result": "printed"}', flush=True)
    os.write(2, b"noise\n")
    return value


KEPT: list[bytes] = []


def keep(megabytes: int) -> int:
    KEPT.append(b"x" * (megabytes << 20))
    return len(KEPT)


def die(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def meet(mine: str, other: str) -> str:
    """Comes back when somebody else has been here, too."""
    Path(mine).touch()
    while not Path(other).exists():
        time.sleep(0.01)
    return "met"


def compute(seconds: float) -> int:
    """Computes for so many seconds of processor time, and tells in which process."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return os.getpid()


def compute_once_more(log: str, seconds: float) -> int:
    """Computes for so many seconds of processor time, and tells how often it was begun."""
    with Path(log).open("a") as file:
        file.write("begun\n")
    compute(seconds)
    return len(Path(log).read_text().splitlines())
