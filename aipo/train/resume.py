"""Going on with a run: with the settings that it began with, from its last checkpoint."""

from collections.abc import Container, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.config.layers import leaves
from aipo.errors import ConfigError
from aipo.run import RunFolder
from aipo.train.checkpoints import Found, last_checkpoint, rollout_step_of
from aipo.util.console import print_line

MAY_CHANGE = (
    "run.out",
    "run.threads",
    "run.report_to",
    "train.save_every",
    "train.keep_weights",
    "train.token_stats",
    "rollout.cost_limit",
    "rollout.failure_limit",
    "rollout.concurrency",
    "rollout.deadline",
    "rollout.workers",
    "policy.vllm.*",
    "policies.*.vllm.*",
    "agents.*.options.base_url",
    "agents.*.secrets*",
    "agents.*.prices*",
    "agents.*.timeout",
    "agents.*.deadline",
    "agents.*.attempts",
    "warmup.teacher.options.base_url",
    "warmup.teacher.secrets*",
    "warmup.teacher.prices*",
    "warmup.teacher.timeout",
    "warmup.teacher.attempts",
    "method.max_mismatch",
    "evaluate.*",
)
"""Settings that a resumed run may change: none of them changes what is learned, unless something fails."""


def take_up(folder: RunFolder, experiment: Experiment) -> None:
    """Fills in, from the run, what a configuration leaves open and what was another thing when the run began: its day,
    and what is thinking in what an agent says.

    Raises:
        AipoError: the run's configuration cannot be read.
    """
    experiment.date = folder.read_date() or experiment.date
    if folder.config.is_file():
        began = load_experiment(str(folder.config), of_run=True).agents
        for name in _left_open(experiment, began):
            experiment.agents[name] = experiment.agents[name].model_copy(
                update={"thinking": began[name].thinking}
            )


def _left_open(experiment: Experiment, began: Container[str]) -> list[str]:
    """Agents of the run of whose thinking the configuration says nothing."""
    agents = experiment.agents.items()
    return [name for name, agent in agents if "thinking" not in agent.model_fields_set and name in began]


def same_run(folder: RunFolder, experiment: Experiment, command: str = "train") -> None:
    """Refuses to go on with other settings than those that the run began with, or with another command.

    Raises:
        ConfigError: names the settings that differ.
    """
    began = str(folder.read_manifest().get("command", "train"))
    if began != command and "warmup" in (began, command):
        raise ConfigError(f"--resume: got a run of `aipo {began}`, allowed `aipo {began} --resume`")
    unused = () if command == "warmup" else ("warmup.*",)
    if changed := differences(folder.config, experiment, (*MAY_CHANGE, *unused)):
        raise ConfigError(
            f"--resume with other settings: got {'; '.join(changed)}, allowed those of {folder.config} "
            f"(--config {folder.config} takes them all)"
        )


def differences(recorded: Path, experiment: Experiment, may_change: Sequence[str] = MAY_CHANGE) -> list[str]:
    """Settings that are not those of a recorded configuration: 'key: 2, was 1'. One that the recorded file lacks, for it is
    of an older version, had its default; see `take_up` for those that are filled in.

    Args:
        recorded: the file with its resolved configuration.
        may_change: patterns of keys that are left out.
    """
    began = load_experiment(str(recorded), of_run=True)
    before, now = _flat(began.settings), _flat(experiment.settings)
    filled_in = [f"agents.{name}.thinking*" for name in _left_open(experiment, began.agents)]
    filled_in += ["run.date"] if now.get("run.date") is None else []
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    return [
        f"{key}: {now.get(key)!r}, was {before.get(key)!r}"
        for key in changed
        if not any(fnmatchcase(key, pattern) for pattern in (*may_change, *filled_in))
    ]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {".".join(map(str, key)): value for key, value in leaves(values) if key}


def go_on_from(folder: RunFolder, experiment: Experiment, console: Console) -> Path | None:
    """The checkpoint to go on from; None = there is none yet. Prints which, and why not a newer one.

    Raises:
        RunError: there are checkpoints, and none is whole.
    """
    found = last_checkpoint(folder)
    print_line(console, where_from(found, experiment.train.optimizer_steps))
    return found.path


def where_from(found: Found, optimizer_steps: int) -> str:
    """For the terminal: what a resumed run starts from, and why not from newer checkpoints."""
    lines = [*map(str, found.broken)]
    if (one := found.checkpoint) is None:
        lines.append("no checkpoint yet: from the start; traces so far are set aside in traces/__superseded")
    else:
        step = rollout_step_of(one.path, optimizer_steps)
        unknown = "" if one.kept else " (it has no manifest: what its files contain cannot be checked)"
        lines.append(
            f"from {one.path.name}{unknown}, step {step}; later traces are set aside in traces/__superseded"
        )
    return "\n".join(lines)
