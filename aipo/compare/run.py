"""`aipo compare`: runs a matrix of arms × seeds, and writes its results.

Each cell is an ordinary `aipo train --evaluate` into its own run folder, a few at a time. Finished runs stay,
interrupted runs go on, and after a failure the others go on; results are written from the finished runs.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from aipo.compare.jobs import POLL_S, Job, evaluate_job, run_jobs, train_job
from aipo.compare.matrix import Matrix, MatrixCell, Stage, read_matrix
from aipo.compare.page import write_page
from aipo.compare.paired import find_evaluation, pair_evaluations
from aipo.compare.results import read_results, write_csv
from aipo.compare.sections import BEFORE
from aipo.compare.standings import compute_standings, summary
from aipo.compare.tables import paired_json, paired_markdown, print_paired, print_standings
from aipo.config.build import Experiment
from aipo.errors import ConfigError, TrainError
from aipo.train.resume import MAY_CHANGE, differences
from aipo.util.console import Note, bars, put_away, stage
from aipo.util.files import busy, exclusive, write_json
from aipo.util.output import write_event

_UNTRAINED = (
    *(key for key in MAY_CHANGE if key != "evaluate.*"),
    *("run.*", "train.*", "method.*", "env.mixture*", "policy.lora*"),
)
"""Settings that an evaluation of the policy before does not depend on."""
_LAST_LINES = 20


def compare(file: Path, *, at_once: int, report_only: bool, console: Console) -> bool:
    """Runs the missing runs of a matrix and writes results.csv, summary.json and report.html; is it complete now?

    Args:
        report_only: only write the results of the finished runs.

    Raises:
        ConfigError: the matrix is wrong, or it contradicts existing runs.
        RunError: another process runs the same matrix, or a folder cannot be read or written.
    """
    matrix = read_matrix(file)
    check_unchanged(matrix)
    write_event(console, "started", command="compare", out=str(matrix.out))
    if not report_only:
        _check_servers(matrix, at_once)
        with exclusive(matrix.out), bars(console) as progress:
            _wait_for_others(matrix, progress)
            run_matrix(matrix, progress, at_once=at_once)
    return _write_results(matrix, console)


def compare_evaluations(
    files: Sequence[Path], name: str | None, *, limit: int, markdown: bool, console: Console
) -> None:
    """Pairs two evaluations, A and B, and prints what they come to.

    Args:
        files, name: see `aipo.compare.paired.find_evaluation`.
        limit: the most tasks that are listed of those that turned right, and wrong.
        markdown: print Markdown.

    Raises:
        ConfigError: there is no such evaluation, or the two have no task in common.
        RunError: one has not finished, or its file is none.
    """
    result = pair_evaluations(*(find_evaluation(file, name) for file in files))
    if markdown:
        console.print(paired_markdown(result, limit), highlight=False, soft_wrap=True)
    else:
        print_paired(result, limit, console)
    write_event(console, "finished", command="compare", results=paired_json(result))


def _write_results(matrix: Matrix, console: Console) -> bool:
    """Writes and prints the results of the finished runs; is nothing missing?"""
    results = read_results(matrix)
    standings = compute_standings(matrix, results)
    out = matrix.out
    write_csv(out / "results.csv", results, matrix.measures)
    write_page(out / "report.html", matrix, results, standings)
    said = summary(matrix, results, standings)
    write_json(out / "summary.json", said)
    print_standings(matrix, results, standings, console)
    print_files(out, console)
    console.print(f"next      aipo view {out}", highlight=False, soft_wrap=True)
    write_event(console, "finished", command="compare", out=str(out), summary=said)
    return not results.missing


def print_files(out: Path, console: Console) -> None:
    """Where the results are."""
    for what, name in (("report", "report.html"), ("numbers", "results.csv"), ("summary", "summary.json")):
        console.print(f"{what:<9} {out / name}", highlight=False, soft_wrap=True)


def check_unchanged(matrix: Matrix) -> None:
    """Refuses a matrix whose settings are not those of runs that exist already.

    Raises:
        ConfigError: names the runs, and the settings that differ.
    """
    lines: list[str] = []
    for run in (run for cell in (*matrix.warmups.values(), *matrix.cells) for run in cell.stages):
        may_change = [key for key in MAY_CHANGE if not (run.done and key == "evaluate.*")]
        lines += _contradiction(run.run.config, run.experiment, may_change)
    for run in (cell.stages[0] for cell in matrix.before.values() if cell.done):
        lines += _contradiction(Path(run.name), run.experiment, _UNTRAINED)
    if lines:
        raise ConfigError(
            f"matrix {matrix.name}: it contradicts runs that are there:\n  " + "\n  ".join(lines) + "\n"
            "Allowed: the settings that they began with, another name for the arm, another `out`, or remove them"
        )


def _check_servers(matrix: Matrix, at_once: int) -> None:
    """Refuses runs side by side that would overwrite each other's weights on the same servers."""
    served = [
        cell.name
        for cell in matrix.cells
        if any(run.experiment.policy.engine == "vllm" for run in cell.stages)
    ]
    if served and at_once > 1:
        raise ConfigError(
            f"--at-once: got {at_once} with policy.engine=vllm ({served[0]}), allowed 1: a server has the weights of "
            "one run at a time"
        )


def _contradiction(recorded: Path, experiment: Experiment, may_change: Sequence[str]) -> list[str]:
    changed = differences(recorded, experiment, may_change) if recorded.is_file() else []
    return [f"{experiment.out}: got {'; '.join(changed)}"] if changed else []


def _wait_for_others(matrix: Matrix, progress: Progress) -> None:
    """Waits for runs that an earlier `aipo compare` left behind, for instance because it was killed."""
    folders = [
        *(run.run.path for cell in (*matrix.warmups.values(), *matrix.cells) for run in cell.stages),
        *(cell.folder.evaluation_traces(BEFORE) for cell in matrix.before.values()),
    ]
    waiting: Note | None = None
    while running := [str(folder.relative_to(matrix.out)) for folder in folders if busy(folder)]:
        waiting = waiting or stage(progress, "waiting")
        waiting(0, 0, f"an earlier `aipo compare` has left {', '.join(running)} running")
        time.sleep(POLL_S)
    put_away(progress, "waiting")


def run_matrix(matrix: Matrix, progress: Progress, *, at_once: int, stop_at_failure: bool = False) -> None:
    """Runs every cell that is not finished.

    Args:
        stop_at_failure: a run that fails ends the others. Otherwise its log says why, and the others go on.

    Raises:
        TrainError: with `stop_at_failure`, a run failed; with the end of its log.
        RunError: a log cannot be written.
    """
    cells = [
        cell
        for seed in matrix.seeds
        for cell in (matrix.before[seed], *(cell for cell in matrix.cells if cell.seed == seed))
        if not cell.done
    ]
    if not cells:
        return
    seeds = dict.fromkeys(cell.seed for cell in cells)
    warmups = [cell for seed, cell in matrix.warmups.items() if seed in seeds and not cell.done]
    _build_policies([cell.stages[0] for cell in warmups or cells], progress)
    lost = _warm_up(warmups, progress, every=stop_at_failure, of=len(seeds))
    cells = [cell for cell in cells if cell.seed not in lost]
    jobs = [evaluate_job(cell) if cell.arm == BEFORE else train_job(cell) for cell in cells]
    overall = stage(progress, "all")
    done = failed = 0

    def ended(job: Job, code: int) -> None:
        nonlocal done, failed
        done, failed = done + 1, failed + (code != 0)
        if stop_at_failure:  # where there are few, their bars stay
            _stop_at_failure(job, code)
        else:
            put_away(progress, job.name)
        if code != 0:
            _say_failed(job, progress)
        overall(done, len(jobs), f"{done} of {len(jobs)}" + (f", {failed} failed" if failed else ""))

    overall(0, len(jobs), f"0 of {len(jobs)}")
    run_jobs(jobs, progress, at_once=at_once, ended=ended)


def _warm_up(cells: Sequence[MatrixCell], progress: Progress, *, every: bool, of: int) -> set[int]:
    """Makes the policies that the arms start from, one at a time on all cores: nothing else can begin before.

    Args:
        every: all of them are needed.
        of: number of seeds that are to run.

    Returns:
        Seeds without one: their runs have nothing to begin from.

    Raises:
        TrainError: one that is needed failed, or those of all seeds; with the end of the log.
    """
    seeds, lost = {cell.name: cell.seed for cell in cells}, set[int]()

    def ended(job: Job, code: int) -> None:
        if code == 0:
            return
        lost.add(seeds[job.name])
        if every or len(lost) == of:
            _stop_at_failure(job, code)
        _say_failed(job, progress)

    run_jobs([train_job(cell) for cell in cells], progress, at_once=1, ended=ended)
    return lost


def _say_failed(job: Job, progress: Progress) -> None:
    write_event(progress.console, "failed", stage=job.name, log=str(job.log))
    progress.console.print(f"{job.name} failed, see {job.log}", style="red", highlight=False, soft_wrap=True)


def _stop_at_failure(job: Job, code: int) -> None:
    if code != 0:
        lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        raise TrainError(
            f"{job.name} ended with exit code {code}, its log is {job.log}:\n" + "\n".join(lines)
        )


def _build_policies(starts: Sequence[Stage], progress: Progress) -> None:
    """Builds each policy that runs start from once: two runs side by side would build it twice."""
    keys: set[str] = set()
    seeds = len({start.experiment.seed for start in starts})
    begun = [start.experiment for start in starts if not start.done]
    alone = [one for whole in begun for one in (whole, *map(whole.of_policy, whole.peers)) if not one.peers]
    for experiment in alone:
        key = json.dumps([experiment.policy.model, experiment.policy.options, experiment.seed], default=str)
        if key not in keys:
            keys.add(key)
            name = experiment.policy.making + (f" {experiment.seed}" if seeds > 1 else "")
            experiment.build_model(stage(progress, name))
            put_away(progress, name)
