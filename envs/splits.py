"""The base of environments whose splits are configured one by one."""

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from aipo.errors import TaskError
from aipo.rollout import Task

S = TypeVar("S")


class SplitEnv(Generic[S]):
    """Splits by name, each with its setting; the tasks of a split are made when they are first asked for.

    Args:
        name: of the environment, for errors.
        settings: by split.
    """

    def __init__(self, name: str, settings: Mapping[str, S]) -> None:
        self._name = name
        self._settings = settings
        self._tasks: dict[str, tuple[Task, ...]] = {}

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._settings)

    def tasks(self, split: str) -> Sequence[Task]:
        """Every task of `split`.

        Raises:
            TaskError: no such split, or its tasks cannot be made.
        """
        setting = self.setting_of(split)
        if split not in self._tasks:
            self._tasks[split] = self.make_tasks(split, setting)
        return self._tasks[split]

    def setting_of(self, split: str) -> S:
        """The setting of a split.

        Raises:
            TaskError: there is none.
        """
        if split not in self._settings:
            raise TaskError(f"split of {self._name}: got {split!r}, allowed one of {list(self._settings)}")
        return self._settings[split]

    def make_tasks(self, split: str, setting: S) -> tuple[Task, ...]:
        """The tasks of a split, in their order."""
        raise NotImplementedError


class DrawnEnv(SplitEnv[tuple[Task, ...]]):
    """Splits whose tasks are all drawn at once: a split's setting is its tasks."""

    def make_tasks(self, split: str, setting: tuple[Task, ...]) -> tuple[Task, ...]:
        return setting
