"""Events: standard output holds nothing else, and ends with what became of the command."""

import json
import os
import subprocess
import sys
import threading
from io import StringIO

import pytest
from rich.console import Console

from aipo.util import console as console_module
from aipo.util.console import WrittenProgress, bars, put_away, stage
from aipo.util.output import EventConsole, event_output, write_event

PROGRAM = """
import os, subprocess, sys
from aipo.errors import ConfigError
from aipo.util.console import bars, stage
from aipo.util.output import event_output, write_event

with event_output(True) as console:
    write_event(console, "started", command="train")
    print("a library prints")
    os.write(1, b"so does C\\n")
    subprocess.run([sys.executable, "-c", "print('and a child')"], check=True)
    console.print("for people")
    with bars(console) as progress:
        note = stage(progress, "train", lines=None)
        for step in (1, 2):
            note(step, 2, {"reward/solo": 0.5 * step, "active_share": float("nan")})
    ENDING
print("afterwards")
"""


def program(ending: str) -> subprocess.CompletedProcess[str]:
    code = PROGRAM.replace("ENDING", ending)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_standard_output_holds_events_alone() -> None:
    done = program('write_event(console, "finished", run="runs/ü")')
    *lines, last = done.stdout.splitlines()
    assert (last, done.returncode) == ("afterwards", 0)
    step = {"event": "step", "stage": "train", "steps": 2}
    assert [json.loads(line) for line in lines] == [
        {"event": "started", "command": "train"},
        {**step, "step": 1, "left_s": None, "metrics": {"reward/solo": 0.5, "active_share": None}},
        {**step, "step": 2, "left_s": 0.0, "metrics": {"reward/solo": 1.0, "active_share": None}},
        {"event": "finished", "run": "runs/ü"},
    ]
    said = done.stderr.splitlines()
    assert sorted(said) == ["a library prints", "and a child", "for people", "so does C"]


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        ('raise ConfigError("seed: got 1")', "ConfigError: seed: got 1"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ('sys.exit("gone")', "SystemExit: gone"),
    ],
)
def test_the_last_event_of_a_command_that_fails_says_why(ending: str, says: str) -> None:
    done = program(ending)
    assert done.returncode != 0
    assert json.loads(done.stdout.splitlines()[-1]) == {"event": "failed", "error": says}


def test_a_rank_that_only_hears_of_an_error_leaves_it_to_rank_0() -> None:
    done = program("from aipo.errors import OtherRankError; raise OtherRankError('rank 0 stopped')")
    assert done.returncode != 0 and "failed" not in done.stdout


def test_the_work_goes_on_when_nobody_reads_any_more() -> None:
    read, write = os.pipe()
    os.close(read)
    code = PROGRAM.replace("ENDING", 'console.print("done")')
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    said = done.stderr.decode().splitlines()
    assert said.count("stdout was closed: nobody reads events any more; the work goes on") == 1
    assert "done" in said


def test_without_json_there_are_no_events(capsys: pytest.CaptureFixture[str]) -> None:
    with event_output(False) as console:
        write_event(console, "started", command="train")
        console.print("for people")
    assert capsys.readouterr().out == "for people\n"


# -- lines -----------------------------------------------------------------------------------------------


def written(steps: int, seconds: float = 60.0, *, first: int = 1, lines: int | None = None) -> list[str]:
    """The lines of a stage whose steps take so long."""
    now, console = 0.0, Console(file=StringIO(), width=40)
    with WrittenProgress(console, lambda: now) as progress:
        note = stage(progress, "train", lines=lines)
        for step in range(first, steps + 1):
            now += seconds
            note(step, steps, {"reward/solo": 0.25, "reward/assisted": 0.5})
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_line_for_each_step_has_its_rewards_and_the_time_left() -> None:
    shown = "solo 0.25  assisted 0.50"
    assert written(4) == [
        f"train             1 of 4  {shown}",
        f"train             2 of 4  {shown}  2 min left",
        f"train             3 of 4  {shown}  60 s left",
        f"train             4 of 4  {shown}",
    ]


def test_a_run_that_goes_on_counts_the_steps_of_this_time_only() -> None:
    left = [line.partition("0.50")[2] for line in written(9, first=6)]
    assert left == ["", "  2 min left", "  60 s left", ""]


def test_steps_that_take_hours_have_a_time_left_too() -> None:
    assert written(3, 7200.0)[1].endswith("  2 h left")


@pytest.mark.parametrize(("steps", "count"), [(3, 3), (20, 20), (30, 20), (7680, 20)])
def test_fast_steps_share_a_line(steps: int, count: int) -> None:
    lines = written(steps, 0.001, lines=20)
    assert len(lines) == count and f"{steps} of {steps}" in lines[-1]


def test_what_happens_after_the_last_step_is_written_once() -> None:
    console = Console(file=StringIO(), width=40)
    with WrittenProgress(console, lambda: 0.0) as progress:
        note, waiting = stage(progress, "aipo 0"), stage(progress, "waiting")
        waiting(0, 0, "another run")
        waiting(0, 0, "another run")
        note(0, 2, "")
        for text in ("evaluating", "evaluating", "trained and evaluated \x1b[2J"):
            note(2, 2, text)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "waiting           another run",
        "aipo 0            2 of 2  evaluating",
        "aipo 0            2 of 2  trained and evaluated ⟨U+001B⟩[2J",
    ]


def test_a_terminal_in_which_no_bar_can_move_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(bars(Console(file=StringIO(), force_terminal=True)), WrittenProgress)


def test_a_terminal_has_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=StringIO(), force_terminal=True, width=80)
    with bars(console) as progress:
        stage(progress, "train")(1, 4, {"reward/solo": 0.25})
        assert not isinstance(progress, WrittenProgress)
    assert "1/4" in console.file.getvalue() and "solo 0.25" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [Console, EventConsole])
def test_a_step_that_takes_long_says_where_it_is(kind: type[Console]) -> None:
    now, file = 0.0, StringIO()
    console = EventConsole(file) if kind is EventConsole else Console(file=file, width=40)
    with WrittenProgress(console, lambda: now) as progress:
        train, rollouts = stage(progress, "train", lines=None), stage(progress, "rollouts", lines=0)
        for step in (1, 2):
            rollouts(0, 4, f"step {step}")
            for done in (1, 2, 3):
                now += 60
                rollouts(done, 4, f"step {step}")
            progress.look()
            progress.look()  # none has ended since
            rollouts(4, 4, f"step {step}")
            train(step, 2, {"reward/solo": 0.5})
            progress.look()  # a line was just written
    said = file.getvalue().splitlines()
    if kind is EventConsole:
        assert [
            (one["stage"], one["step"], one["steps"], one["left_s"]) for one in map(json.loads, said)
        ] == [
            *[("rollouts", 3, 4, 60.0)] * 2,
            ("train", 1, 2, None),
            *[("rollouts", 3, 4, 60.0)] * 2,
            ("train", 2, 2, 0.0),
        ]
        return
    assert said == [
        *["rollouts          3 of 4  step 1  60 s left"] * 2,
        "train             1 of 2  solo 0.50",
        *["rollouts          3 of 4  step 2  60 s left"] * 2,
        "train             2 of 2  solo 0.50",
    ]


def test_where_several_stages_go_on_each_says_where_it_is_and_one_that_is_put_away_does_not() -> None:
    console = Console(file=StringIO(), width=40)
    with WrittenProgress(console, lambda: 0.0) as progress:
        notes = {name: stage(progress, name) for name in ("a", "b", "c")}
        for name, note in notes.items():
            note(0, 100, f"doing {name}")
        put_away(progress, "b")
        progress.look()
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "a                 0 of 100  doing a",
        "c                 0 of 100  doing c",
    ]


def test_it_looks_by_itself_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "QUIET_S", 0.001)
    looked = threading.Event()
    monkeypatch.setattr(WrittenProgress, "look", lambda self: looked.set())
    with WrittenProgress(Console(file=StringIO())) as progress:
        assert looked.wait(60)
    progress.stop()
    looked.clear()
    assert not looked.wait(0.05)


def test_a_bar_that_begins_again_counts_the_time_left_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=StringIO(), force_terminal=True, width=80)
    with bars(console) as progress:
        note = stage(progress, "rollouts", lines=0)
        note(4, 4, "step 1")
        (task,) = progress.tasks
        assert task.finished
        note(0, 4, "step 2")
        assert (task.completed, task.finished) == (0, False)
