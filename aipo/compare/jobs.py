"""Jobs: `aipo` commands in processes of their own, a few at a time."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from aipo.compare.figures import SETTINGS, Arm
from aipo.config.load import Config
from aipo.errors import TrainError
from aipo.run import RunFolder
from aipo.util.console import Note, stage
from aipo.util.files import writing
from aipo.util.processes import end

POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One command, or several one after another.

    Args:
        name: what its bar is called.
        commands: the arguments of `aipo`, of each.
        log: file that takes what they print.
        follow: called about twice a second to move the bar, and once more when a command is done.
    """

    name: str
    commands: Sequence[Sequence[str]]
    log: Path
    follow: Callable[[Note], None]


def evaluate_job(name: str, arguments: Sequence[str], folder: RunFolder, evaluation: str, log: Path) -> Job:
    """`aipo eval`; its bar says what was measured."""

    def follow(note: Note) -> None:
        if not folder.evaluation(evaluation).is_file():
            return
        policy = Arm.of(evaluation, folder.read_evaluation(evaluation))
        scores = [score for score in policy.scores if score.split == policy.scores[0].split]
        shown = [f"{SETTINGS[s.setting]} {s.pass_at[1]:.2f}" for s in scores if 1 in s.pass_at]
        note(1, 1, ", ".join(shown))

    return Job(name=name, commands=[["eval", "--name", evaluation, *arguments]], log=log, follow=follow)


def train_job(name: str, stages: Sequence[tuple[Config, Sequence[str]]], log: Path) -> Job:
    """`aipo train --evaluate`, once or stage by stage; its bar follows the metrics.

    Args:
        stages: what is trained, and the arguments that say so.
    """

    def follow(note: Note) -> None:
        total = sum(config.train.steps for config, _ in stages)
        done = 0
        for config, _ in stages:
            step, text = _progress(config)
            if text:
                note(done + step, total, text)
            done += config.train.steps

    commands = [["train", "--evaluate", *arguments] for _, arguments in stages]
    return Job(name=name, commands=commands, log=log, follow=follow)


def _progress(config: Config) -> tuple[int, str]:
    """Generations so far, and what there is to say of them; nothing before the first one."""
    folder, train = RunFolder(config.run.out), config.train
    rows = folder.read_metrics(train.optimizer_steps)
    step = rows[-1]["step"] // train.optimizer_steps if rows else 0
    if folder.evaluation("after").is_file():
        return train.steps, "trained and evaluated"
    if step >= train.steps:
        return train.steps, "evaluating"
    last = {k: v for row in rows for k, v in row.items() if v is not None}
    kinds = [kind for kind in ("solo", "assisted") if f"reward/{kind}" in last]
    shown = ", ".join(f"{kind} {last[f'reward/{kind}']:.2f}" for kind in kinds)
    return step, f"reward: {shown}" if rows else ""


class _Running:
    """A job that has begun."""

    def __init__(self, job: Job, note: Note) -> None:
        self.job, self.note = job, note
        self.begun = 0
        self.process = self._start()

    def over(self) -> int | None:
        """The exit code of its last command, or of the first that failed; None while there is something to do."""
        code = self.process.poll()
        if code is not None and code != 0:
            return code
        self.job.follow(self.note)
        if code == 0 and self.begun < len(self.job.commands):
            self.process = self._start()
            return None
        return code

    def _start(self) -> subprocess.Popen[bytes]:
        job = self.job
        with writing(f"writing {job.log.name}", job.log.parent):
            job.log.parent.mkdir(parents=True, exist_ok=True)
            file = job.log.open("ab" if self.begun else "wb")
        self.begun += 1
        with file:
            return subprocess.Popen(
                [sys.executable, "-m", "aipo.cli", *job.commands[self.begun - 1]],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                # A terminal's Ctrl-C is for us alone: a second one, from `end`, would cut their clean-up short.
                process_group=0,
            )


def refuse_failure(job: Job, code: int) -> None:
    """Lets no job fail.

    Raises:
        TrainError: this one did; with the end of what it printed.
    """
    if code != 0:
        raise TrainError(
            f"{job.name} ended with exit code {code}, its log is {job.log}:\n{last_lines(job.log)}"
        )


def run_jobs(
    jobs: Sequence[Job],
    progress: Progress,
    *,
    at_once: int,
    ended: Callable[[Job, int], None] = refuse_failure,
) -> None:
    """Runs all of them, in order, `at_once` at a time. However this ends, none is left running.

    Args:
        ended: called with each job that is over, and its exit code. What it raises ends the others.

    Raises:
        TrainError: one failed, unless `ended` takes it.
        RunError: a log cannot be written.
    """
    waiting = list(jobs)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running.append(_Running(job, stage(progress, job.name)))
            time.sleep(POLL_S)
            for one in list(running):
                code = one.over()
                if code is not None:
                    running.remove(one)
                    ended(one.job, code)
    finally:
        end([one.process for one in running])


def last_lines(log: Path, lines: int = 20) -> str:
    """The end of what was printed."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
