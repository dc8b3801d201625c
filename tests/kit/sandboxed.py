"""What the tests of the sandbox call in a worker."""

import ctypes
import os
import signal
import time
from pathlib import Path


def add(a: int, b: int) -> int:
    return a + b


def pid() -> int:
    return os.getpid()


def order() -> list[str]:
    """In which order this process finds words in a set."""
    return list({"one", "two", "three", "four", "five", "six"})


def give(value: object) -> object:
    return value


def complain(text: str) -> None:
    raise ValueError(text)


def print_and_give(value: object) -> object:
    print('{"result": "printed"}', flush=True)
    os.write(2, b"noise\n")
    return value


def multiply() -> int:
    """One multiplication that takes years and never comes back to Python."""
    return (9**99999) ** (9**9)


def sleep() -> None:
    while True:
        time.sleep(1000)


def swallow() -> bytearray:
    return bytearray(2**40)


KEPT: list[bytes] = []


def keep(megabytes: int) -> int:
    KEPT.append(b"x" * (megabytes << 20))
    return len(KEPT)


def die(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def leave() -> None:
    raise SystemExit(3)


def crash() -> None:
    ctypes.string_at(0)


def big() -> object:
    return {1, 2}


def meet(mine: str, other: str) -> str:
    """Comes back when somebody else has been here, too."""
    Path(mine).touch()
    while not Path(other).exists():
        time.sleep(0.01)
    return "met"
