"""A task, and the environment that hands tasks out and scores answers."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aipo.errors import ConfigError, TaskError
from aipo.trace.filters import DERIVATION
from aipo.util.text import clean, cut, error_text, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question.

    Args:
        task_id: unique within the environment.
        prompt: the question as text; the graph's prompt template wraps it.
        answer: what the environment compares with; None when it scores without one.
        cluster: what the item shares with others (a fact, a passage); confidence intervals resample
            clusters, not items. Defaults to the task itself.
        metadata: anything else that scoring or analysis needs.

    Raises:
        TaskError: the prompt is empty, a name is no text, or JSON cannot hold the task, so that no trace could.
    """

    task_id: str
    prompt: str
    answer: str | None
    split: str
    cluster: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_texts(self, "task_id", "prompt", "split")
        if not self.prompt.strip():
            raise TaskError(f"prompt of task {self.task_id!r}: got {self.prompt!r}, allowed non-empty text")
        try:
            to_json(self)
        except TypeError as error:
            raise TaskError(f"task {self.task_id!r}: {error}, allowed what JSON can hold") from error


def _check_texts(task: Task, *names: str) -> None:
    for name in names:
        if not isinstance(text := getattr(task, name), str):
            raise TaskError(f"{name} of task {task.task_id!r}: got {text!r}, allowed text")


Score = dict[str, float] | None
"""Named reward parts; None where there is no verdict."""


class Env(Protocol):
    """A task family. Implementations live in `envs/`.

    An environment may have an attribute `noted`, names of reward parts that are recorded and weigh nothing unless
    `rollout.reward_weights` says so. The part `derivation` is always among them.
    """

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        ...

    def tasks(self, split: str) -> Sequence[Task]:
        """Every task of `split`, in a fixed order.

        Raises:
            TaskError: no such split.
        """
        ...

    def score(self, task: Task, text: str) -> Score | Awaitable[Score]:
        """Named reward parts for what the policy itself wrote (agents' text left out).

        Returns None when this answer cannot be scored; that is not the same as 0.0. What takes longer than
        a moment is an `async def`: hundreds of rollouts share one event loop.

        Raises:
            TaskError: the task has no answer to compare with.
            ScoreError: as None, with the reason.
        """
        ...


def check_env(env: object, name: str) -> Env:
    """Refuses what is no environment.

    Raises:
        ConfigError: it lacks a method, or its splits are no names.
    """
    if missing := [part for part in ("splits", "tasks", "score") if not callable(getattr(env, part, None))]:
        raise ConfigError(
            f"environment {name}: got {type(env).__name__} without {missing}, allowed an object with the methods of "
            "aipo.rollout.env.Env"
        )
    given: Any = env
    splits = given.splits()
    listed = isinstance(splits, Iterable) and not isinstance(splits, str)
    if not listed or not all(isinstance(split, str) for split in splits):
        raise ConfigError(f"splits of environment {name}: got {splits!r}, allowed a tuple of names")
    return given


def check_tasks(env: Env, split: str, name: str) -> Sequence[Task]:
    """The tasks of a split.

    Raises:
        TaskError: no such split, not tasks, two of one id, or an answer or a cluster that is no text (which traces of
            before may have).
    """
    tasks: Any = env.tasks(split)
    where = f"tasks of split {split!r} of {name}"
    if not (hasattr(tasks, "__len__") and hasattr(tasks, "__getitem__")):
        raise TaskError(f"{where}: got {type(tasks).__name__}, allowed a list of Task")
    if others := [task for task in tasks if not isinstance(task, Task)]:
        raise TaskError(f"{where}: got {type(others[0]).__name__}, allowed Task")
    for task in tasks:
        _check_texts(task, "cluster", *(() if task.answer is None else ("answer",)))
    ids = Counter(task.task_id for task in tasks)
    if twice := [task_id for task_id, times in ids.items() if times > 1]:
        raise TaskError(f"{where}: got id {twice[0]!r} twice, allowed each once")
    return tasks


class ExplainedEnv(Env, Protocol):
    """An environment that says how it comes to its verdicts; traces hold it, and `aipo env` prints it."""

    def explain(self, task: Task, text: str) -> str:
        """What of `text` counts as the answer, and what would be right: one sentence. Called right after `score`."""
        ...


class AnsweredEnv(Env, Protocol):
    """An environment that says which answer counts. Evaluations keep it with each sample, and count votes (maj@k)."""

    def answer(self, task: Task, text: str) -> str | None:
        """What of `text` counts as the answer; None where there is none, which is no vote."""
        ...

    async def same(self, task: Task, one: str, other: str) -> bool:
        """Are two answers the same? May be left out: then the same text is.

        Raises:
            ScoreError: nobody can tell; they count as different.
        """
        ...


class LabelledEnv(Env, Protocol):
    """An environment that labels its tasks; evaluations have numbers for each value of a label."""

    def labels(self, task: Task) -> dict[str, str]:
        """By name, such as `level` and `subject`."""
        ...


_LONGEST_REASON = 1000


def reason_for(env: Env, task: Task, text: str) -> str | None:
    """What the environment says of its verdict on `text`; None where it says nothing. Its error says something, too, and
    changes no verdict."""
    explain: Callable[[Task, str], str] | None = getattr(env, "explain", None)
    try:
        said = "" if explain is None else str(explain(task, text))
    except Exception as error:
        said = f"explain failed: {error_text(error)}"
    return cut(clean(said), _LONGEST_REASON) or None


async def judge(env: Env, task: Task, text: str) -> tuple[Score, str | None]:
    """Reward parts of `text`, whether the environment scores at once or takes its time, and the reason.

    Raises:
        Exception: see `Env.score`.
    """
    scored = env.score(task, text)
    parts = await scored if isinstance(scored, Awaitable) else scored
    return parts, reason_for(env, task, text)


def weights_with_noted(env: Env, weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of reward parts, with 0 for those that the environment only notes. The derivation is always noted: an
    environment that wraps another one need not know of it."""
    return {**dict.fromkeys((DERIVATION, *getattr(env, "noted", ())), 0.0), **weights}
