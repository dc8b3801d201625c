"""The command `aipo compare`: options only."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from aipo.errors import ConfigError
from aipo.util.output import EventsOption, event_output

_RUNS, _SHOWN = 2, 20


def compare(
    files: Annotated[
        list[Path],
        Argument(
            help="YAML with out, seeds and arms; see aipo/compare/README.md. Or two evaluations, or runs"
        ),
    ],
    at_once: Annotated[int | None, Option(min=1, help="YAML: number of runs at a time; default: 2")] = None,
    report: Annotated[bool, Option("--report", help="YAML: only report the finished runs")] = False,
    name: Annotated[str | None, Option(help="two runs: the evaluation of both that is compared")] = None,
    limit: Annotated[
        int | None, Option(min=0, help="two: maximum number of tasks listed; default: 20")
    ] = None,
    markdown: Annotated[bool, Option("--markdown", help="two: print Markdown")] = False,
    as_json: EventsOption = False,
) -> None:
    """Compares methods (arms) over several seeds, or two evaluations task by task.

    A YAML file: trains each arm with each seed; finished runs are not repeated. Writes tables, a CSV file and a page with charts. The exit code is 1 if a result is missing.

    Two evaluations (RUN/evaluations/NAME, or runs with one each): differences paired by task, and which tasks turned right or wrong.
    """
    from aipo.compare.run import compare as run_matrix
    from aipo.compare.run import compare_evaluations

    of_matrix = {"--at-once": at_once, "--report": report or None}
    of_two = {"--name": name, "--limit": limit, "--markdown": markdown or None}
    if len(files) not in (1, 2):
        raise ConfigError(f"compare: got {len(files)} files, allowed a YAML file, or two evaluations or runs")
    for option, value in (of_two if len(files) == 1 else of_matrix).items():
        if value is not None:
            allowed = "two evaluations or runs" if len(files) == 1 else "one YAML file"
            raise ConfigError(f"{option}: got one with {len(files)} file(s), allowed with {allowed}")
    if markdown and as_json:
        raise ConfigError("--markdown: got one with --json, allowed one of the two")
    with event_output(as_json) as console:
        if len(files) == 1:
            whole = run_matrix(files[0], at_once=at_once or _RUNS, report_only=report, console=console)
        else:
            shown = _SHOWN if limit is None else limit
            compare_evaluations(files, name, limit=shown, markdown=markdown, console=console)
            whole = True
    if not whole:
        raise typer.Exit(1)
