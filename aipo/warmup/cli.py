"""The command `aipo warmup`: options only."""

from pathlib import Path
from typing import Annotated

from typer import Option

from aipo.config.cli import ConfigName, Overrides
from aipo.util.output import EventsOption, event_output


def warmup(
    config: ConfigName = "aipo_distil",
    resume: Annotated[bool, Option("--resume", help="continue from the last checkpoint")] = False,
    as_json: EventsOption = False,
    overrides: Overrides = None,
) -> None:
    """Teaches a policy to ask.

    A teacher writes demonstrations of consulting through the configuration's graph, and the policy learns those that have a reward. Writes a run folder; `aipo train ... policy.model=RUN/model` goes on from it.
    """
    from aipo.config.build import load_experiment
    from aipo.warmup.run import warm_up

    file = Path(config)  # a run's own file may have names of before
    of_run = resume and (file.parent / "traces").is_dir()
    with event_output(as_json) as console:
        warm_up(load_experiment(config, overrides or (), of_run=of_run), resume=resume, console=console)
