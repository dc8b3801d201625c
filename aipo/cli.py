"""The command line: the composition root, and the only file of `aipo` that knows `graphs` and `envs`."""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from aipo.errors import AipoError, RunError

if TYPE_CHECKING:
    from aipo.config import Config

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
console = Console()
INTERRUPTED = 130

ConfigName = Annotated[str, typer.Option("--config", help="a preset (aipo, grpo, mask) or a YAML file")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value ...", show_default=False)]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder that the demo leaves its runs and report in")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(help="seeds the facts, the cold start and the training")] = 0,
    arms: Annotated[str, typer.Option(help="presets to train, side by side")] = "aipo,grpo",
) -> None:
    """The main job on the embedded miniature: train, evaluate alone, compare, report."""
    from aipo.demo import run_demo

    names = tuple(name.strip() for name in arms.split(",") if name.strip())
    run_demo(out, seed=seed, arms=names, console=console)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="where to put copies of graphs/ and envs/")]) -> None:
    """Copies graphs/ and envs/ out, to edit them. Run `aipo` from that folder and the copies are used."""
    import envs
    import graphs
    from aipo.run import writing

    for package in (graphs, envs):
        source = Path(package.__path__[0])
        target = folder / source.name
        with writing(f"copying {source.name}", folder):
            if target.exists():
                raise RunError(f"init: got {target}, which exists already, allowed a folder without it")
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        console.print(f"copied {target}")
    console.print(f"Next: cd {folder} && aipo graph consult", highlight=False)


@app.command()
def train(
    config: ConfigName = "aipo",
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint")] = False,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="evaluate the trained policy at the end")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Trains a policy and leaves a run folder."""
    from aipo.config import load_config
    from aipo.train import train_run

    train_run(load_config(config, overrides or ()), resume=resume, evaluate_after=evaluate, console=console)


@app.command("eval")
def evaluate_run(
    run: Annotated[
        Path | None, typer.Option(help="a run folder: its configuration and trained policy")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="a preset or a YAML file: its policy as it starts; default: aipo")
    ] = None,
    name: Annotated[str, typer.Option(help="name of the evaluation's file, a new one")] = "eval",
    overrides: Overrides = None,
) -> None:
    """Evaluates a policy: solo, solo with consult tags forbidden, and assisted; pass@k with intervals."""
    from aipo.exam import evaluate_folder

    evaluate_folder(run, config, overrides or (), name=name, console=console)


@app.command()
def graph(
    name: Annotated[
        str | None,
        typer.Argument(
            help="consult, solo, module:function or file.py:function; default: the configuration's",
            show_default=False,
        ),
    ] = None,
    config: ConfigName = "aipo",
    overrides: Overrides = None,
) -> None:
    """Prints a graph as a mermaid picture, sub-graphs included, and the files it was made from."""
    from aipo.compose import build_graphs, drawing

    words = [word for word in (name, *(overrides or ())) if word is not None]
    chosen = words.pop(0) if words and "=" not in words[0] else None
    built = build_graphs(_config_of_graph(config, chosen, words))
    print(drawing(built.graph)["mermaid"])
    width = max(len(part) for part in built.files)
    for part, file in built.files.items():  # the path comes last and whole: it is there to be copied
        print(f"{part:<{width}}  {built.fingerprints[part]}  {file}")


def _config_of_graph(config: str, name: str | None, overrides: list[str]) -> "Config":
    """The configuration, with another graph if one is named. Its graph's options are not for another one."""
    from aipo.config import load_config

    loaded = load_config(config, overrides)
    if name is None:
        return loaded
    name = name if ":" in name else f"graphs.{name}:{name}"
    if name == loaded.graph.name:
        return loaded
    return load_config(config, [f"graph={json.dumps({'name': name})}", *overrides])


def main() -> None:
    """Runs a command; an error that AIPO raises on purpose is one message and exit code 2."""
    try:
        # typer turns an interrupt into an exit code, and hands that back instead of leaving with it.
        if app(standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        Console(stderr=True).print("interrupted; what is finished is kept", style="yellow")
        sys.exit(INTERRUPTED)
    except AipoError as error:
        Console(stderr=True).print(
            f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except Exception as error:
        # click's own usage errors carry their message and exit code.
        if hasattr(error, "exit_code") and hasattr(error, "show"):
            error.show()  # type: ignore[attr-defined]
            sys.exit(error.exit_code)  # type: ignore[attr-defined]
        raise


if __name__ == "__main__":
    main()
