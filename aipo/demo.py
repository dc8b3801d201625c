"""`aipo demo`: the main job from nothing, on the embedded miniature.

Cold start → what the policy can do alone, and AIPO and plain GRPO from the same start with the same tasks,
rollouts and updates → what each can do alone afterwards → summary.json, report.html, a table. After the cold
start everything is an ordinary `aipo eval` or `aipo train` in a process of its own, two at a time on two
cores: the demo shows nothing that a user cannot run.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aipo.compose import build_model
from aipo.config import Config, load_config
from aipo.errors import ConfigError, RunError
from aipo.jobs import Job, run_jobs
from aipo.progress import Note, bars, stage
from aipo.run import RunFolder, write_json


def run_demo(out: Path, *, seed: int, arms: Sequence[str], console: Console) -> dict[str, Any]:
    """Runs the demo into `out` and returns what summary.json holds.

    Raises:
        RunError: `out` is not empty.
        TrainError: an arm failed; with the end of what it printed.
    """
    if not arms:
        raise ConfigError("arms: got none, allowed at least one preset")
    if out.exists() and any(out.iterdir()):
        raise RunError(f"demo --out: got {out}, which is not empty, allowed a new folder")
    started = time.perf_counter()
    configs = {arm: load_config(arm, _overrides(out / arm, seed)) for arm in arms}
    with bars(console) as progress:
        build_model(configs[arms[0]], stage(progress, "cold start"))
        jobs = [_measure(arms[0], out, seed), *(_train(config, arm, out) for arm, config in configs.items())]
        run_jobs(jobs, progress, at_once=max(2, os.cpu_count() or 2))
    before = _read(out, "before")
    after = {arm: _read(out / arm, "after") for arm in arms}
    summary = summarise(seed, time.perf_counter() - started, before, after)
    write_json(out / "summary.json", summary)

    from aipo.report import write_demo_report

    report = write_demo_report(out, arms=arms, before=before, after=after, summary=summary)
    _last_screen(console, out, report, arms, before, after, summary)
    return summary


def summarise(
    seed: int, wall_s: float, before: Mapping[str, Any], after: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Flat keys: `solo_pass1.heldout.before`; the first arm has no prefix, the others `grpo.`, `mask.`, ..."""
    summary: dict[str, Any] = {"seed": seed, "wall_s": round(wall_s, 1)}
    summary |= {f"{key}.before": value for key, value in _flat(before)}
    for number, (arm, evaluation) in enumerate(after.items()):
        prefix = f"{arm}." if number else ""
        summary |= {f"{prefix}{key}.after": value for key, value in _flat(evaluation)}
    return summary


def _flat(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    names = {"solo": "solo_pass{k}", "forbid": "solo_pass{k}_no_tags", "assisted": "assisted_pass{k}"}
    for split, settings in evaluation.items():
        for setting, result in settings.items():
            for k, value in result["pass_at"].items():
                yield f"{names[setting].format(k=k)}.{split}", value


def _overrides(out: Path, seed: int) -> list[str]:
    # Jobs run side by side: more threads than one each would only fight over the cores.
    return [f"run.out={out}", f"run.seed={seed}", "run.threads=1"]


def _measure(preset: str, out: Path, seed: int) -> Job:
    """What the policy can do before it is trained; leaves evaluations/before.json in `out`."""

    def follow(note: Note) -> None:
        if not RunFolder(out).evaluation("before").is_file():
            return
        alone, helped = (_read(out, "before")["heldout"][s]["pass_at"]["1"] for s in ("solo", "assisted"))
        note(1, 1, f"unknown facts: alone {alone:.2f}, with agents {helped:.2f}")

    arguments = ["eval", "--config", preset, "--name", "before", *_overrides(out, seed)]
    return Job(name="before training", arguments=arguments, log=out / "before.log", follow=follow)


def _train(config: Config, arm: str, out: Path) -> Job:
    """`aipo train --evaluate`, followed by its metrics."""
    folder, train = RunFolder(config.run.out), config.train

    def follow(note: Note) -> None:
        rows = folder.read_metrics()
        step = len(rows) // train.minibatches
        last = {k: v for row in rows[-train.minibatches :] for k, v in row.items() if v is not None}
        shown = [
            f"{kind} {last[f'reward/{kind}']:.2f}"
            for kind in ("solo", "assisted")
            if f"reward/{kind}" in last
        ]
        if folder.evaluation("after").is_file():
            note(train.steps, train.steps, "trained and evaluated")
        elif rows:
            note(step, train.steps, "evaluating" if step >= train.steps else f"reward: {', '.join(shown)}")

    arguments = ["train", "--config", arm, "--evaluate", *_overrides(config.run.out, config.run.seed)]
    return Job(name=f"train {arm}", arguments=arguments, log=out / f"{arm}.log", follow=follow)


def _read(run: Path, name: str) -> dict[str, Any]:
    return json.loads(RunFolder(run).evaluation(name).read_text(encoding="utf-8"))


def _last_screen(
    console: Console,
    out: Path,
    report: Path,
    arms: Sequence[str],
    before: Mapping[str, Any],
    after: Mapping[str, Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> None:
    table = Table(
        "solved alone", "before", *arms, title=f"aipo demo, seed {summary['seed']}, {summary['wall_s']:.0f} s"
    )
    rows = [
        ("unknown facts, pass@1", "heldout", "solo", 1),
        ("unknown facts, pass@8", "heldout", "solo", 8),
        ("the same, consult tags forbidden, pass@1", "heldout", "forbid", 1),
        ("known facts and arithmetic, pass@1", "easy", "solo", 1),
        ("with agents: unknown facts, pass@1", "heldout", "assisted", 1),
    ]
    for label, split, setting, k in rows:
        cells = [
            _cell(evaluation, split, setting, k) for evaluation in (before, *(after[arm] for arm in arms))
        ]
        table.add_row(label, *cells)
    console.print(table)
    console.print("The interval is 95 %, bootstrapped over facts.", style="dim")
    console.print(
        f"\nreport    {report}\nsummary   {out / 'summary.json'}\n\nNext:", highlight=False, soft_wrap=True
    )
    for command, what in (
        ("aipo graph consult", "the rollout as a state machine, and the files to edit"),
        ("aipo init my && cd my", "your own copy of the graphs, prompts and environments"),
        ("aipo train --config aipo run.out=runs/floor method.coefficient=floor", "another coefficient"),
        (f"aipo eval --run {out / arms[0]}", "evaluate the trained policy again"),
    ):
        console.print(f"  [bold]{command}[/bold]  [dim]# {what}[/dim]", highlight=False, soft_wrap=True)


def _cell(evaluation: Mapping[str, Any], split: str, setting: str, k: int) -> str:
    result = evaluation.get(split, {}).get(setting)
    value = result["pass_at"].get(str(k)) if result else None
    if result is None or value is None:
        return "–"
    low, high = result["interval"][str(k)]
    return f"{value:.2f}  [{low:.2f}, {high:.2f}]"
