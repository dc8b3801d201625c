"""`aipo replay credit`, `loss`, `train` and `consults` on the command line."""

from pathlib import Path
from typing import Annotated

import typer

from aipo.errors import ConfigError
from aipo.replay.cli import Out, Traces, app, console, leave, sort_words

Words = Annotated[
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
def credit(
    folder: Traces, words: Words = None, grid: Grid = None, steps: Steps = None, out: Out = None
) -> None:
    """Advantages under other ways of giving credit; needs no model."""
    from aipo.replay.questions.what_if import replay_credit

    code = replay_credit(
        folder, grid=grid or (), overrides=words or (), steps=_steps(steps), out=out, console=console
    )
    leave(code)


@app.command()
def loss(
    folder: Traces,
    words: Words = None,
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
    from aipo.replay.questions.what_if import replay_loss

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
    leave(code)


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
    leave(code)


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
    from aipo.replay.questions.consult_run import LiveConsults, consults_against_group
    from aipo.trace.filters import parse_filter

    filters, overrides = sort_words(words or [])
    where = parse_filter(filters)
    if group:
        if overrides:
            raise ConfigError(f"--group: got {overrides}, allowed filters alone: nothing is run")
        leave(consults_against_group(folder, where=where, any_mode=any_mode, out=out, console=console))
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
    leave(live.run(out, console))


def _steps(text: str | None) -> tuple[int | None, int | None] | None:
    from aipo.trace.filters import parse_range

    return None if text is None else parse_range("--steps", text, int)
