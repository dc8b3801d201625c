"""What the benchmarks share: options, rounds that alternate, and tables whose numbers can also be written as JSON."""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

T = TypeVar("T")
Name = TypeVar("Name")


def options(doc: str | None, **defaults: Any) -> argparse.Namespace:
    """The command line: `--name value` for each default, of its type, several values for a list; and `--out`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in defaults.items():
        many = isinstance(default, list)
        kind = type(default[0] if many else default)
        parser.add_argument(f"--{name}", type=kind, nargs="*" if many else None, default=default)
    parser.add_argument("--out", "--json", type=Path, help="a JSON file for the numbers")
    return parser.parse_args()


def alternate(
    rounds: int, work: Mapping[Name, Callable[[], T]], *, warm_up: bool = True
) -> dict[Name, list[T]]:
    """What each of `work` gives in each round, so that a busy machine hits all; with `warm_up` one round more goes before."""
    results: dict[Name, list[T]] = {name: [] for name in work}
    for number in range(rounds + warm_up):
        for name, run in work.items():
            result = run()
            if number or not warm_up:
                results[name].append(result)
    return results


def wall(action: Callable[[], object]) -> float:
    """Seconds that pass."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def cpu(action: Callable[[], object]) -> float:
    """Seconds that this process computes, which other work on the machine disturbs less."""
    started = time.process_time()
    action()
    return time.process_time() - started


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median with the least and the most."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of each round."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def short(number: float) -> str:
    """Three digits that count."""
    return f"{number:,.3g}" if number < 1000 else f"{number:,.0f}"


def show(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: object = None, out: Path | None = None
) -> None:
    """Prints a table, and writes the numbers if that is wanted."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
    if out:
        out.write_text(json.dumps(numbers, indent=1) + "\n")
