"""Whether a solution passes the tests of a problem."""

import asyncio
import json
import socket
from functools import cache
from pathlib import Path
from typing import Any

from aipo.errors import ScoreError
from envs.code.output import same_output, same_value
from envs.code.problem import Asserts, Calls, Cases, Problem
from envs.code.wire import decode, encode
from envs.isolation import Isolation, Limits

Pairs = tuple[tuple[Any, Any], ...]


async def failure(isolation: Isolation, problem: Problem, solution: str, limits: Limits) -> str | None:
    """Runs the tests until one fails, and says how; None where a solution passes them all.

    Raises:
        ScoreError: the sandbox or the tests failed, so that there is no verdict.
    """
    files = {"prelude.py": problem.prelude, "solution.py": solution}
    match problem.tests():
        case Cases(pairs):
            return await _cases(isolation, pairs, files, limits)
        case Calls(function, pairs):
            return await _calls(isolation, function, pairs, files, limits)
        case Asserts(function, code):
            return await _asserts(isolation, function, code, files, limits)


async def _cases(isolation: Isolation, pairs: Pairs, files: dict[str, str], limits: Limits) -> str | None:
    files = {**files, "main.py": _program("main")}
    for number, (given, expected) in enumerate(pairs, start=1):
        command = isolation.python("main.py")
        # What is more than twice as long as expected cannot be right, and is not kept.
        most = limits.model_copy(update={"output": max(limits.output, 2 * len(expected.encode()))})
        outcome = await isolation.run(command, files=files, stdin=given.encode(), limits=most)
        if outcome.code != 0:
            return f"test {number}: {outcome.says}"
        if not same_output(outcome.stdout.decode(errors="replace"), expected):
            return f"test {number}: another output"
    return None


async def _calls(
    isolation: Isolation, function: str, pairs: Pairs, files: dict[str, str], limits: Limits
) -> str | None:
    files = {**files, "serve.py": _program("serve"), "wire.py": _program("wire")}
    lines = "".join(json.dumps(encode([arguments, {}])) + "\n" for arguments, _ in pairs)
    command = isolation.python("serve.py", function, "1")
    most = limits.model_copy(update={"output": max(limits.output, 2 * len(json.dumps(pairs)))})
    outcome = await isolation.run(command, files=files, stdin=lines.encode(), limits=most)
    replies = outcome.stdout.decode(errors="replace").splitlines()
    for number, (_, expected) in enumerate(pairs, start=1):
        if number > len(replies):
            return f"call {number}: {outcome.says}"
        try:
            value = decode(json.loads(replies[number - 1])["value"])
            right = same_value(value, expected)
        except (ValueError, TypeError, KeyError, RecursionError):
            return f"call {number}: {replies[number - 1][:200]}"
        if not right:
            return f"call {number}: another value"
    return None


async def _asserts(
    isolation: Isolation, function: str, code: str, files: dict[str, str], limits: Limits
) -> str | None:
    ours, theirs = socket.socketpair()
    shared = {"prelude.py": files["prelude.py"], "wire.py": _program("wire")}
    # The solution ends first, so that the suite can say why: its deadline says something about the suite alone.
    patient = limits.model_copy(update={"deadline": 2 * limits.deadline + 10})
    with ours, theirs:
        serve = asyncio.create_task(
            isolation.run(
                isolation.python("serve.py", function, "0"),
                files={**files, "wire.py": shared["wire.py"], "serve.py": _program("serve")},
                stdin=theirs,
                limits=limits,
            )
        )
        serve.add_done_callback(lambda _: theirs.close())  # the suite waits for nobody who never started
        try:
            outcome = await isolation.run(
                isolation.python("check.py", function),
                files={**shared, "check.py": _program("check"), "tests.py": code},
                stdin=ours,
                limits=patient,
            )
        finally:
            serve.cancel()
            [served] = await asyncio.gather(serve, return_exceptions=True)
    if isinstance(served, ScoreError):
        raise served
    if outcome.code != 0:
        raise ScoreError(f"suite of asserts: got {outcome.says}, allowed a verdict")
    try:
        verdict = json.loads(outcome.stdout.splitlines()[-1])
        return None if verdict["passed"] else str(verdict["why"])
    except (ValueError, TypeError, LookupError) as error:
        raise ScoreError(f"suite of asserts: got {outcome.stdout[-200:]!r}, allowed a verdict") from error


@cache
def _program(name: str) -> str:
    """The text of a file beside this one that runs inside the sandbox."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
