"""The command line: the composition root, and the only file of `aipo` that knows `graphs` and `envs`."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer import Argument, Option

from aipo import __version__
from aipo.compare.cli import compare
from aipo.config.cli import ConfigName, ConfigOrDefault, EnvName, Overrides, config, graph, model, serve
from aipo.errors import AipoError, ConfigError, OtherRankError, RunError
from aipo.evaluate.cli import env, evaluate, overlap, try_
from aipo.replay.cli import app as replays
from aipo.train.ranks import launched
from aipo.util.console import print_line
from aipo.util.masking import mask_error, mask_output
from aipo.util.output import EventsOption, JsonOption, event_output, finite, output, secure_streams
from aipo.util.termination import TERMINATION, end_in_time
from aipo.util.working_directory import existing_directory, search_working_directory_last
from aipo.viewer.cli import runs, view
from aipo.warmup.cli import warmup

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(replays, name="replay")
console = Console(markup=False, emoji=False)
INTERRUPTED = 130

TracesFolder = Annotated[Path, Argument(help="run folder, one of its evaluations, or folder of traces")]
Filters = Annotated[
    list[str] | None,
    Argument(
        help="filters: step=3..7 task= group= agent= kind= reward=0.5.. stop= failed=yes flawed=yes error= text="
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"aipo {__version__}")
        raise typer.Exit


@app.callback()
def main_command(
    context: typer.Context,
    show_version: Annotated[
        bool, Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Trains a language model that may consult agents. Every rollout is a run of a LangGraph state machine."""
    if launched() > 1 and context.invoked_subcommand != "train":
        raise ConfigError(
            f"processes: got {launched()} of `aipo {context.invoked_subcommand}`, allowed one; only `aipo train` is for `accelerate launch`"
        )


@app.command()
def demo(
    out: Annotated[Path, Option(help="folder for the runs and the report")] = Path("runs/demo"),
    seed: Annotated[int, Option(min=0, max=2**32 - 1, help="random seed of task, first model, training")] = 0,
    model: Annotated[str, Option(help="miniature (minutes), smollm2 (a real one; an hour)")] = "miniature",
    arms: Annotated[str, Option(help="presets to compare, separated by commas; default: the demo's")] = "",
    as_json: EventsOption = False,
) -> None:
    """Trains and compares on a small built-in task.

    Evaluates each method without and with agents, and writes a report.
    """
    from aipo.demo.run import run_demo

    names = tuple(name.strip() for name in arms.split(",") if name.strip()) if arms else None
    with event_output(as_json) as console:
        run_demo(out, model=model, seed=seed, arms=names, console=console)


app.command()(compare)


@app.command()
def init(folder: Annotated[Path, Argument(help="folder for the copies of graphs/ and envs/")]) -> None:
    """Copies graphs/ and envs/ for you to edit. `aipo` uses the copies when it is started in that folder."""
    import envs
    import graphs
    from aipo.util.files import writing

    copies = {folder / package.__name__: Path(package.__path__[0]) for package in (graphs, envs)}
    for target in copies:
        if target.exists():
            raise RunError(f"init: got {target}, which exists already, allowed a folder without it")
    for target, source in copies.items():
        with writing(f"copying {source.name}", folder):
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        console.print(f"copied {target}")
    console.print(f"Next: cd {folder} && aipo graph consult", highlight=False)


@app.command()
def train(
    config: ConfigOrDefault = None,
    env: EnvName = None,
    resume: Annotated[bool, Option("--resume", help="continue from the last checkpoint")] = False,
    evaluate_after: Annotated[bool, Option("--evaluate", help="evaluate the trained policy")] = False,
    only_check: Annotated[bool, Option("--dry-run", help="check everything and make nothing")] = False,
    as_json: EventsOption = False,
    overrides: Overrides = None,
) -> None:
    """Trains a policy, or several that learn together (`policies`). Writes a run folder with metrics, traces, checkpoints and the model."""
    from aipo.config.build import load_experiment
    from aipo.config.environment import with_environment
    from aipo.train.dry_run import dry_run
    from aipo.train.peers.run import train_peers
    from aipo.train.run import train_run

    with event_output(as_json) as console:
        name, words = with_environment(env, config, overrides or ())
        file = Path(name or "aipo_distil")  # a run's own file may have names of before
        of_run = resume and (file.parent / "traces").is_dir()
        experiment = load_experiment(str(file), words, of_run=of_run)
        begin = dry_run if only_check else train_peers if experiment.peers else train_run
        begin(experiment, resume=resume, evaluate_after=evaluate_after, console=console)


app.command()(warmup)
app.command("eval")(evaluate)
app.command()(env)
app.command()(overlap)
app.command("try")(try_)
for command in (config, graph, model):
    app.command()(command)


@app.command()
def traces(
    folder: TracesFolder,
    filters: Filters = None,
    groups: Annotated[bool, Option("--groups", help="list groups (rollouts of one task)")] = False,
    order: Annotated[
        str | None,
        Option(
            help="sort traces by step, newest, reward, -reward, tokens, consults; groups by interesting, step, ..."
        ),
    ] = None,
    limit: Annotated[int, Option(min=0, max=2**31 - 1, help="maximum number of lines")] = 30,
    show: Annotated[str | None, Option(help="print the trace with this id, in colour")] = None,
    sql: Annotated[str | None, Option(help="a DuckDB query; the table is called traces")] = None,
    as_json: Annotated[bool, Option("--json", help="print lines of JSON")] = False,
) -> None:
    """Lists, filters and prints traces. --sql queries them."""
    from aipo.render import terminal as listing
    from aipo.trace.filters import parse_filter
    from aipo.trace.index import TraceIndex
    from aipo.trace.store import traces_in

    where = parse_filter(filters or ())
    if (sql is not None or show is not None) and (filters or groups or order or (sql and show)):
        raise ConfigError("--sql, --show: got filters, --groups, --order or both, allowed only one of them")
    index = TraceIndex(traces_in(folder), resident=False)
    if sql is not None:
        listing.print_query(index, sql, as_json=as_json, console=console)
    elif show is not None:
        listing.print_trace(index, show, as_json=as_json, console=console)
    else:
        listing.print_list(
            index, where, groups=groups, order=order, limit=limit, as_json=as_json, console=console
        )


@app.command()
def export(
    folder: TracesFolder,
    filters: Filters = None,
    format: Annotated[
        str,
        Option(
            help="jsonl: raw traces; sft: rewarded conversations; preference: pairs for DPO; dataset: a folder to push"
        ),
    ] = "jsonl",
    out: Annotated[
        Path | None, Option(help="output file or folder; default: exports/FORMAT in the run folder")
    ] = None,
    agents: Annotated[
        str, Option(help="sft, preference: `cut` removes consults and replies, `inline` keeps them")
    ] = "cut",
    min_reward: Annotated[
        float, Option(callback=finite, help="sft: only traces with a reward above this")
    ] = 0.0,
    unique: Annotated[bool, Option("--unique", help="sft, preference: drop rows of one text")] = False,
    margin: Annotated[
        float, Option(min=0, callback=finite, help="preference: minimum difference of rewards")
    ] = 0.0,
    pairs: Annotated[
        int, Option(min=0, help="preference: maximum pairs per group, widest first; 0 = all")
    ] = 1,
    tokenizer: Annotated[
        Path | None, Option(help="folder of the policy's tokenizer; default: the run's")
    ] = None,
    force: Annotated[bool, Option("--force", help="overwrite an earlier export")] = False,
) -> None:
    """Exports traces for other tools. Formats: raw JSON lines, SFT, DPO, or a data set with a card."""
    from aipo.export.run import ExportOptions, export_run
    from aipo.trace.filters import parse_filter

    options = ExportOptions(
        format=format,
        out=out,
        where=parse_filter(filters or ()),
        agents=agents,
        min_reward=min_reward,
        unique=unique,
        margin=margin,
        pairs=pairs or None,
        tokenizer=tokenizer,
        force=force,
    )
    export_run(folder, options, console)


app.command()(runs)
app.command()(view)
app.command()(serve)


@app.command()
def doctor(
    config: ConfigName = "aipo_distil",
    quick: Annotated[bool, Option("--quick", help="skip the checks that load the policy")] = False,
    as_json: JsonOption = False,
    overrides: Overrides = None,
) -> None:
    """Checks a configuration before a run. Prints ok, warn or fail per check, and how to fix it."""
    from aipo.config.build import load_experiment
    from aipo.doctor.run import doctor as examine

    with output(as_json) as console:
        if not examine(load_experiment(config, overrides or ()), quick=quick, console=console):
            raise typer.Exit(1)


def main() -> None:
    """Runs a command; an error that AIPO raises on purpose is one message and exit code 2."""
    secure_streams()
    mask_output()
    search_working_directory_last()
    TERMINATION.install()
    errors, code = Console(file=sys.stderr), 1
    try:
        # typer turns an interrupt into an exit code, and hands that back instead of leaving with it.
        code = app(standalone_mode=False) or 0
        if code == INTERRUPTED:
            raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        ended = TERMINATION.asked  # with an exit code as a shell has it
        how, code = (f"ended by {ended.name}", 128 + ended) if ended else ("interrupted", INTERRUPTED)
        print_line(errors, f"{how}; {TERMINATION.kept}", "yellow")
    except (AipoError, OSError) as error:
        told, code = error, 2
        if not isinstance(error, AipoError) and error.filename is None:
            if existing_directory() is not None:
                raise  # not of a path that was given, or of HOME
            told = RunError("working directory: got one that was deleted, allowed one that exists (cd to it)")
        if not isinstance(told, OtherRankError):  # rank 0 reports the error
            print_line(errors, mask_error(f"{type(told).__name__}: {told}"), "red")
    except SystemExit as error:
        # It is that of typer's completion; an exit of somebody's code is caught where that runs.
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    except Exception as error:
        # click's own usage errors carry their message and exit code.
        if not (hasattr(error, "exit_code") and hasattr(error, "show")):
            raise
        error.show()  # type: ignore[attr-defined]
        code = error.exit_code  # type: ignore[attr-defined]
    finally:
        end_in_time(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
