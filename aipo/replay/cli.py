"""The commands of `aipo replay`: one function each, options only. Nothing heavy is imported before a command runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from aipo.errors import ConfigError, one_of
from aipo.util.output import JsonOption, output

if TYPE_CHECKING:
    from aipo.replay.questions.rerun import ReplaySource

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Runs stored traces again, with a change. The result is compared; the source is never changed.",
)
_SELECTION = "filters of traces (step=3..7 agent=verify ...) and changed settings (section.key=value ...)"
_GRAPH = "graph to use, module:function or file.py:function; a file.py of the recording must be named here"
_CONFIG = "configuration to use instead of that of the run"
_OUT = "folder for the result; default: a new folder beside the source"
_GRID = "method.key=value,value,... to compare; several of them give every combination"
_CHECKPOINT = (
    "weights: exact (those that sampled the step), nearest (newest checkpoint before the step), start (before training), "
    "model (trained), or a folder"
)

Traces = Annotated[Path, typer.Argument(help="a run folder, one of its evaluations, or a folder of traces")]
Selection = Annotated[list[str] | None, typer.Argument(help=_SELECTION, show_default=False)]
ConfigFile = Annotated[Path | None, typer.Option("--config", help=_CONFIG, show_default=False)]
GraphName = Annotated[str | None, typer.Option("--graph", help=_GRAPH, show_default=False)]
Out = Annotated[Path | None, typer.Option(help=_OUT, show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Argument(help="changed settings, section.key=value ...", show_default=False)
]
Grid = Annotated[list[str] | None, typer.Option("--grid", help=_GRID)]
Steps = Annotated[str | None, typer.Option(help="only these rollout steps: 3, 3..7, ..7 or 3..")]
Checkpoint = Annotated[str, typer.Option(help=_CHECKPOINT)]


@app.command()
def check(
    folder: Traces,
    words: Selection = None,
    graph: GraphName = None,
    config: ConfigFile = None,
    as_json: JsonOption = False,
) -> None:
    """Checks that traces replay as recorded.

    Every trace runs through its graph again, without any model; what is not identical is reported.
    """
    from aipo.replay.questions.rerun import check_traces

    with output(as_json) as console:
        raise typer.Exit(check_traces(_source(folder, words, graph, config), console))


@app.command()
def score(
    folder: Traces,
    words: Selection = None,
    graph: GraphName = None,
    config: ConfigFile = None,
    out: Out = None,
    as_json: JsonOption = False,
) -> None:
    """Scores recorded rollouts again. With another environment or other reward weights."""
    from aipo.replay.questions.rerun import score_traces

    with output(as_json) as console:
        raise typer.Exit(score_traces(_source(folder, words, graph, config), out=out, console=console))


@app.command("graph")
def replay_graph(
    folder: Traces,
    words: Selection = None,
    graph: GraphName = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="folder of prompts to use instead (verify.md, policy.md, ...)", show_default=False),
    ] = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="call no model; a rollout stops where it needs one")
    ] = False,
    policy: Annotated[
        str | None,
        typer.Option(
            help="weights that continue a rollout: model (trained), nearest (checkpoint), start, or a folder",
            show_default="model",
        ),
    ] = None,
    config: ConfigFile = None,
    out: Out = None,
    as_json: JsonOption = False,
) -> None:
    """Replays with an edited graph or prompts.

    Recorded tokens and replies are reused up to the first difference. After it, the models are called.
    """
    from aipo.replay.questions.rerun import replay_graph as run

    source = _source(folder, words, graph, config, prompts)
    with output(as_json) as console:
        raise typer.Exit(run(source, policy=policy, frozen=frozen, out=out, console=console))


@app.command()
def credit(
    folder: Traces,
    words: Settings = None,
    grid: Grid = None,
    steps: Steps = None,
    out: Out = None,
    as_json: JsonOption = False,
) -> None:
    """Computes advantages with other methods. With other settings of the method. It needs no model."""
    from aipo.replay.questions.credit import replay_credit

    with output(as_json) as console:
        raise typer.Exit(replay_credit(folder, **_settings(words, grid, steps, out, console)))


@app.command()
def loss(
    folder: Traces,
    words: Settings = None,
    grid: Grid = None,
    checkpoint: Checkpoint = "exact",
    steps: Steps = None,
    gradients: Annotated[
        bool,
        typer.Option(
            help="also compute gradients: their norms, and the share of each part (policy, each agent, ...); "
            "needs memory for one float32 copy of all parameters per part and setting"
        ),
    ] = True,
    out: Out = None,
    as_json: JsonOption = False,
) -> None:
    """Computes losses with other methods.

    With other settings of the method, on stored traces; gradients, too.
    """
    from aipo.replay.questions.loss import replay_loss

    with output(as_json) as console:
        given = _settings(words, grid, steps, out, console)
        raise typer.Exit(replay_loss(folder, checkpoint=checkpoint, gradients=gradients, **given))


@app.command()
def train(
    folder: Traces,
    words: Settings = None,
    grid: Grid = None,
    steps: Steps = None,
    epochs: Annotated[int, typer.Option(min=1, help="number of passes over all traces")] = 1,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue from the last checkpoint")] = False,
    as_json: JsonOption = False,
) -> None:
    """Trains a policy from stored traces. No new rollouts are made. With --grid, one policy per setting."""
    from aipo.replay.questions.train import replay_train

    with output(as_json) as console:
        given = _settings(words, grid, steps, out, console)
        raise typer.Exit(replay_train(folder, epochs=epochs, resume=resume, **given))


@app.command()
def consults(
    folder: Traces,
    words: Selection = None,
    group: Annotated[
        bool,
        typer.Option(
            "--group",
            help="compare with other rollouts of the same group and mode, instead of new ones; needs no model",
        ),
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="number of new rollouts per consult")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="maximum number of consults per agent")] = None,
    checkpoint: Checkpoint = "nearest",
    out: Out = None,
    as_json: JsonOption = False,
) -> None:
    """Measures what consults are worth.

    That is the reward with the reply minus the reward without it. Each rollout is continued from before the consult with the tags suppressed, several times.
    """
    from aipo.replay.questions.consults import consults_against_forks, consults_against_group
    from aipo.trace.filters import parse_filter

    filters, overrides = sort_words(words)
    where = parse_filter(filters)
    if group and overrides:
        raise ConfigError(f"--group: got {overrides}, allowed only filters: nothing is run")
    with output(as_json) as console:
        if group:
            raise typer.Exit(consults_against_group(folder, where=where, out=out, console=console))
        code = consults_against_forks(
            folder,
            overrides,
            where=where,
            checkpoint=checkpoint,
            samples=samples,
            limit=limit,
            out=out,
            console=console,
        )
        raise typer.Exit(code)


def _source(
    folder: Path, words: list[str] | None, graph: str | None, config: Path | None, prompts: Path | None = None
) -> "ReplaySource":
    from aipo.replay.questions.rerun import ReplaySource

    filters, overrides = sort_words(words)
    if graph is not None:
        file, _, function = graph.rpartition(":")
        if file.endswith(".py"):  # the new run says which file it was
            graph = f"{Path(file).expanduser().resolve()}:{function}"
        overrides.insert(0, f"graph.name={json.dumps(graph)}")
    return ReplaySource(path=folder, filters=filters, overrides=overrides, config=config, prompts=prompts)


def sort_words(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Filters (`agent=verify`) and overrides of the configuration (`rollout.max_tokens=64`).

    Raises:
        ConfigError: a word without `=`.
    """
    filters: list[str] = []
    overrides: list[str] = []
    for word in words or ():
        if "=" not in word:
            raise ConfigError(one_of("word", word, "key=value", "the command"))
        (overrides if "." in word.partition("=")[0] else filters).append(word)
    return filters, overrides


def _settings(
    words: list[str] | None, grid: list[str] | None, steps: str | None, out: Path | None, console: Console
) -> dict[str, Any]:
    """What the questions about a method have in common."""
    from aipo.trace.filters import parse_range

    filters, overrides = sort_words(words)
    if filters:
        raise ConfigError(
            f"filters: got {filters}, allowed settings (method.NAME=value); rollouts are replayed by whole rollout steps, "
            "which --steps 3..7 chooses"
        )
    chosen = None if steps is None else parse_range("--steps", steps, int)
    return {"overrides": overrides, "grid": grid or (), "steps": chosen, "out": out, "console": console}
