"""`aipo replay check`, `score` and `graph` on the command line. Nothing heavy is imported before a command runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from aipo.errors import ConfigError, one_of

if TYPE_CHECKING:
    from aipo.replay.questions.rerun import Source

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Asks 'what if' of stored traces; the source is only read.",
)
console = Console()

Traces = Annotated[Path, typer.Argument(help="a run, one of its evaluations, or a folder of traces")]
Words = Annotated[
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


@app.command()
def check(folder: Traces, words: Words = None, graph: GraphName = None, config: ConfigFile = None) -> None:
    """Runs every trace through its own graph again, with no model to ask: does the same come out?"""
    from aipo.replay.questions.rerun import check_traces

    leave(check_traces(_source(folder, words, graph, config), console))


@app.command()
def score(
    folder: Traces,
    words: Words = None,
    graph: GraphName = None,
    config: ConfigFile = None,
    out: Out = None,
) -> None:
    """Scores recorded rollouts again: another environment, other weights or parts of the reward."""
    from aipo.replay.questions.rerun import score_traces

    leave(score_traces(_source(folder, words, graph, config), out=out, console=console))


@app.command("graph")
def replay_graph(
    folder: Traces,
    words: Words = None,
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
    leave(run(source, policy=policy, frozen=frozen, out=out, console=console))


def _source(
    folder: Path, words: list[str] | None, graph: str | None, config: Path | None, prompts: Path | None = None
) -> "Source":
    from aipo.replay.questions.rerun import Source

    filters, overrides = sort_words(words or [])
    if graph is not None:
        overrides.insert(0, f"graph.name={json.dumps(_absolute(graph))}")
    return Source(path=folder, filters=filters, overrides=overrides, config=config, prompts=prompts)


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


def leave(code: int) -> None:
    """Ends with this exit code."""
    if code:
        raise SystemExit(code)
