"""`aipo demo`: the main job from nothing, on the embedded miniature.

Cold start → what the policy can do alone → AIPO and plain GRPO, side by side, from the same start with the
same tasks, rollouts and updates → what each can do alone afterwards → summary.json, report.html, a table.
Each arm is an ordinary `aipo train` in a process of its own, so the demo shows nothing that a user cannot run.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from aipo.config import Config, load_config
from aipo.errors import ConfigError, RunError, TrainError
from aipo.progress import Note, bars, stage
from aipo.run import RunFolder, write_json

POLL_S = 0.5
GRACE_S = 10.0


def run_demo(out: Path, *, seed: int, arms: Sequence[str], console: Console) -> dict[str, Any]:
    """Runs the demo into `out` and returns what summary.json holds.

    Raises:
        RunError: `out` is not empty.
        TrainError: an arm failed; its own message is printed above.
    """
    if not arms:
        raise ConfigError("arms: got none, allowed at least one preset")
    if out.exists() and any(out.iterdir()):
        raise RunError(f"demo --out: got {out}, which is not empty, allowed a new folder")
    started = time.perf_counter()
    configs = {arm: load_config(arm, _overrides(out / arm, seed)) for arm in arms}
    with bars(console) as progress:
        before = _prepare(configs[arms[0]], out, progress)
        _train(configs, out, progress)
    after = {arm: _read(out / arm) for arm in arms}
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
    # Arms run side by side: more threads than one each would only fight over the cores.
    return [f"run.out={out}", f"run.seed={seed}", "run.threads=1"]


def _prepare(config: Config, out: Path, progress: Progress) -> dict[str, Any]:
    """Makes the untrained policy and measures it; leaves evaluations/before.json in `out`."""
    from aipo.compose import build_model
    from aipo.exam import evaluate_policy

    model = build_model(config, stage(progress, "cold start"))
    unhurried = config.model_copy(update={"run": config.run.model_copy(update={"threads": None})})
    return evaluate_policy(unhurried, model, RunFolder(out), "before", stage(progress, "before training"))


def _train(configs: Mapping[str, Config], out: Path, progress: Progress) -> None:
    """Runs every arm as `aipo train --evaluate` and follows their metrics until all have ended."""
    with ExitStack() as stack:
        running: dict[str, tuple[subprocess.Popen[bytes], Note, Path]] = {}
        for arm, config in configs.items():
            log = out / f"{arm}.log"
            file = stack.enter_context(log.open("wb"))
            command = [sys.executable, "-m", "aipo.cli", "train", "--config", arm, "--evaluate"]
            process = subprocess.Popen(
                [*command, *_overrides(config.run.out, config.run.seed)], stdout=file, stderr=file
            )
            stack.callback(_end, process)
            running[arm] = (process, stage(progress, f"train {arm}"), log)
        while running:
            time.sleep(POLL_S)
            for arm, (process, note, log) in list(running.items()):
                _follow(configs[arm], note)
                code = process.poll()
                if code is None:
                    continue
                del running[arm]
                if code != 0:
                    raise TrainError(f"arm {arm!r} ended with exit code {code}:\n{_tail(log)}")
                note(1, 1, "trained and evaluated")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Lets an arm that was interrupted along with us put its traces away."""
    process.terminate()
    try:
        process.wait(timeout=GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _follow(config: Config, note: Note) -> None:
    rows = RunFolder(config.run.out).read_metrics()
    if not rows:
        return
    step = len(rows) // config.train.minibatches
    last = {k: v for row in rows[-config.train.minibatches :] for k, v in row.items() if v is not None}
    parts = [
        f"{k.removeprefix('reward/')} {last[k]:.2f}" for k in ("reward/solo", "reward/assisted") if k in last
    ]
    note(
        step, config.train.steps, "evaluating" if step >= config.train.steps else "reward " + ", ".join(parts)
    )


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _read(run: Path) -> dict[str, Any]:
    return json.loads(RunFolder(run).evaluation("after").read_text(encoding="utf-8"))


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
