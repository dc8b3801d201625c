"""stdout and stderr: somebody's code may close and replace them, and whoever reads them may leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HOSTILE = """
import ctypes, io, json, os, sys
from aipo.util.console import bars, stage
from aipo.util.output import event_output, print_result, secure_streams, output, write_event

secure_streams()
as_json = sys.argv[1] == "json"
with (event_output(as_json) if sys.argv[2] == "events" else output(as_json)) as console:
    console.print("before")
    with bars(console) as progress:
        note = stage(progress, "train", lines=None)
        print("left in a buffer", file=sys.__stdout__)
        ctypes.CDLL(None).printf(b"left in C's buffer\\n")
        print("from an agent", end="", flush=True)
        note(1, 2, "")
        HERE
        note(2, 2, "")
    console.print("after")
    print_result(console, {"a": 1})
"""


@pytest.mark.parametrize(
    "here",
    [
        "sys.stdout.close(); sys.stderr.close()",
        "sys.__stdout__.close(); sys.__stderr__.close()",
        "sys.stdout = sys.stderr = io.StringIO()",
        "sys.stdout = sys.stderr = None",
        "with sys.stdout: pass",
    ],
)
@pytest.mark.parametrize("kind", ["events", "result"])
def test_closed_and_replaced_streams_are_the_users_alone(here: str, kind: str) -> None:
    def run(*arguments: str) -> tuple[list[str], list[str]]:
        code = HOSTILE.replace("HERE", here)
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr.splitlines()

    said, _ = run("plain", kind)
    assert [line for line in said if "left in" not in line] == [
        *("before", "from an agent", "train             1 of 2", "train             2 of 2", "after")
    ]
    out, errors = run("json", kind)
    result = json.loads("\n".join(out[-3:]))
    assert result == {"a": 1} and errors[0] == "before" and errors[-1].endswith("after")
    assert [json.loads(line)["stage"] for line in out[:-3]] == (["train"] * 2 if kind == "events" else [])


def unread(code: str, *arguments: str) -> tuple[int, str]:
    """Where nobody reads stdout: the exit code, and what stands on stderr."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    return done.returncode, done.stderr


@pytest.mark.parametrize("kind", ["events", "result"])
@pytest.mark.parametrize("form", ["plain", "json"])
def test_work_goes_on_to_its_end_though_nobody_reads(form: str, kind: str) -> None:
    code = HOSTILE.replace("HERE", "pass") + "print('ended', file=sys.stderr)"
    ended, errors = unread(code, form, kind)
    assert ended == 0 and errors.splitlines()[-1] == "ended" and "Error" not in errors


@pytest.mark.parametrize("words", [["runs"], ["traces"], ["traces", "--json"]])
def test_a_list_that_nobody_reads_ends_without_a_word(words: list[str]) -> None:
    command, *options = words
    folder = str(Path(__file__).parents[1] / "kit" / "run_before")
    main = "from aipo.cli import main; main()"
    assert unread(main, command, folder, *options) == (0, "")
