"""The commands of `aipo replay`: one function each, options only. Nothing heavy is imported before a command runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from aipo.errors import ConfigError, one_of

if TYPE_CHECKING:
    from aipo.replay.questions.rerun import ReplaySource

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Asks 'what if' of stored traces; the source is only read.",
)
console = Console()

Traces = Annotated[Path, typer.Argument(help="a run, one of its evaluations, or a folder of traces")]
Selection = Annotated[
    list[str] | None,
    typer.Argument(
        help="only these traces (step=3..7 agent=verify ...) and other settings (section.key=value ...)",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="a configuration instead of the run's", show_default=False)
]
GraphName = Annotated[
    str | None,
    typer.Option(
        "--graph",
        help="module:function or file.py:function; a recorded file.py is imported only if it is named here",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="folder of the new run; default: beside the source", show_default=False)
]
MethodWords = Annotated[
    list[str] | None,
    typer.Argument(help="method.key=value ... to replay with instead of the recorded", show_default=False),
]
Grid = Annotated[
    list[str] | None,
    typer.Option("--grid", help="method.key=value,value,...; more than one make every combination"),
]
Steps = Annotated[str | None, typer.Option(help="only these: 3, 3..7, ..7 or 3..")]
Checkpoint = Annotated[
    str,
    typer.Option(
        help="weights: nearest (the newest checkpoint before a step), start, model (the trained ones), or a folder"
    ),
]


@app.command()
def check(
    folder: Traces, words: Selection = None, graph: GraphName = None, config: ConfigFile = None
) -> None:
    """Runs every trace through its own graph again, with no model to ask: does the same come out?"""
    from aipo.replay.questions.rerun import check_traces

    _exit(check_traces(_source(folder, words, graph, config), console))


@app.command()
def score(
    folder: Traces,
    words: Selection = None,
    graph: GraphName = None,
    config: ConfigFile = None,
    out: Out = None,
) -> None:
    """Scores recorded rollouts again: another environment, other weights or parts of the reward."""
    from aipo.replay.questions.rerun import score_traces

    _exit(score_traces(_source(folder, words, graph, config), out=out, console=console))


@app.command("graph")
def replay_graph(
    folder: Traces,
    words: Selection = None,
    graph: GraphName = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="a folder of prompts to use instead: verify.md, policy.md, ...", show_default=False
        ),
    ] = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="call no model: stop where a live call is needed")
    ] = False,
    policy: Annotated[
        str | None,
        typer.Option(
            help="whose weights go on: model (the trained ones), nearest (checkpoint), start, or a folder",
            show_default="model",
        ),
    ] = None,
    config: ConfigFile = None,
    out: Out = None,
) -> None:
    """Runs recorded rollouts through an edited graph or prompts: reused up to the first difference, then live."""
    from aipo.replay.questions.rerun import replay_graph as run

    source = _source(folder, words, graph, config, prompts)
    _exit(run(source, policy=policy, frozen=frozen, out=out, console=console))


@app.command()
def credit(
    folder: Traces, words: MethodWords = None, grid: Grid = None, steps: Steps = None, out: Out = None
) -> None:
    """Advantages under other ways of giving credit; needs no model."""
    from aipo.replay.questions.credit import replay_credit

    code = replay_credit(
        folder, grid=grid or (), overrides=words or (), steps=_steps(steps), out=out, console=console
    )
    _exit(code)


@app.command()
def loss(
    folder: Traces,
    words: MethodWords = None,
    grid: Grid = None,
    checkpoint: Checkpoint = "nearest",
    steps: Steps = None,
    gradients: Annotated[
        bool,
        typer.Option(
            help="go backward, too: norms and shares of gradients; holds a float32 vector of all parameters "
            "for each part (policy, each agent, ...) of each setting, --no-gradients holds none"
        ),
    ] = True,
    out: Out = None,
) -> None:
    """Loss and gradients of stored rows under other settings, all of them in one pass."""
    from aipo.replay.questions.loss import replay_loss

    code = replay_loss(
        folder,
        checkpoint=checkpoint,
        grid=grid or (),
        overrides=words or (),
        steps=_steps(steps),
        out=out,
        gradients=gradients,
        console=console,
    )
    _exit(code)


@app.command()
def train(
    folder: Traces,
    words: Annotated[
        list[str] | None,
        typer.Argument(help="section.key=value ..., as for `aipo train`", show_default=False),
    ] = None,
    also: Annotated[list[Path] | None, typer.Option(help="traces of another run, same tokenizer")] = None,
    grid: Grid = None,
    steps: Steps = None,
    epochs: Annotated[int, typer.Option(min=1, help="how often everything is gone through")] = 1,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint")] = False,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="evaluate each trained policy at the end")
    ] = False,
) -> None:
    """Trains from stored traces instead of rollouts; with --grid, a policy for each setting."""
    from aipo.replay.questions.train import replay_train

    code = replay_train(
        folder,
        also=also or (),
        grid=grid or (),
        overrides=words or (),
        steps=_steps(steps),
        epochs=epochs,
        out=out,
        resume=resume,
        evaluate=evaluate,
        console=console,
    )
    _exit(code)


@app.command()
def consults(
    folder: Traces,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="only these traces: step= agent= reward= ..., and section.key=value", show_default=False
        ),
    ] = None,
    group: Annotated[
        bool,
        typer.Option("--group", help="against the group's other rollouts in the same mode; needs no model"),
    ] = False,
    any_mode: Annotated[
        bool, typer.Option("--any-mode", help="with --group: against rollouts that could not ask, too")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="live forks of each consult")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="most consults of each agent")] = None,
    checkpoint: Checkpoint = "nearest",
    out: Out = None,
) -> None:
    """Was it worth asking? The reward with each reply against the reward without."""
    from aipo.replay.questions.consults import LiveConsults, consults_against_group
    from aipo.trace.filters import parse_filter

    filters, overrides = sort_words(words or [])
    where = parse_filter(filters)
    if group:
        if overrides:
            raise ConfigError(f"--group: got {overrides}, allowed filters alone: nothing is run")
        _exit(consults_against_group(folder, where=where, any_mode=any_mode, out=out, console=console))
        return
    if any_mode:
        raise ConfigError("--any-mode: got live forks, allowed with --group")
    live = LiveConsults(
        source=folder,
        where=where,
        checkpoint=checkpoint,
        samples=samples,
        limit=limit,
        overrides=overrides,
    )
    _exit(live.run(out, console))


def _source(
    folder: Path, words: list[str] | None, graph: str | None, config: Path | None, prompts: Path | None = None
) -> "ReplaySource":
    from aipo.replay.questions.rerun import ReplaySource

    filters, overrides = sort_words(words or [])
    if graph is not None:
        overrides.insert(0, f"graph.name={json.dumps(_absolute(graph))}")
    return ReplaySource(path=folder, filters=filters, overrides=overrides, config=config, prompts=prompts)


def sort_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Filters (`agent=verify`) and overrides of the configuration (`rollout.max_tokens=64`).

    Raises:
        ConfigError: a word without `=`.
    """
    for word in words:
        if "=" not in word:
            raise ConfigError(one_of("word", word, "key=value", "the command"))
    overrides = [word for word in words if "." in word.partition("=")[0]]
    return [word for word in words if word not in overrides], overrides


def _absolute(name: str) -> str:
    """A file by its whole path, so that the new run says which one it was."""
    file, _, function = name.rpartition(":")
    return f"{Path(file).expanduser().resolve()}:{function}" if file.endswith(".py") else name


def _exit(code: int) -> None:
    """Ends with this exit code."""
    if code:
        raise SystemExit(code)


def _steps(text: str | None) -> tuple[int | None, int | None] | None:
    from aipo.trace.filters import parse_range

    return None if text is None else parse_range("--steps", text, int)
