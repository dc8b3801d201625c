"""The commands `aipo eval` and `aipo env`: options only."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from aipo.config.cli import Overrides
from aipo.errors import ConfigError
from aipo.util.output import JsonOption, output


def env(
    name: Annotated[
        str,
        Argument(help="miniature, math, gym, module:Class, file.py:Class, a preset or a YAML file"),
    ],
    overrides: Overrides = None,
    split: Annotated[str | None, Option(help="list the tasks of this split; default: all splits")] = None,
    index: Annotated[int | None, Option(help="show the task of this number, from 0")] = None,
    seed: Annotated[int | None, Option(help="show the task that this random seed draws")] = None,
    score: Annotated[str | None, Option(help="score this text as a rollout's answer; - reads stdin")] = None,
    score_file: Annotated[Path | None, Option(help="score the text of this file")] = None,
    limit: Annotated[int, Option(min=1, help="maximum number of tasks that are listed")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Shows an environment's splits and tasks, and scores a text the way a rollout's answer is scored."""
    from aipo.evaluate.tasks import TaskChoice, environment, show_splits, show_task, show_tasks

    if score is not None and score_file is not None:
        raise ConfigError("--score, --score-file: got both, allowed one of the two")
    choice, text = TaskChoice(split=split, index=index, seed=seed), _text(score, score_file)
    with output(as_json) as console:
        experiment = environment(name, overrides or ())
        if text is not None or index is not None or seed is not None:
            show_task(experiment, choice, text, console)
        elif split is not None:
            show_tasks(experiment, split, limit=limit, console=console)
        else:
            show_splits(experiment, console)


def _text(score: str | None, file: Path | None) -> str | None:
    """The text to score.

    Raises:
        ConfigError: the file cannot be read, or is no UTF-8.
    """
    try:
        if file is not None:
            return file.read_text(encoding="utf-8")
        return sys.stdin.read() if score == "-" else score
    except (OSError, UnicodeDecodeError) as error:
        where = "--score -" if file is None else f"--score-file {file}"
        raise ConfigError(f"{where}: got {error}, allowed text in UTF-8") from error
