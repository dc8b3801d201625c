"""`aipo compare`: a matrix of runs, arm by arm and seed by seed, and what comes of it.

Each cell is an ordinary `aipo train --evaluate` into a run folder of its own, a few at a time. What is finished stays,
what was interrupted goes on, what fails is told and the others go on; results are written from what is there.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from aipo.compare.jobs import POLL_S, Job, evaluate_job, run_jobs, train_job
from aipo.compare.matrix import BEFORE, Cell, Matrix, Stage, log_of, read_matrix
from aipo.compare.page import write_page
from aipo.compare.results import read_outcomes, write_csv
from aipo.compare.standings import stand, summary
from aipo.compare.tables import print_board
from aipo.config.build_policy import build_model
from aipo.config.load import Config, dump
from aipo.errors import ConfigError
from aipo.run import RunFolder
from aipo.train.resume import MAY_CHANGE, differences
from aipo.util.console import Note, bars, put_away, stage
from aipo.util.files import busy, exclusive, write_json, write_text

_UNTRAINED = (
    *(key for key in MAY_CHANGE if key != "evaluate.*"),
    *("run.*", "train.*", "method.*", "env.mixture*", "policy.lora*"),
)
"""Settings that an evaluation of the policy before does not depend on."""


def compare(file: Path, *, at_once: int, report_only: bool, console: Console) -> bool:
    """Runs what is missing of a matrix and writes results.csv, summary.json and report.html; is it complete now?

    Args:
        report_only: only write the results of what is there.

    Raises:
        ConfigError: the matrix is wrong, or it contradicts runs that are there.
        RunError: another process runs the same matrix, or a folder cannot be read or written.
    """
    matrix = read_matrix(file)
    check_unchanged(matrix)
    if not report_only:
        _check_servers(matrix, at_once)
        with exclusive(matrix.out), bars(console) as progress:
            _wait_for_others(matrix, progress)
            _run(matrix, progress, at_once=at_once)
    return write_results(matrix, console)


def write_results(matrix: Matrix, console: Console) -> bool:
    """Writes and prints what is there; is nothing missing?

    Raises:
        RunError: a file of a run cannot be read, or the folder cannot be written.
    """
    outcomes = read_outcomes(matrix)
    standings = stand(matrix, outcomes)
    out = matrix.out
    write_csv(out / "results.csv", outcomes, matrix.measures)
    write_page(out / "report.html", matrix, outcomes, standings)
    write_json(out / "summary.json", summary(matrix, outcomes, standings))
    print_board(matrix, outcomes, standings, console)
    for what, name in (("report", "report.html"), ("numbers", "results.csv"), ("summary", "summary.json")):
        console.print(f"{what:<9} {out / name}", highlight=False, soft_wrap=True)
    console.print(f"next      aipo view {out}", highlight=False, soft_wrap=True)
    return not outcomes.missing


def check_unchanged(matrix: Matrix) -> None:
    """Refuses a matrix that says otherwise than runs that are there.

    Raises:
        ConfigError: names the runs, and the settings that differ.
    """
    lines: list[str] = []
    for one in (one for cell in matrix.cells for one in cell.stages):
        may_change = [key for key in MAY_CHANGE if not (one.done and key == "evaluate.*")]
        lines += _contradiction(one.folder.config, one.config, may_change)
    for config in matrix.before.values():
        if _measured(config):
            lines += _contradiction(_recorded(config), config, _UNTRAINED)
    if lines:
        raise ConfigError(
            f"matrix {matrix.file}: it contradicts runs that are there:\n  " + "\n  ".join(lines) + "\n"
            "Allowed: the settings that they began with, another name for the arm, another `out`, or remove them"
        )


def _check_servers(matrix: Matrix, at_once: int) -> None:
    """Runs side by side would give the same servers their weights in turns."""
    served = [
        cell.name for cell in matrix.cells if any(one.config.policy.engine == "vllm" for one in cell.stages)
    ]
    if served and at_once > 1:
        raise ConfigError(
            f"--at-once: got {at_once} with policy.engine=vllm ({served[0]}), allowed 1: a server has the weights of "
            "one run at a time"
        )


def _contradiction(recorded: Path, config: Config, may_change: Sequence[str]) -> list[str]:
    changed = differences(recorded, config.model_dump(mode="json"), may_change) if recorded.is_file() else []
    return [f"{config.run.out}: got {'; '.join(changed)}"] if changed else []


def _recorded(before: Config) -> Path:
    """The configuration of an evaluation of the policy before, beside its folder."""
    out = before.run.out
    return out.with_name(f"{out.name}.yaml")


def _wait_for_others(matrix: Matrix, progress: Progress) -> None:
    """Waits for runs that have outlived the `aipo compare` which began them, for instance because it was killed."""
    folders = [
        *(one.folder.path for cell in matrix.cells for one in cell.stages),
        *(RunFolder(config.run.out).evaluation_traces(BEFORE) for config in matrix.before.values()),
    ]
    notes: dict[Path, Note] = {}
    while running := [folder for folder in folders if busy(folder)]:
        for folder in running:
            if folder not in notes:
                notes[folder] = stage(progress, f"waiting for {folder.relative_to(matrix.out)}")
                notes[folder](0, 0, "an earlier `aipo compare` has left it running")
        time.sleep(POLL_S)
    for folder in notes:
        put_away(progress, f"waiting for {folder.relative_to(matrix.out)}")


def _run(matrix: Matrix, progress: Progress, *, at_once: int) -> None:
    """Runs every cell that is not done. One that fails is told, and says why in its log."""
    befores = {seed: config for seed, config in matrix.before.items() if not _measured(config)}
    cells = [cell for cell in matrix.cells if not cell.done]
    jobs: list[Job] = []
    for seed in matrix.seeds:
        jobs += [_evaluate(befores[seed])] if seed in befores else []
        jobs += [_train(cell) for cell in cells if cell.seed == seed]
    if not jobs:
        return
    starts = [cell.stages[0].config for cell in cells if not cell.stages[0].done]
    _build_policies([*befores.values(), *starts], progress)
    overall = stage(progress, "all")
    done = failed = 0

    def ended(job: Job, code: int) -> None:
        nonlocal done, failed
        done, failed = done + 1, failed + (code != 0)
        put_away(progress, job.name)
        if code != 0:
            progress.console.print(
                f"{job.name} failed, see {job.log}", style="red", highlight=False, soft_wrap=True
            )
        overall(done, len(jobs), f"{done} of {len(jobs)}" + (f", {failed} failed" if failed else ""))

    overall(0, len(jobs), f"0 of {len(jobs)}")
    run_jobs(jobs, progress, at_once=at_once, ended=ended)


def _measured(before: Config) -> bool:
    return RunFolder(before.run.out).evaluation(BEFORE).is_file()


def _build_policies(configs: Sequence[Config], progress: Progress) -> None:
    """Makes each policy that runs start from, once: two of them side by side would make it twice."""
    made: set[str] = set()
    for config in configs:
        key = json.dumps([config.policy.model, config.policy.options, config.run.seed], default=str)
        if key not in made:
            made.add(key)
            name = f"policy {config.run.seed}"
            build_model(config, stage(progress, name))
            put_away(progress, name)


def _evaluate(before: Config) -> Job:
    folder = RunFolder(before.run.out)
    write_text(_recorded(before), dump(before))
    return evaluate_job(
        f"{BEFORE} {before.run.seed}",
        ["--config", str(_recorded(before))],
        folder,
        BEFORE,
        log_of(folder),
    )


def _train(cell: Cell) -> Job:
    left = [(one.config, _arguments(one)) for one in cell.stages if not one.done]
    return train_job(cell.name, left, cell.log)


def _arguments(one: Stage) -> list[str]:
    resume = ["--resume"] if one.folder.config.is_file() else []
    return ["--config", one.name, *resume, *one.overrides]
