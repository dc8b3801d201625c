"""What a replay came to, told in the terminal."""

from collections.abc import Collection, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aipo.replay.questions.before_after import Change, Comparison, Outcome
from aipo.replay.questions.check import Divergence
from aipo.replay.recordings import LeftOut
from aipo.util.text import visible

_SHOWN = 20


def print_check(
    count: int, found: Sequence[Divergence], changed: Collection[str], seconds: float, console: Console
) -> None:
    """How many traces came out as they were, and the first difference of those that did not."""
    if changed:
        files = ", ".join(sorted(changed))
        _say(console, f"not the files that the traces were recorded with: {files}", "yellow")
    for d in found[:_SHOWN]:
        _say(console, f"{d.trace_id}: {d.where}: {d.what}", "red")
    if len(found) > _SHOWN:
        _say(console, f"... and {len(found) - _SHOWN} more", "red")
    rate = f"{seconds:.1f} s, {count / seconds:.0f} per second"
    _say(console, f"{count} traces: {count - len(found)} identical, {len(found)} diverged ({rate})")


def print_score(compared: Comparison, console: Console) -> None:
    """The reward and its parts, before and after, and the traces whose reward is another."""
    console.print(_changes("reward", compared.rewards()))
    if parts := compared.parts():
        console.print(_changes("part", parts))
    print_flipped(compared.flipped(), console)


def print_graph(compared: Comparison, versions: Mapping[int, int | None], console: Console) -> None:
    """Where rollouts left their recordings, what it cost, and the reward before and after.

    Args:
        versions: by step, how many optimiser steps are behind the weights that went on (None: unknown).
    """
    forks, stopped = compared.forks(), [o for o in compared.outcomes if o.stopped]
    count, forked = len(compared.outcomes), [o for o in compared.outcomes if o.fork]
    if forks:
        table = Table("left the recording at", "traces", box=None, header_style="bold", pad_edge=False)
        for at, number in forks:
            table.add_row(Text(visible(at)), str(number))
        console.print(table)
    _say(console, f"{count} traces: {count - len(forked)} as recorded, {len(forked)} left their recordings")
    reused = compared.reused
    _say(
        console,
        f"reused {reused['turns']} turns of the policy and {reused['calls']} calls of agents; "
        f"live were {reused['live_turns']} turns and {reused['live_calls']} calls",
    )
    if stopped:
        _say(
            console,
            f"{len(stopped)} need a live call: without --frozen they go on. The first ones:",
            "yellow",
        )
        for o in stopped[:_SHOWN]:
            _say(console, f"  {o.error}", "yellow")
    console.print(_changes("reward", compared.rewards()))
    print_flipped(compared.flipped(), console)
    others = [o for o in forked if o.resampled and versions.get(o.step) != o.version]
    if others:
        _say(
            console,
            f"{len(others)} of the traces with live turns had been sampled by other weights than those that "
            "went on: what changed there is not the edit's alone (--policy chooses the weights).",
            "yellow",
        )


def print_flipped(flipped: Sequence[Outcome], console: Console) -> None:
    """Traces whose reward is another."""
    for o in flipped[:_SHOWN]:
        _say(console, f"{o.source_id}: {o.before:g} → {o.after:g}")
    if len(flipped) > _SHOWN:
        _say(console, f"... {len(flipped)} in all", "dim")


def print_unused(prompts: Sequence[str], console: Console) -> None:
    """Files of a folder of prompts that changed nothing."""
    if prompts:
        _say(console, f"--prompts: nothing uses {', '.join(prompts)}", "yellow")


def print_left_out(left_out: Sequence[LeftOut], console: Console) -> None:
    """What could not be used, and why."""
    for item in left_out[:_SHOWN]:
        _say(console, f"left out: {item.what}: {item.reason}", "yellow")
    if len(left_out) > _SHOWN:
        _say(console, f"left out: {len(left_out)} in all", "yellow")


def _changes(what: str, made: Sequence[Change]) -> Table:
    table = Table(
        what, "traces", "before", "after", "change", "95 %", "rose", "fell", box=None, pad_edge=False
    )
    for c in made:
        interval = f"[{c.interval[0]:+.3f}, {c.interval[1]:+.3f}]" if c.interval else "–"
        numbers = [f"{c.before:.3f}", f"{c.after:.3f}", f"{c.change:+.3f}", interval, c.rose, c.fell]
        table.add_row(*(Text(visible(str(cell))) for cell in (c.what, c.traces, *numbers)))
    return table


def _say(console: Console, line: str, style: str | None = None) -> None:
    """One line; whatever a model wrote in it steers nothing."""
    console.print(visible(line), style=style, markup=False, highlight=False, soft_wrap=True)
