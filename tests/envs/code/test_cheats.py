"""Solutions that try to pass without solving: none does, and each gets a verdict."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from aipo.errors import ScoreError
from envs.code.problem import Asserts, Problem
from envs.code.suites import SUITES
from envs.code.verdict import failure
from envs.isolation import Isolation, Limits
from kit.parts import isolation
from kit.problems import FUNCTION, HUMANEVAL, MBPP, RIGHT, STDIN, cheats

LIMITS = Limits(seconds=1, deadline=60.0, memory=2**29, processes=8, output=2**16, disk=2**22)
PROBLEMS = {
    "humaneval": SUITES["humaneval"].problem(HUMANEVAL),
    "mbpp": SUITES["mbpp"].problem(MBPP),
    "stdin": SUITES["livecodebench"].problem(STDIN),
    "function": SUITES["livecodebench"].problem(FUNCTION),
}


@pytest.fixture(scope="module")
def isolated() -> Isolation:
    return isolation()


def passes(isolated: Isolation, problem: Problem, solution: str, **limits) -> bool:
    changed = LIMITS.model_copy(update=limits)
    return asyncio.run(failure(isolated, problem, solution, changed)) is None


@pytest.mark.parametrize(
    ("suite", "number"), [(suite, n) for suite in RIGHT for n in range(len(RIGHT[suite]))]
)
def test_a_right_solution_passes(isolated: Isolation, suite: str, number: int) -> None:
    assert passes(isolated, PROBLEMS[suite], RIGHT[suite][number])


@pytest.mark.parametrize(
    ("suite", "cheat"), [(suite, cheat) for suite in PROBLEMS for cheat in cheats(suite)]
)
def test_a_cheat_does_not_pass(isolated: Isolation, suite: str, cheat: str) -> None:
    assert not passes(isolated, PROBLEMS[suite], cheats(suite)[cheat])


@pytest.mark.parametrize("suite", PROBLEMS)
def test_a_solution_that_sleeps_does_not_pass(isolated: Isolation, suite: str) -> None:
    assert not passes(isolated, PROBLEMS[suite], "import time; time.sleep(1000)", deadline=1.0)


@pytest.mark.parametrize(
    "cheat",
    [
        "sys.exit",
        "os._exit",
        "exit at import",
        "print a verdict at import",
        "equal to all",
        "a number equal to all",
    ],
)
def test_the_same_cheat_passes_where_the_tests_run_in_its_process(tmp_path: Path, cheat: str) -> None:
    problem = PROBLEMS["humaneval"]
    tests = problem.tests()
    assert isinstance(tests, Asserts)
    program = tmp_path / "together.py"
    program.write_text(f"{problem.prelude}\n{cheats('humaneval')[cheat]}\n{tests.code}")
    assert subprocess.run([sys.executable, str(program)], check=False).returncode == 0


@pytest.mark.parametrize(
    "code",
    [
        "assert unknown(1)",
        "import nothing_of_that_name",
        "def (",
        "assert double(object())",
        "while True: pass",
        "raise SystemExit(3)",
    ],
    ids=["name", "import", "syntax", "no data", "endless", "exit"],
)
def test_a_suite_that_fails_gives_no_verdict(isolated: Isolation, code: str) -> None:
    problem = Problem(name="p", prompt="?", tests=lambda: Asserts("double", code), metadata={})
    with pytest.raises(ScoreError, match="suite of asserts: got"):
        passes(isolated, problem, RIGHT["humaneval"][0])


@pytest.mark.parametrize("suite", PROBLEMS)
def test_the_verdict_is_the_same_on_repeat_and_with_many_at_once(isolated: Isolation, suite: str) -> None:
    solutions = [RIGHT[suite][0], cheats(suite)["os._exit"]] * 6

    async def all_of_them() -> list[bool]:
        failures = await asyncio.gather(*(failure(isolated, PROBLEMS[suite], s, LIMITS) for s in solutions))
        return [why is None for why in failures]

    assert asyncio.run(all_of_them()) == [True, False] * 6


def test_expected_outputs_are_not_in_the_files_of_a_solution(isolated: Isolation) -> None:
    program = "import os\nfor f in sorted(os.listdir('.')): print(f, open(f).read())"
    outcome = {}

    class Seen(Isolation):
        async def run(self, command, **arguments):
            outcome.setdefault(command[-1], json.dumps(arguments["files"]))
            return await super().run(command, **arguments)

    for suite, secret in {"stdin": "15", "function": "[4, 6]", "humaneval": "== 6"}.items():
        outcome.clear()
        passes(Seen(), PROBLEMS[suite], program)
        solution = next(files for files in outcome.values() if "solution.py" in files)
        assert secret not in solution


@pytest.mark.parametrize("suite", PROBLEMS)
def test_a_sandbox_that_fails_gives_no_verdict(isolated: Isolation, suite: str) -> None:
    class Broken(Isolation):
        async def run(self, command, **arguments):
            if "solution.py" in arguments["files"]:
                raise ScoreError("sandbox: broken")
            return await super().run(command, **arguments)

    with pytest.raises(ScoreError, match="sandbox: broken"):
        passes(Broken(), PROBLEMS[suite], RIGHT[suite][0])
