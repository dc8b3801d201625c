"""Jobs: `aipo` commands in processes of their own, a few at a time."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from aipo.compare.matrix import MatrixCell, Stage
from aipo.compare.sections import BEFORE, SETTINGS
from aipo.evaluate.samples import SAMPLES
from aipo.util.console import Note, stage
from aipo.util.files import write_text, writing
from aipo.util.termination import end
from aipo.util.threads import share_cores
from aipo.util.working_directory import python_command

POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One command, or several one after another.

    Args:
        name: the name of its bar.
        commands: the arguments of `aipo`, of each.
        log: file that takes their output.
        follow: called about twice a second to move the bar, and once more when a command is done.
    """

    name: str
    commands: Sequence[Sequence[str]]
    log: Path
    follow: Callable[[Note], None]


def evaluate_job(cell: MatrixCell) -> Job:
    """`aipo eval` of the policy before, whose settings are written here; its bar shows pass@1 on the first split."""
    settings = cell.stages[0]
    write_text(Path(settings.name), settings.experiment.to_yaml())

    def follow(note: Note) -> None:
        if not cell.done:
            note(0, 1, "evaluating")
            return
        results = next(iter(cell.folder.read_evaluation(cell.evaluation).values()), {})
        values = {setting: result["pass_at"].get("1") for setting, result in results.items()}
        note(1, 1, {SETTINGS[name]: value for name, value in values.items() if value is not None})

    begun = (cell.folder.evaluation_traces(BEFORE) / SAMPLES).is_file()
    commands = [["eval", "--name", BEFORE, "--config", settings.name, *(["--resume"] if begun else [])]]
    return Job(name=cell.name, commands=commands, log=cell.log, follow=follow)


def train_job(cell: MatrixCell) -> Job:
    """`aipo train --evaluate`, once or stage by stage as far as they are not done, or `aipo warmup`; its bar follows the
    metrics."""
    stages = [run for run in cell.stages if not run.done]
    total = sum(run.experiment.train.steps for run in stages)

    def follow(note: Note) -> None:
        steps_before = 0
        for run in stages:
            step, values = _progress(run, cell.log)
            if step or not steps_before:
                note(steps_before + step, total, values)
            steps_before += run.experiment.train.steps

    def command(run: Stage) -> list[str]:
        resume = ["--resume"] if run.run.config.is_file() else []
        kind = ["train", "--evaluate"] if run.evaluation == "after" else ["warmup"]
        return [*kind, "--config", run.name, *resume, *run.overrides]

    return Job(name=cell.name, commands=[command(run) for run in stages], log=cell.log, follow=follow)


def _progress(run: Stage, log: Path) -> tuple[int, str | dict[str, float]]:
    """Rollout steps so far, and what to show beside them."""
    train = run.experiment.train
    rows = run.folder.read_metrics(train.optimizer_steps)
    step = rows[-1]["step"] // train.optimizer_steps if rows else 0
    if run.done:
        return train.steps, "trained and evaluated"
    if step >= train.steps:
        return train.steps, "evaluating"
    if (said := _last_line(log)).startswith("rollouts "):  # the step takes long
        return step, said
    if not rows:
        return 0, "starting"
    last = {k: v for row in rows for k, v in row.items() if v is not None}
    names = [name for name in ("reward/solo", "reward/assisted") if name in last]
    return step, {name: last[name] for name in names}


def _last_line(log: Path) -> str:
    """What a command said last; nothing if it said nothing yet."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 500))
        lines = file.read().decode("utf-8", "replace").splitlines()
        return " ".join(lines[-1].split()) if lines else ""
    return ""


class _RunningJob:
    """A job that has started."""

    def __init__(self, job: Job, note: Note, environment: Mapping[str, str]) -> None:
        self.job, self.note, self.environment = job, note, environment
        self.started = 0
        self.process = self._start()

    def exit_code(self) -> int | None:
        """The exit code of its last command, or of the first that failed; None while one runs or waits."""
        code = self.process.poll()
        if code is not None and code != 0:
            return code
        self.job.follow(self.note)
        if code == 0 and self.started < len(self.job.commands):
            self.process = self._start()
            return None
        return code

    def _start(self) -> subprocess.Popen[bytes]:
        job = self.job
        with writing(f"writing {job.log.name}", job.log.parent):
            job.log.parent.mkdir(parents=True, exist_ok=True)
            file = job.log.open("ab" if self.started else "wb")
        self.started += 1
        with file:
            return subprocess.Popen(
                python_command("aipo.cli:main", *job.commands[self.started - 1]),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self.environment,
                # A terminal's Ctrl-C is for us alone: a second one, from `end`, would cut their clean-up short.
                process_group=0,
            )


def run_jobs(
    jobs: Sequence[Job], progress: Progress, *, at_once: int, ended: Callable[[Job, int], None]
) -> None:
    """Runs all jobs, in order, `at_once` at a time. No process is left running, even after an error.

    Args:
        ended: called with each finished job and its exit code. An error that it raises ends the others.

    Raises:
        RunError: a log cannot be written.
    """
    waiting = list(jobs)
    running: list[_RunningJob] = []
    environment = share_cores(min(at_once, len(jobs)) or 1)
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running.append(_RunningJob(job, stage(progress, job.name), environment))
            time.sleep(POLL_S)
            for one in list(running):
                code = one.exit_code()
                if code is not None:
                    running.remove(one)
                    ended(one.job, code)
    finally:
        end([one.process for one in running])
