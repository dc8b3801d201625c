"""The rows of LiveCodeBench, HumanEval and MBPP, as the hub and their authors have them, as problems."""

import base64
import io
import json
import pickle
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from envs.code.problem import Asserts, Calls, Cases, Problem, Tests

Row = Mapping[str, Any]

_IMPORTS = """\
import bisect, collections, copy, datetime, functools, heapq, itertools, math, operator, random, re, statistics, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
sys.setrecursionlimit(50000)
"""
"""What solutions of LiveCodeBench may use without an import, as in its own runner."""

_WRITE = "Write Python 3. The last block of code, between ```python and ```, counts."
_PROGRAM = f"{_WRITE} Read from standard input and write to standard output."
_FUNCTION = f"{_WRITE} Begin with this:"
_CALLED = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_WRAPPERS = {
    "sum",
    "int",
    "float",
    "any",
    "all",
    "set",
    "sorted",
    "list",
    "tuple",
    "str",
    "round",
    "abs",
    "len",
    "not",
    "isclose",
    "assert",
}


@dataclass(frozen=True)
class Suite:
    """Where a suite is, and how its rows are read.

    Attributes:
        hub: its data set.
        config: its configuration there.
        files: its files there, if it is no data set that the library reads; empty: it is.
        columns: those that a file has to have.
        problem: makes a problem of a row.

    Raises, on reading a row: ValueError, KeyError, TypeError: it is no row of the suite.
    """

    hub: str
    config: str | None
    files: tuple[str, ...]
    columns: tuple[str, ...]
    problem: Callable[[Row], Problem]


def _livecodebench(row: Row) -> Problem:
    starter = row["starter_code"].strip()
    ask = f"{_FUNCTION}\n\n```python\n{row['starter_code']}\n```" if starter else _PROGRAM
    kept = {
        name: row[name] for name in ("starter_code", "metadata", "public_test_cases", "private_test_cases")
    }
    _livecodebench_tests(kept)  # refused here where it cannot be read
    names = ("question_title", "platform", "difficulty")
    return Problem(
        name=row["question_id"],
        prompt=f"{row['question_content'].strip()}\n\n{ask}",
        tests=partial(_livecodebench_tests, kept),  # packed, as they come
        prelude=_IMPORTS,
        metadata={
            **{name: row[name] for name in names if name in row},
            "date": str(row["contest_date"])[:10],
        },
    )


def _livecodebench_tests(row: Row) -> Tests:
    cases = [*_unpacked(row["public_test_cases"]), *_unpacked(row["private_test_cases"])]
    if not row["starter_code"].strip():
        return Cases(tuple((case["input"], case["output"]) for case in cases))
    pairs = ((_arguments(case["input"]), json.loads(case["output"])) for case in cases)
    return Calls(json.loads(row["metadata"])["func_name"], tuple(pairs))


def _arguments(lines: str) -> list[Any]:
    return [json.loads(line) for line in lines.split("\n")]


def _unpacked(text: str) -> Sequence[Mapping[str, str]]:
    """Tests as JSON, or packed as the private ones are."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(_OnlyText(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load())


class _OnlyText(pickle.Unpickler):
    """A pickle of text. One of anything else could run code, and is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise ValueError(f"tests: got a pickle with {module_name}.{global_name}, allowed text")


def _humaneval(row: Row) -> Problem:
    function = row["entry_point"]
    return Problem(
        name=row["task_id"],
        prompt=f"Complete the last function. {_FUNCTION}\n\n```python\n{row['prompt'].strip()}\n```",
        tests=partial(Asserts, function, f"{row['test']}\ncheck({function})"),
        prelude=f"{row['prompt'].rstrip()}\n    pass\n",
        solution=row["prompt"] + row["canonical_solution"],
        metadata={"weak": True},
    )


def _mbpp(row: Row) -> Problem:
    asserts = list(row["test_list"])
    setup = "\n".join([*(row.get("test_imports") or ()), row.get("test_setup_code") or ""])
    function = next(name for name in _CALLED.findall(asserts[0]) if name not in _WRAPPERS)
    listed = "\n".join(asserts)
    return Problem(
        name=str(row["task_id"]),
        prompt=f"{(row.get('prompt') or row['text']).strip()} {_WRITE} It has to pass:\n\n{listed}",
        tests=partial(Asserts, function, f"{setup}\n{listed}"),
        solution=row["code"],
        metadata={"weak": True},
    )


SUITES = {
    "livecodebench": Suite(
        "livecodebench/code_generation_lite",
        None,
        ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl"),
        (
            "question_id",
            "question_content",
            "starter_code",
            "public_test_cases",
            "private_test_cases",
            "metadata",
            "contest_date",
        ),
        _livecodebench,
    ),
    "humaneval": Suite(
        "openai/openai_humaneval",
        None,
        (),
        ("task_id", "prompt", "entry_point", "canonical_solution", "test"),
        _humaneval,
    ),
    "mbpp": Suite(
        "google-research-datasets/mbpp", "sanitized", (), ("task_id", "prompt", "code", "test_list"), _mbpp
    ),
}
