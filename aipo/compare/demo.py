"""`aipo demo`: a comparison of methods on the embedded miniature, with one seed.

The policy before training is evaluated, then every arm trains from it with the same tasks, rollouts and updates, and
is evaluated too. Each of these is an ordinary `aipo eval` or `aipo train` in its own process: a user can run them all.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aipo.compare.examples import choose_examples
from aipo.compare.matrix import Matrix, Measure, build_matrix
from aipo.compare.page import PageExtras, write_page
from aipo.compare.results import MatrixResults, read_results, write_csv
from aipo.compare.run import print_files, run_matrix
from aipo.compare.sections import ArmSection, MatrixSection
from aipo.compare.standings import compute_standings
from aipo.config.build import load_experiment
from aipo.config.load import presets
from aipo.errors import ConfigError, RunError
from aipo.evaluate.run import cell
from aipo.trace.store import TraceStore
from aipo.util.console import bars
from aipo.util.files import taken, write_json, writing
from aipo.util.output import write_event
from aipo.util.text import duration

MINIATURE = "envs.miniature:Miniature"
# Runs side by side: more threads than one each would only fight over the cores.
OVERRIDES: tuple[str, ...] = ("run.threads=1",)
SPLITS = {
    "heldout": "Unknown facts, combinations never trained on",
    "hard": "Unknown facts, combinations seen in training",
    "easy": "Known facts and plain arithmetic",
}
"""What the miniature's splits hold, for a reader."""


def run_demo(out: Path, *, seed: int, arms: Sequence[str], console: Console) -> None:
    """Runs the demo into `out`.

    Raises:
        ConfigError: `arms` are not presets of the miniature, each named once.
        RunError: `out` is not empty or cannot be written.
        TrainError: an arm failed; with the end of its log.
    """
    started = time.perf_counter()
    allowed = [name for name in presets() if load_experiment(name).env_name == MINIATURE]
    if not arms or len(set(arms)) < len(arms) or not set(arms) <= set(allowed):
        raise ConfigError(f"--arms: got {','.join(arms)!r}, allowed some of {','.join(allowed)}, each once")
    with writing("demo --out", out):
        if taken(out):
            raise RunError(f"demo --out: got {out}, which is not empty, allowed a new folder")
        out.mkdir(parents=True, exist_ok=True)
    matrix = demo_matrix(out, seed, arms)
    write_event(console, "started", command="demo", out=str(out))
    with bars(console) as progress:
        run_matrix(matrix, progress, at_once=max(2, os.cpu_count() or 2), stop_at_failure=True)
    results = read_results(matrix)
    wall_s = time.perf_counter() - started
    write_csv(out / "results.csv", results, matrix.measures)
    _write_page(matrix, results, wall_s)
    summary = summarise(wall_s, results)
    write_json(out / "summary.json", summary)
    console.print(last_table(results, f"aipo demo, seed {seed}, {wall_s:.0f} s"))
    _print_next(console, out, arms[0])
    write_event(console, "finished", command="demo", out=str(out), summary=summary)


def demo_matrix(out: Path, seed: int, arms: Sequence[str]) -> Matrix:
    """The demo as a matrix. The first arm is what the demo is about, the last one the reference."""
    section = MatrixSection(
        out=out,
        seeds=(seed,),
        set=OVERRIDES,
        reference=arms[-1],
        arms={arm: ArmSection(config=arm) for arm in arms},  # pyright: ignore[reportCallIssue]
    )  # pyright: ignore[reportCallIssue]
    return build_matrix(section, "demo", folders="{arm}")


def summarise(wall_s: float, results: MatrixResults) -> dict[str, Any]:
    """Flat keys: `solo_pass1.heldout.before`; the first arm has no prefix, the others `grpo.`, `mask.`, ..."""
    names = {"solo": "solo_pass{k}", "suppressed": "solo_pass{k}_no_tags", "assisted": "assisted_pass{k}"}
    before, first, *_ = results.finished
    summary: dict[str, Any] = {"seed": before.seed, "wall_s": round(wall_s, 1)}
    for result in results.finished:
        prefix = "" if result is before or result is first else f"{result.arm}."
        when = "before" if result is before else "after"
        for split, settings in result.evaluation.items():
            for setting, evaluated in settings.items():
                for k, value in evaluated["pass_at"].items():
                    summary[f"{prefix}{names[setting].format(k=k)}.{split}.{when}"] = value
    return summary


def _write_page(matrix: Matrix, results: MatrixResults, wall_s: float) -> None:
    from transformers import AutoTokenizer

    from aipo.policies.tokenizer import HFTokenizer

    (seed,) = matrix.seeds
    arm = matrix.cell(matrix.arms[0], seed)
    traces = (run.folder.evaluation_traces(run.evaluation) for run in (matrix.before[seed], arm))
    extras = PageExtras(
        title="AIPO on the miniature: trained with agents, measured without",
        facts={"seed": str(seed), "wall time": duration(wall_s), "trained": ", ".join(matrix.arms)},
        split_names=SPLITS,
        arm=arm.arm,
        examples=choose_examples(*(TraceStore(folder).read() for folder in traces)),
        decode=HFTokenizer(AutoTokenizer.from_pretrained(arm.folder.model)).decode,
        drawing=json.loads(arm.folder.graph.read_text(encoding="utf-8")),
    )
    write_page(matrix.out / "report.html", matrix, results, compute_standings(matrix, results), extras)


def last_table(results: MatrixResults, title: str) -> Table:
    """The pass@k of each policy; a row that no policy was measured on is left out."""
    table = Table("solved without agents", *(result.arm for result in results.finished), title=title)
    for label, split, setting, k in (
        ("unknown facts, pass@1", "heldout", "solo", 1),
        ("unknown facts, pass@8", "heldout", "solo", 8),
        ("the same, consult tags suppressed, pass@1", "heldout", "suppressed", 1),
        ("known facts and arithmetic, pass@1", "easy", "solo", 1),
        ("with agents: unknown facts, pass@1", "heldout", "assisted", 1),
    ):
        measure = Measure(split=split, setting=setting, k=k)
        measured = [(result.pass_at(measure), result.interval(measure)) for result in results.finished]
        if any(value is not None for value, _ in measured):
            table.add_row(label, *(cell(value, interval) for value, interval in measured))
    return table


def _print_next(console: Console, out: Path, first: str) -> None:
    console.print("The interval is 95 %, bootstrapped over facts.", style="dim")
    print_files(out, console)
    console.print("\nNext:")
    for command, what in (
        (f"aipo view {out}", "every trace of it, in the browser"),
        (f"aipo traces {out / first} agent=knowledge", "or in the terminal"),
        ("aipo graph consult", "the rollout as a state machine, and the files to edit"),
        ("aipo init my && cd my", "your own copy of the graphs, prompts and environments"),
        ("aipo train --config aipo run.out=runs/floor method.coefficient=floor", "another coefficient"),
        (f"aipo eval --run {out / first}", "evaluate the trained policy again"),
    ):
        console.print(f"  [bold]{command}[/bold]  [dim]# {what}[/dim]", highlight=False, soft_wrap=True)
