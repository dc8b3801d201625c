"""Runs a demo: a comparison of methods with one seed.

The policy before training is evaluated, then every arm trains from it with the same tasks, rollouts and updates, and
is evaluated too. Each of these is an ordinary `aipo eval` or `aipo train` in its own process: a user can run them all.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from aipo.compare.examples import choose_examples
from aipo.compare.matrix import Matrix, Measure, build_matrix
from aipo.compare.page import PageExtras, write_page
from aipo.compare.results import ArmResult, MatrixResults, read_results, write_csv
from aipo.compare.run import print_files, run_matrix
from aipo.compare.sections import BEFORE, MatrixSection, StageSection
from aipo.compare.standings import compute_standings
from aipo.demo.demos import Demo, demo_of
from aipo.errors import RunError
from aipo.evaluate.tables import cell
from aipo.trace.filters import Filter
from aipo.trace.index import TraceIndex
from aipo.trace.store import TraceStore
from aipo.util.console import NumberTable, bars, number_table, print_line
from aipo.util.files import taken, write_json, writing
from aipo.util.output import write_event
from aipo.util.text import age, counted, duration


def run_demo(
    out: Path, *, model: str = "miniature", seed: int, arms: Sequence[str] | None = None, console: Console
) -> None:
    """Runs the demo of a model into `out`.

    Raises:
        ConfigError: no such demo, or `arms` are not its presets, each named once.
        RunError: `out` is not empty or cannot be written.
        TrainError: an arm failed; with the end of its log.
    """
    started = time.perf_counter()
    demo = demo_of(model, arms)
    arms = demo.default if arms is None else arms
    matrix = demo_matrix(demo, out, seed, arms)
    _take(matrix, demo)
    write_event(console, "started", command="demo", out=str(out))
    print_plan(matrix, demo, console)
    try:
        with bars(console) as progress:
            run_matrix(matrix, progress, at_once=demo.side_by_side, stop_at_failure=True)
    except KeyboardInterrupt:
        print_line(
            console, f"The same command goes on from what is in {out}; rm -r {out} begins anew.", "yellow"
        )
        raise
    results = read_results(matrix)
    wall_s = time.perf_counter() - started
    write_csv(out / "results.csv", results, matrix.measures)
    remarks = [*filter(None, map(asked, results.finished)), *(flawed(matrix, arm) for arm in matrix.arms)]
    _write_page(matrix, demo, results, wall_s, remarks)
    summary = summarise(wall_s, results)
    write_json(out / "summary.json", summary)
    console.print(last_table(demo, results, f"aipo demo, seed {seed}, {wall_s:.0f} s"))
    for remark in remarks:
        print_line(console, remark)
    _print_next(console, matrix, demo.policy is not None)
    write_event(console, "finished", command="demo", out=str(out), summary=summary)


def _take(matrix: Matrix, demo: Demo) -> None:
    """Makes the demo's folder, or takes an interrupted one up again."""
    out, mark = matrix.out, matrix.out / "demo.json"
    asked_for = {"seeds": list(matrix.seeds), "arms": list(matrix.arms), "set": list(demo.plan)}
    with writing("demo --out", out):
        interrupted = mark.is_file() and not (out / "summary.json").exists()
        if taken(out) and not (interrupted and json.loads(mark.read_bytes()) == asked_for):
            raise RunError(
                f"demo --out: got {out}, which is not empty, allowed a new folder, or that of the same demo that was "
                "interrupted"
            )
        out.mkdir(parents=True, exist_ok=True)
        write_json(mark, asked_for)


def print_plan(matrix: Matrix, demo: Demo, console: Console) -> None:
    """What the demo will do, how long it takes, and how to watch it."""
    (seed,) = matrix.seeds
    arms = {arm: matrix.cell(arm, seed).stages[-1].experiment for arm in matrix.arms}
    stages = [demo.first, (BEFORE, demo.before_s, "the policy is evaluated, without and with agents")]
    for arm, experiment in arms.items():
        steps = counted(experiment.train.steps, "rollout step")
        help = "with agents" if experiment.method.assist_share > 0 else "without agents"
        help = f"of {' and '.join(experiment.peers)}, which discuss" if experiment.peers else help
        stages.append((arm, demo.arm_s, f"{steps} {help}, then evaluated"))
    print_line(console, f"aipo demo: {demo.aim}", "bold")
    for name, seconds, text in stages:
        print_line(console, f"  {name:<12}{age(seconds):>7}  {text}")
    name, *_ = demo.first
    print_line(
        console,
        f"The times are those of one idle core. After the {name}, up to {demo.side_by_side} run side by side.",
        "dim",
    )
    print_line(console, f"Watch it live, from another terminal: aipo view {matrix.out}")


def asked(result: ArmResult) -> str:
    """A sentence that counts the consults of each agent while training; empty if nobody was asked."""
    counts = Counter[str]()
    for row in result.metrics:
        for name, share in row.items():
            if name.startswith("consults/") and share:
                counts[name.removeprefix("consults/")] += round(share * row["rollouts/assisted"])
    names = {"unknown": "names that are no agent"}
    agents = ", ".join(f"{names.get(agent, agent)} {count:,} times" for agent, count in counts.most_common())
    return f"{result.arm}: while training, it asked {agents}." if agents else ""


def flawed(matrix: Matrix, arm: str) -> str:
    """A sentence that counts the rewarded training rollouts of an arm in which a line before the answer is wrong."""
    index = TraceIndex(matrix.cell(arm, matrix.seeds[0]).folder.traces, resident=False)
    wrong, sound = (index.count(Filter(flawed=choice)) for choice in (True, False))
    share = f" ({wrong / (wrong + sound):.1%})" if wrong else ""
    return f"{arm}: in {wrong:,} of {wrong + sound:,} rewarded rollouts{share} a line before the right answer is wrong."


def demo_matrix(demo: Demo, out: Path, seed: int, arms: Sequence[str]) -> Matrix:
    """The demo as a matrix. The first arm is what the demo is about, the last one the reference."""
    alone = ("run.threads=null",)  # nothing runs beside a warm-up
    section = MatrixSection(
        out=out,
        seeds=(seed,),
        set=demo.plan,
        warmup=StageSection(config=demo.base, set=alone) if demo.base else None,  # pyright: ignore[reportCallIssue]
        reference=arms[-1],
        arms={arm: demo.section_of(arm) for arm in arms},
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


def _write_page(
    matrix: Matrix, demo: Demo, results: MatrixResults, wall_s: float, remarks: Sequence[str]
) -> None:
    from transformers import AutoTokenizer

    from aipo.policies.tokenizer import HFTokenizer

    (seed,) = matrix.seeds
    arm = matrix.cell(matrix.arms[0], seed)
    traces = (run.folder.evaluation_traces(run.evaluation) for run in (matrix.before[seed], arm))
    extras = PageExtras(
        title=demo.title,
        story=demo.story,
        remarks=remarks,
        facts={"seed": str(seed), "wall time": duration(wall_s), "trained": ", ".join(matrix.arms)},
        split_names=demo.splits,
        arm=arm.arm,
        examples=choose_examples(*(TraceStore(folder).read() for folder in traces)),
        decode=HFTokenizer(AutoTokenizer.from_pretrained(arm.folder.model)).decode,
        drawing=json.loads(arm.folder.graph.read_text(encoding="utf-8")),
    )
    write_page(matrix.out / "report.html", matrix, results, compute_standings(matrix, results), extras)


def last_table(demo: Demo, results: MatrixResults, title: str) -> NumberTable:
    """The pass@1 of each policy; a row that no policy was measured on is left out."""
    rows: list[Sequence[str]] = []
    for label, split, setting in demo.table:
        measure = Measure(split=split, setting=setting, k=1)
        measured = [(result.pass_at(measure), result.interval(measure)) for result in results.finished]
        if any(value is not None for value, _ in measured):
            rows.append((label, *(cell(value, interval) for value, interval in measured)))
    columns = ("solved without agents, pass@1", *(result.arm for result in results.finished))
    return number_table(columns, rows, title=title)


def _print_next(console: Console, matrix: Matrix, peers: bool) -> None:
    out, first = matrix.out, matrix.cell(matrix.arms[0], matrix.seeds[0]).folder.path
    console.print("The interval is 95 %, bootstrapped over facts.", style="dim")
    print_files(out, console)
    console.print("\nNext:")
    for command, what in (
        (f"aipo view {out}", "every trace of it, in the browser"),
        (f"aipo traces {first} agent={'right' if peers else 'knowledge'}", "or in the terminal"),
        (
            f"aipo graph {'idea3' if peers else 'consult'}",
            "the rollout as a state machine, and the files to edit",
        ),
        ("aipo init my && cd my", "your own copy of the graphs, prompts and environments"),
        (
            "aipo train --config aipo_distil run.out=runs/floor method.coefficient=floor",
            "another coefficient",
        ),
        (f"aipo eval --run {first}", "evaluate the trained policy again"),
    ):
        console.print(Text.assemble("  ", (command, "bold"), (f"  # {what}", "dim")), soft_wrap=True)
