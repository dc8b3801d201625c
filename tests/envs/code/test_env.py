"""The environment `code`: where problems come from, which block counts, and what a trace may hold."""

import asyncio
import gzip
import json
import pickle
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from zlib import compress

import pytest
from pydantic import ValidationError

from aipo.errors import ConfigError, LoadError, TaskError
from aipo.rollout import Task
from envs.code import Code
from envs.code.env import final_program
from envs.code.output import same_output, same_value
from envs.code.wire import decode, encode
from envs.file.benchmarks import settings
from envs.isolation import Isolation, bubblewrap
from kit.parts import isolation, lacking
from kit.problems import FUNCTION, HUMANEVAL, MBPP, RIGHT, STDIN


def written(path: Path, *rows: dict[str, object]) -> str:
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def code(path: str, suite: str, **source: str) -> Code:
    isolation()  # skips where there is none
    return Code(splits={"test": {"suite": suite, "file": path, **source}})


def block(program: str) -> str:
    return f"So:\n```python\n{program}\n```\nDone."


def score(env: Code, task: Task, text: str) -> dict[str, float]:
    return asyncio.run(env.score(task, text))


@pytest.mark.parametrize(
    ("suite", "rows", "key", "why"),
    [
        ("humaneval", [HUMANEVAL], "humaneval", ": AssertionError"),
        ("mbpp", [MBPP], "mbpp", "ReplyError: no reply of the solution"),
        ("livecodebench", [STDIN], "stdin", "test 1: another output"),
        ("livecodebench", [FUNCTION], "function", "call 1: exit status 1: KeyError: 'add'"),
    ],
    ids=["humaneval", "mbpp", "stdin", "function"],
)
def test_a_task_of_a_suite_is_scored(
    tmp_path: Path, suite: str, rows: list[dict[str, object]], key: str, why: str
) -> None:
    env = code(written(tmp_path / "test.jsonl.gz", *rows), suite)
    [task] = env.tasks("test")
    assert score(env, task, block(RIGHT[key][0])) == {"correct": 1.0}
    assert env.explain(task, block(RIGHT[key][0])).endswith(": it passes every test")
    assert score(env, task, block("pass")) == {"correct": 0.0}
    assert env.explain(task, block("pass")).endswith(why)
    assert score(env, task, RIGHT[key][0]) == {"correct": 0.0}
    assert "lines, judged by" in env.explain(task, block("pass"))
    assert env.explain(task, "no block").startswith("no answer")
    if demonstration := env.demonstration(task):
        assert score(env, task, demonstration) == {"correct": 1.0}
    assert (demonstration is None) == (suite == "livecodebench")


def test_no_task_holds_a_test_and_asserts_are_marked_weak(tmp_path: Path) -> None:
    env = code(written(tmp_path / "a.jsonl", STDIN), "livecodebench")
    [task] = env.tasks("test")
    assert task.answer is None
    assert task.metadata == {
        "suite": "livecodebench",
        "question_title": "Sum",
        "platform": "mine",
        "difficulty": "easy",
        "date": "2024-05-01",
    }
    [task] = code(written(tmp_path / "b.jsonl", HUMANEVAL), "humaneval").tasks("test")
    assert task.metadata == {"suite": "humaneval", "weak": True}


def test_a_window_of_dates_over_a_folder(tmp_path: Path) -> None:
    written(tmp_path / "test.jsonl", STDIN)
    written(tmp_path / "test2.jsonl", FUNCTION)
    for window, names in {
        (): ["a1", "a2"],
        (("since", "2024-05-01"), ("until", "2024-09-29")): ["a1"],
        (("since", "2024-05-02"),): ["a2"],
    }.items():
        tasks = code(str(tmp_path), "livecodebench", **dict(window)).tasks("test")
        assert [task.task_id for task in tasks] == [f"test/{name}" for name in names]
    with pytest.raises(TaskError, match="got none from 2025-01-01 to None"):
        code(str(tmp_path), "livecodebench", since="2025-01-01").tasks("test")


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("harm",))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question_id": "x"}, "KeyError: 'starter_code', allowed a row of livecodebench, with question_id"),
        (
            {**STDIN, "private_test_cases": b64encode(compress(pickle.dumps(Harmful()))).decode()},
            "a pickle with builtins.print",
        ),
        ({**STDIN, "private_test_cases": "?"}, "allowed a row of livecodebench"),
        ({**FUNCTION, "metadata": "{}"}, "func_name"),
    ],
    ids=["columns", "pickle", "unreadable", "no function"],
)
def test_a_row_that_is_none_is_refused(tmp_path: Path, row: dict[str, object], says: str) -> None:
    with pytest.raises(TaskError, match=says):
        code(written(tmp_path / "a.jsonl", row), "livecodebench").tasks("test")


def test_the_hub_out_of_reach_says_which_files_to_put_where() -> None:
    isolation()
    with pytest.raises(
        LoadError, match=r"put test\.jsonl, test2\.jsonl.*NAME=\{suite: livecodebench, file: FOLDER\}"
    ):
        Code(splits={"test": "livecodebench"}).tasks("test")


def test_suites_have_short_names() -> None:
    assert settings("humaneval, mbpp") == {
        "name": "envs.code:Code",
        "options": {"splits": {"humaneval": "humaneval", "mbpp": "mbpp"}},
        "mixture": {"humaneval": 0.5, "mbpp": 0.5},
        "evaluated": ["humaneval", "mbpp"],
        "prompt": "code.md",
    }
    with pytest.raises(ConfigError, match=r"benchmarks: got \['humaneval'\]"):
        settings("humaneval,math500")


@pytest.mark.parametrize(
    "source",
    [
        {"suite": "humaneval", "since": "2024-01-01"},
        {"suite": "livecodebench", "since": "2024-02-01", "until": "2024-01-01"},
        "codeforces",
    ],
    ids=["no dates", "empty window", "unknown"],
)
def test_a_split_that_is_not_clear_is_refused(source: object) -> None:
    with pytest.raises(ValidationError):
        Code(splits={"test": source})


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```\n```\nb\n```", "b"),
        ("```python\na\n```\n```python\nb", None),
        ("```python\na\n```\n```python\n\n```", "a"),
        ("    ```py\n  a\n    ```", "  a"),
        ("a", None),
        ("", None),
    ],
    ids=["last", "not closed", "last is empty", "indented", "none", "nothing"],
)
def test_the_block_that_counts(text: str, program: str | None) -> None:
    assert final_program(text) == program


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ("1 2\n", "1 2", True),
        (" 1 2 \n\n", "1 2", True),
        ("1.0 2", "1 2", True),
        ("1 2", "1\n2", False),
        ("1", "1\n1", False),
        ("1e2", "100", True),
        ("0.1", "0.10000000001", False),
        ("nan", "1", False),
        ("NaN", "nan", False),
        ("yes", "YES", False),
        ("9" * 10**6, "9" * 10**6, True),
        ("9" * 10**6 + " 1", "9" * 10**6 + " 1.0", False),
        ("1e999999999", "1e999999998", False),
        ("١", "1", False),
        ("", "", True),
    ],
)
def test_outputs_are_equal_line_by_line(got: str, expected: str, same: bool) -> None:
    assert same_output(got, expected) is same


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ((1, 2), [1, 2], True),
        ([(1,), 2], [[1], 2], True),
        (True, 1, False),
        ([1], [True], False),
        ({1: (2,)}, {"1": [2]}, True),
        ({1: 2}, {"1": 3}, False),
        (1.0, 1, True),
        (None, None, True),
        ("1", 1, False),
    ],
)
def test_values_are_equal_as_json_has_them(got: object, expected: object, same: bool) -> None:
    assert same_value(got, expected) is same


@pytest.mark.parametrize(
    "value",
    [None, True, 2**70, 0.1, "x", [1, (2,)], {1: {"a": (1,)}}, {1, 2}, frozenset({1}), 1j, b"ab", set()],
)
def test_values_come_through_the_wire_unchanged(value: object) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("sys.platform", "darwin"), "got darwin, allowed Linux"),
        (("shutil.which", lambda _: None), "got no bwrap.*apt-get install bubblewrap"),
        (("_NAMESPACES", ["--no-such-option"]), "Unknown option.*kernel.unprivileged_userns_clone=1"),
    ],
    ids=["macOS", "not installed", "forbidden"],
)
def test_without_isolation_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, change: tuple[str, object], says: str
) -> None:
    if sys.platform != "linux":
        lacking("bubblewrap", "isolation: this is no Linux")
    isolation()
    name, value = change
    monkeypatch.setattr(f"{bubblewrap.__name__}.{name}", value)
    with pytest.raises(ConfigError, match=f"(?s){says}.*unsafe: true"):
        Code(splits={"test": "humaneval"})


def test_unsafe_runs_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{bubblewrap.__name__}.check_isolation", None)
    path = written(tmp_path / "a.jsonl", HUMANEVAL)
    env = Code(splits={"test": {"suite": "humaneval", "file": path}}, unsafe=True)
    [task] = env.tasks("test")
    assert score(env, task, block(RIGHT["humaneval"][0])) == {"correct": 1.0}
    assert score(env, task, block("def double(x): return 3")) == {"correct": 0.0}


def test_a_python_that_does_not_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"python: got .*allowed a Python that runs, at '/none'"):
        Isolation(python="/none", unsafe=True)


def test_the_command_line_shows_a_verdict(tmp_path: Path) -> None:
    isolation()
    path = written(tmp_path / "a.jsonl", STDIN)
    config = tmp_path / "code.yaml"
    config.write_text(
        f"extends: small\nenv:\n  name: envs.code:Code\n  mixture: {{test: 1.0}}\n  options:\n    splits:\n"
        f"      test: {{suite: livecodebench, file: {path}, since: 2024-05-01}}\n"
        "evaluate: {splits: [test]}\n"
    )
    command = [
        sys.executable,
        "-m",
        "aipo.cli",
        "env",
        str(config),
        "--split",
        "test",
        "--index",
        "0",
        "--score",
        "-",
    ]
    run = subprocess.run(command, input=block(RIGHT["stdin"][0]), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Add the numbers of each line." in run.stdout
    assert "verdict   correct 1\n" in run.stdout
