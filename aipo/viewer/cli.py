"""The commands `aipo view` and `aipo runs`: runs in the browser and in the terminal."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from aipo.errors import ConfigError
from aipo.util.output import JsonOption, PlainConsole, output

console = PlainConsole()


def view(
    folder: Annotated[Path, Argument(help="a run folder, or a folder that contains run folders")],
    host: Annotated[str, Option(help="address; all but loopback need a token")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="port to listen on; 0 = any free port")] = 8765,
    token: Annotated[
        str | None, Option(help="access token for readers; default: a random one if needed")
    ] = None,
    static: Annotated[
        Path | None, Option(help="write a static site to this folder instead of serving")
    ] = None,
    limit: Annotated[int | None, Option(min=1, help="static: maximum number of traces per run")] = None,
    open_browser: Annotated[bool, Option("--open/--no-open", help="open a browser")] = False,
) -> None:
    """Shows runs and traces in the browser.

    The pages are live during training; --static writes them as files.
    """
    from aipo.viewer.serve import view as show

    if limit is not None and static is None:
        raise ConfigError(
            "--limit: got one without --static, allowed with a static site (a server shows all)"
        )
    show(
        folder,
        host=host,
        port=port,
        token=token,
        static=static,
        limit=limit,
        open_browser=open_browser,
        console=console,
    )


def runs(
    folder: Annotated[Path, Argument(help="a folder that contains run folders, or a run folder")] = Path(
        "runs"
    ),
    as_json: JsonOption = False,
) -> None:
    """Lists runs: how far each is, why it ended. Also evaluations, replays and comparisons."""
    from aipo.viewer.run_list import print_runs

    with output(as_json) as console:
        print_runs(folder, console)
