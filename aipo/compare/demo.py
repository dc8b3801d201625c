"""`aipo demo`: the main job from nothing, on the embedded miniature.

Cold start → what the policy can do alone, and AIPO and GRPO from the same start with the same tasks,
rollouts and updates → what each can do alone afterwards → summary.json, report.html, a table. After the cold
start everything is an ordinary `aipo eval` or `aipo train` in a process of its own, two at a time on two
cores: the demo shows nothing that a user cannot run.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aipo.compare.figures import Arm
from aipo.compare.jobs import Job, evaluate_job, run_jobs, train_job
from aipo.config.build_policy import build_model
from aipo.config.load import Config, load_config, presets
from aipo.errors import ConfigError, RunError
from aipo.evaluate.run import cell
from aipo.run import RunFolder
from aipo.util.console import bars, stage
from aipo.util.files import taken, write_json, writing

MINIATURE = "envs.miniature:Miniature"


def run_demo(out: Path, *, seed: int, arms: Sequence[str], console: Console) -> dict[str, Any]:
    """Runs the demo into `out` and returns what summary.json holds.

    Raises:
        ConfigError: `arms` are not presets, each named once.
        RunError: `out` is not empty or cannot be written.
        TrainError: an arm failed; with the end of what it printed.
    """
    # An arm's name is its folder's name, too.
    known = [name for name in presets() if load_config(name).env.name == MINIATURE]
    if not arms or len(set(arms)) < len(arms) or not set(arms) <= set(known):
        raise ConfigError(f"--arms: got {','.join(arms)!r}, allowed some of {','.join(known)}, each once")
    with writing("demo --out", out):
        if taken(out):
            raise RunError(f"demo --out: got {out}, which is not empty, allowed a new folder")
        out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    configs = {arm: load_config(arm, _overrides(out / arm, seed)) for arm in arms}
    with bars(console) as progress:
        build_model(configs[arms[0]], stage(progress, "cold start"))
        jobs = [_measure(arms[0], out, seed), *(_train(arm, config, out) for arm, config in configs.items())]
        run_jobs(jobs, progress, at_once=max(2, os.cpu_count() or 2))
    before = RunFolder(out).read_evaluation("before")
    after = {arm: RunFolder(out / arm).read_evaluation("after") for arm in arms}

    from aipo.compare.report import write_demo_report

    summary = summarise(seed, time.perf_counter() - started, before, after)
    report = write_demo_report(out, arms=arms, before=before, after=after, summary=summary)
    # The page tells the time without its own; the summary comes last and tells all of it.
    summary["wall_s"] = round(time.perf_counter() - started, 1)
    write_json(out / "summary.json", summary)
    policies = [Arm.of("before", before), *(Arm.of(arm, after[arm]) for arm in arms)]
    console.print(last_table(policies, f"aipo demo, seed {seed}, {summary['wall_s']:.0f} s"))
    _last_words(console, out, report, arms[0])
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
    names = {"solo": "solo_pass{k}", "suppressed": "solo_pass{k}_no_tags", "assisted": "assisted_pass{k}"}
    for split, settings in evaluation.items():
        for setting, result in settings.items():
            for k, value in result["pass_at"].items():
                yield f"{names[setting].format(k=k)}.{split}", value


def _overrides(out: Path, seed: int) -> list[str]:
    # Jobs run side by side: more threads than one each would only fight over the cores.
    return [f"run.out={out}", f"run.seed={seed}", "run.threads=1"]


def _measure(preset: str, out: Path, seed: int) -> Job:
    """What the policy can do before it is trained; leaves evaluations/before.json in `out`."""
    arguments = ["--config", preset, *_overrides(out, seed)]
    return evaluate_job("before training", arguments, RunFolder(out), "before", out / "before.log")


def _train(arm: str, config: Config, out: Path) -> Job:
    arguments = ["--config", arm, *_overrides(config.run.out, config.run.seed)]
    return train_job(f"train {arm}", [(config, arguments)], out / f"{arm}.log")


def last_table(policies: Sequence[Arm], title: str) -> Table:
    """What each policy solves: the rows that were measured for any of them."""
    table = Table("solved alone", *(policy.name for policy in policies), title=title)
    for label, split, setting, k in (
        ("unknown facts, pass@1", "heldout", "solo", 1),
        ("unknown facts, pass@8", "heldout", "solo", 8),
        ("the same, consult tags forbidden, pass@1", "heldout", "suppressed", 1),
        ("known facts and arithmetic, pass@1", "easy", "solo", 1),
        ("with agents: unknown facts, pass@1", "heldout", "assisted", 1),
    ):
        scores = [policy.score(split, setting) for policy in policies]
        if any(score and k in score.pass_at for score in scores):
            table.add_row(
                label, *(cell(s.pass_at.get(k), s.interval.get(k)) if s else cell(None, None) for s in scores)
            )
    return table


def _last_words(console: Console, out: Path, report: Path, first: str) -> None:
    console.print("The interval is 95 %, bootstrapped over facts.", style="dim")
    console.print(
        f"\nreport    {report}\nsummary   {out / 'summary.json'}\n\nNext:", highlight=False, soft_wrap=True
    )
    for command, what in (
        (f"aipo view {out}", "every trace of it, in the browser"),
        (f"aipo traces {out / first} agent=knowledge", "or in the terminal"),
        ("aipo graph consult", "the rollout as a state machine, and the files to edit"),
        ("aipo init my && cd my", "your own copy of the graphs, prompts and environments"),
        ("aipo train --config aipo run.out=runs/floor method.coefficient=floor", "another coefficient"),
        (f"aipo eval --run {out / first}", "evaluate the trained policy again"),
    ):
        console.print(f"  [bold]{command}[/bold]  [dim]# {what}[/dim]", highlight=False, soft_wrap=True)
