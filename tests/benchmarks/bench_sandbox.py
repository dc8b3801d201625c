"""What isolation costs over a bare process, many at once, and how fast programs are judged.

    python tests/benchmarks/bench_sandbox.py [--rounds 40] [--at_once 64] [--items 100] [--tests 10] [--out FILE]

First table: milliseconds of one Python program that does nothing, as a bare process and isolated (medians over rounds, with the
least and the most), and of each of many that are started together. Second: items with so many tests of standard input each, half
of the solutions right, judged twice: milliseconds per item, beside bare processes that run the same programs, and verdicts that
are wrong, or that differ between the two times. Last: processes that are left behind.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import alternate, options, show, spread, wall

from envs.code.suites import SUITES
from envs.code.verdict import failure
from envs.isolation import DEFAULT_LIMITS, Isolation
from kit.problems import STDIN

RIGHT = "a, b = map(int, input().split())\nprint(a + b)"
WRONG = "a, b = map(int, input().split())\nprint(a + b if a < 9 else 0)"


def children() -> int:
    """Processes that this one has, dead ones too."""
    return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


async def at_once(isolation: Isolation, count: int) -> None:
    """Runs so many programs together."""
    command = isolation.python("-c", "")
    await asyncio.gather(*(isolation.run(command, limits=DEFAULT_LIMITS) for _ in range(count)))


async def verdicts(isolation: Isolation, items: int, tests: int) -> list[bool]:
    """Judges items two at a time; every second solution is wrong in its last test."""
    cases = [{"input": f"{n} 1", "output": str(n + 1)} for n in range(10 - tests, 10)]
    row = {**STDIN, "public_test_cases": json.dumps(cases), "private_test_cases": "[]"}
    problem = SUITES["livecodebench"].problem(row)
    turns = asyncio.Semaphore(2)

    async def judge(number: int) -> bool:
        async with turns:
            return await failure(isolation, problem, WRONG if number % 2 else RIGHT, DEFAULT_LIMITS) is None

    return await asyncio.gather(*map(judge, range(items)))


def bare_items(isolation: Isolation, items: int, tests: int) -> float:
    """Milliseconds for one item in bare processes, two at a time."""

    async def one(turns: asyncio.Semaphore) -> None:
        async with turns:
            for n in range(tests):
                process = await asyncio.create_subprocess_exec(
                    *isolation.python("-c", RIGHT),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
                await process.communicate(f"{n} 1".encode())

    async def all_of_them() -> None:
        turns = asyncio.Semaphore(2)
        await asyncio.gather(*(one(turns) for _ in range(items)))

    return 1000 * wall(lambda: asyncio.run(all_of_them())) / items


def main() -> None:
    """Prints the tables."""
    asked = options(__doc__, rounds=40, at_once=64, items=100, tests=10)
    isolation, before = Isolation(), children()
    command = isolation.python("-c", "")
    times = alternate(
        asked.rounds,
        {
            "bare": lambda: 1000 * wall(lambda: subprocess.run(command, check=True)),
            "isolated": lambda: 1000 * wall(lambda: asyncio.run(at_once(isolation, 1))),
        },
    )
    over = [ours - theirs for ours, theirs in zip(times["isolated"], times["bare"], strict=True)]
    many = 1000 * wall(lambda: asyncio.run(at_once(isolation, asked.at_once))) / asked.at_once
    rows = [[name, spread(values, 1)] for name, values in {**times, "isolated over bare": over}.items()]
    show(["one program", "ms"], [*rows, [f"each of {asked.at_once} at once", f"{many:.1f}"]])

    bare = bare_items(isolation, asked.items, asked.tests)
    started = time.perf_counter()
    first = asyncio.run(verdicts(isolation, asked.items, asked.tests))
    item = 1000 * (time.perf_counter() - started) / asked.items
    second = asyncio.run(verdicts(isolation, asked.items, asked.tests))
    wrong = sum(passed != (number % 2 == 0) for number, passed in enumerate(first))
    differ = sum(one != other for one, other in zip(first, second, strict=True))
    numbers = {
        "bare_ms": times["bare"],
        "isolated_ms": times["isolated"],
        "each_of_many_ms": many,
        "item_ms": item,
        "bare_item_ms": bare,
        "wrong": wrong,
        "differ": differ,
        "left_behind": children() - before,
    }
    line = [f"{item:.0f}", f"{bare:.0f}", str(wrong), str(differ), str(numbers["left_behind"])]
    columns = [
        f"ms per item of {asked.tests} tests",
        "bare",
        "wrong verdicts",
        "that differ",
        "processes left",
    ]
    show(columns, [line], numbers, asked.out)


if __name__ == "__main__":
    main()
