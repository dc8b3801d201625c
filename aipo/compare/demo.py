"""`aipo demo`: a comparison of methods on the embedded miniature, with one seed.

The policy before training is evaluated, then every arm trains from it with the same tasks, rollouts and updates, and
is evaluated too. Each of these is an ordinary `aipo eval` or `aipo train` in its own process: a user can run them all.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aipo.compare.examples import Example, choose_examples
from aipo.compare.matrix import Matrix, build_matrix
from aipo.compare.page import PageExtras, write_page
from aipo.compare.results import MatrixResults, read_results, write_csv
from aipo.compare.run import run_matrix
from aipo.compare.sections import BEFORE, ArmSection, MatrixSection
from aipo.compare.standings import compute_standings
from aipo.config.build import load_experiment
from aipo.config.load import presets
from aipo.errors import ConfigError, RunError
from aipo.evaluate.run import cell
from aipo.run import RunFolder
from aipo.trace.store import TraceStore
from aipo.util.console import bars
from aipo.util.files import taken, write_json, writing

MINIATURE = "envs.miniature:Miniature"
# Runs side by side: more threads than one each would only fight over the cores.
OVERRIDES: tuple[str, ...] = ("run.threads=1",)
SPLITS = {
    "heldout": "Unknown facts, combinations never trained on",
    "hard": "Unknown facts, combinations seen in training",
    "easy": "Known facts and plain arithmetic",
}
"""What the miniature's splits hold, for a reader."""


def run_demo(out: Path, *, seed: int, arms: Sequence[str], console: Console) -> dict[str, Any]:
    """Runs the demo into `out` and returns the content of summary.json.

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
    with bars(console) as progress:
        run_matrix(matrix, progress, at_once=max(2, os.cpu_count() or 2), stop_at_failure=True)
    results = read_results(matrix)
    evaluations = {result.arm: result.evaluation for result in results.finished}
    summary = summarise(seed, time.perf_counter() - started, evaluations)
    write_csv(out / "results.csv", results, matrix.measures)
    _write_page(matrix, results, summary["wall_s"])
    # The page has the time up to itself; the summary is written last and has all of it.
    summary["wall_s"] = round(time.perf_counter() - started, 1)
    write_json(out / "summary.json", summary)
    console.print(last_table(evaluations, f"aipo demo, seed {seed}, {summary['wall_s']:.0f} s"))
    _print_next(console, out, arms[0])
    return summary


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


def summarise(seed: int, wall_s: float, evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Flat keys: `solo_pass1.heldout.before`; the first arm has no prefix, the others `grpo.`, `mask.`, ...

    Args:
        evaluations: of the policy before and of each arm, by its name.
    """
    summary: dict[str, Any] = {"seed": seed, "wall_s": round(wall_s, 1)}
    arms = [arm for arm in evaluations if arm != BEFORE]
    for name, evaluation in evaluations.items():
        prefix = "" if name in (BEFORE, *arms[:1]) else f"{name}."
        when = "before" if name == BEFORE else "after"
        summary |= {f"{prefix}{key}.{when}": value for key, value in _flat(evaluation)}
    return summary


def _flat(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    names = {"solo": "solo_pass{k}", "suppressed": "solo_pass{k}_no_tags", "assisted": "assisted_pass{k}"}
    for split, settings in evaluation.items():
        for setting, result in settings.items():
            for k, value in result["pass_at"].items():
                yield f"{names[setting].format(k=k)}.{split}", value


def _write_page(matrix: Matrix, results: MatrixResults, wall_s: float) -> None:
    from transformers import AutoTokenizer

    from aipo.policies.tokenizer import HFTokenizer

    arm = matrix.cell(matrix.arms[0], matrix.seeds[0])
    extras = PageExtras(
        title="AIPO on the miniature: trained with agents, measured without",
        facts={"seed": str(arm.seed), "wall time": minutes(wall_s), "trained": ", ".join(matrix.arms)},
        split_names=SPLITS,
        arm=arm.arm,
        examples=_examples(matrix, arm.folder),
        decode=HFTokenizer(AutoTokenizer.from_pretrained(arm.folder.model)).decode,
        drawing=json.loads(arm.folder.graph.read_text(encoding="utf-8")),
    )
    write_page(matrix.out / "report.html", matrix, results, compute_standings(matrix, results), extras)


def _examples(matrix: Matrix, folder: RunFolder) -> list[Example]:
    before = RunFolder(matrix.before[matrix.seeds[0]].out)
    traces = (before.evaluation_traces(BEFORE), folder.evaluation_traces("after"))
    return choose_examples(*(TraceStore(path).read() for path in traces))


def minutes(seconds: float) -> str:
    """'5 min 12 s'"""
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest} s" if whole else f"{rest} s"


def last_table(evaluations: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """The pass@k of each policy; a row that no policy was measured on is left out."""
    table = Table("solved without agents", *evaluations, title=title)
    for label, split, setting, k in (
        ("unknown facts, pass@1", "heldout", "solo", "1"),
        ("unknown facts, pass@8", "heldout", "solo", "8"),
        ("the same, consult tags suppressed, pass@1", "heldout", "suppressed", "1"),
        ("known facts and arithmetic, pass@1", "easy", "solo", "1"),
        ("with agents: unknown facts, pass@1", "heldout", "assisted", "1"),
    ):
        measured = [evaluation.get(split, {}).get(setting, {}) for evaluation in evaluations.values()]
        if any(result.get("pass_at", {}).get(k) is not None for result in measured):
            numbers = [(r.get("pass_at", {}).get(k), r.get("interval", {}).get(k)) for r in measured]
            table.add_row(label, *(cell(value, interval) for value, interval in numbers))
    return table


def _print_next(console: Console, out: Path, first: str) -> None:
    console.print("The interval is 95 %, bootstrapped over facts.", style="dim")
    for what, name in (("report", "report.html"), ("numbers", "results.csv"), ("summary", "summary.json")):
        console.print(f"{what:<9} {out / name}", highlight=False, soft_wrap=True)
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
