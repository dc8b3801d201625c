"""Which tasks are demonstrated, with agents or without, and which are held out to see whether the policy asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from aipo.config.build import Experiment
from aipo.errors import ConfigError
from aipo.method.task_order import draw_tasks
from aipo.rollout.env import Env, Task
from aipo.rollout.spec import RolloutSpec, derive_seed
from aipo.trace import Mode


@dataclass(frozen=True)
class _Without:
    """The splits of an environment without some tasks."""

    env: Env
    task_ids: frozenset[str]

    def splits(self) -> tuple[str, ...]:
        return self.env.splits()

    def tasks(self, split: str) -> Sequence[Task]:
        return [task for task in self.env.tasks(split) if task.task_id not in self.task_ids]


@dataclass(frozen=True)
class Demonstrations:
    """The demonstrations of each rollout step, and the probes."""

    experiment: Experiment

    @cached_property
    def probes(self) -> list[Task]:
        """Training tasks that are not demonstrated, as the mixture of the training has them; at most half of a split.

        Raises:
            ConfigError: every split is too small.
        """
        experiment = self.experiment
        held_out: list[Task] = []
        for split, share in experiment.mixture.items():
            tasks = experiment.env.tasks(split)
            count = min(max(round(share * experiment.warmup.probes), 1), len(tasks) // 2) if share > 0 else 0
            if count:
                drawn = draw_tasks(experiment.env, {split: 1.0}, count, step=0, seed=self._seed("probes"))
                held_out += drawn
        if not held_out:
            raise ConfigError(
                "tasks of env.mixture: got at most one in each split, allowed at least two, of which one is held out to "
                "see whether the policy asks"
            )
        return held_out

    def specs(self, step: int) -> list[RolloutSpec]:
        """The demonstrations of a rollout step, from 0: first those with agents.

        Raises:
            ConfigError, TaskError: see `draw_tasks`.
        """
        settings, mixture = self.experiment.warmup, self.experiment.mixture
        assisted = round(settings.demonstrations * settings.assist_share)
        env = _Without(self.experiment.env, frozenset(task.task_id for task in self.probes))
        shown = settings.mixture or mixture
        drawn = [
            (task, mode)
            for mode, shares, count in (
                (Mode.ASSISTED, shown, assisted),
                (Mode.SOLO, settings.solo_mixture or shown, settings.demonstrations - assisted),
            )
            if count
            for task in draw_tasks(env, shares, count, step=step, seed=self._seed(mode))
        ]
        groups = [(f"{step:05d}-{number:03d}", task, mode) for number, (task, mode) in enumerate(drawn)]
        return [
            RolloutSpec(
                task=task,
                mode=mode,
                group_id=group,
                index=0,
                step=step,
                seed=derive_seed(self.experiment.seed, step, group, 0),
            )
            for group, task, mode in groups
        ]

    def _seed(self, what: str) -> int:
        return derive_seed(self.experiment.seed, "warmup", what)
