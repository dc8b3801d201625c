"""Commands of `aipo`, in this process or in one of their own."""

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from aipo.cli import app


def invoke(*words: object, stdin: str | None = None, columns: int = 80, **variables: str) -> Result:
    """What a command prints, and its exit code. An error comes out as it was raised."""
    environment = {"COLUMNS": str(columns), **variables}
    done = CliRunner().invoke(app, [*map(str, words)], input=stdin, env=environment)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def aipo(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, without this checkout on its path unless it is installed."""
    command = [sys.executable, "-m", "aipo.cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
