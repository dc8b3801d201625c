r"""Verdicts by name. Each says which answer counts and whether it is right, and gives a reason in words.

| name | right is |
|---|---|
| `exact` | the same text as the canonical answer, apart from spaces at both ends |
| `math` | the same mathematics (`envs.math.verdict`) |
| `choice` | the letter of the right option (`envs.choice.verdict`) |
| `contains` | the canonical answer as words anywhere in the text, whatever the case |
| `python.file.py:function` | what a function says of `text` and `answer`, and of `question` and `metadata` if it takes them |

For `exact`, `math` and `choice` what counts is the last box, and where answer lines are allowed and there is no box, the
last answer line. For `exact` it is the whole text where there is neither.
"""

import re
from collections.abc import Callable
from typing import Protocol

from aipo.errors import ConfigError, ScoreError, TaskError
from aipo.rollout import Task
from aipo.util.imports import load
from envs.choice.verdict import NamedOption, chosen
from envs.math.answer import explain_answer, final_answer
from envs.sandbox import Sandbox

_PYTHON = "python."
_MEMORY = 2**33
"""Bytes of address space for a user's function, which may import what it likes."""


class Verdict(Protocol):
    """How answers are judged."""

    async def score(self, task: Task, text: str) -> dict[str, float]:
        """See `aipo.rollout.env.Env.score`."""
        ...

    def explain(self, task: Task, text: str) -> str:
        """What counts as the answer and what would be right: one sentence."""
        ...

    def answer(self, task: Task, text: str) -> str | None:
        """What counts as the answer; None where there is none, or where nothing but the verdict tells."""
        ...

    async def same(self, task: Task, one: str, other: str) -> bool:
        """Are two answers the same? See `aipo.rollout.env.AnsweredEnv.same`."""
        ...


def verdict_named(name: str, *, line: bool, seconds: float, workers: int) -> Verdict:
    """The verdict of a name.

    Args:
        line: answer lines count where there is no box.
        seconds: processor time for one verdict that runs in a process of its own.
        workers: most such verdicts at once.

    Raises:
        ConfigError: there is none of this name.
        LoadError: there is no such function.
    """
    if name == "math":
        return Mathematics(line, Sandbox("envs.math.verdict:matches", seconds=seconds, workers=workers))
    if name.startswith(_PYTHON):
        load(name.removeprefix(_PYTHON))
        return Python(
            name, Sandbox("envs.file.python:judge", seconds=seconds, workers=workers, memory=_MEMORY)
        )
    makers: dict[str, Callable[[bool], Verdict]] = {"exact": Exact, "choice": Letter, "contains": Contains}
    if name not in makers:
        allowed = ", ".join((*makers, "math", "python.file.py:function"))
        raise ConfigError(f"verdict: got {name!r}, allowed {allowed}")
    return makers[name](line)


class SameText:
    """For verdicts to which two answers are the same where their texts are."""

    def answer(self, task: Task, text: str) -> str | None:
        return None

    async def same(self, task: Task, one: str, other: str) -> bool:
        return one == other


class Mathematics:
    """`math`."""

    def __init__(self, line: bool, sandbox: Sandbox) -> None:
        self._line, self.sandbox = line, sandbox

    async def score(self, task: Task, text: str) -> dict[str, float]:
        canonical, answer = canonical_answer(task), final_answer(text, task.prompt, line=self._line)
        right = answer is not None and await self.sandbox.call(canonical, answer)
        return {"correct": float(right)}

    def explain(self, task: Task, text: str) -> str:
        return explain_answer(task, text, line=self._line)

    def answer(self, task: Task, text: str) -> str | None:
        return final_answer(text, task.prompt, line=self._line)

    async def same(self, task: Task, one: str, other: str) -> bool:
        return bool(await self.sandbox.call(one, other))


class Exact(SameText):
    """`exact`."""

    def __init__(self, line: bool) -> None:
        self._line = line

    async def score(self, task: Task, text: str) -> dict[str, float]:
        return {"correct": float(self.answer(task, text) == canonical_answer(task).strip())}

    def explain(self, task: Task, text: str) -> str:
        return f"the answer is {self.answer(task, text)[:200]!r}; the canonical answer is {task.answer!r}"

    def answer(self, task: Task, text: str) -> str:
        answer = final_answer(text, task.prompt, line=self._line)
        return (text if answer is None else answer).strip()


class Letter(SameText):
    """`choice`."""

    def __init__(self, line: bool) -> None:
        self._line = line

    async def score(self, task: Task, text: str) -> dict[str, float]:
        return {"correct": float(self._chosen(task, text).letter == canonical_answer(task))}

    def explain(self, task: Task, text: str) -> str:
        letter, why = self._chosen(task, text)
        return f"the answer names {letter or 'no option'} ({why}); the right one is {task.answer}"

    def answer(self, task: Task, text: str) -> str | None:
        return self._chosen(task, text).letter

    def _chosen(self, task: Task, text: str) -> NamedOption:
        return chosen(final_answer(text, task.prompt, line=self._line), task.metadata.get("options"))


class Contains(SameText):
    """`contains`."""

    def __init__(self, line: bool) -> None:
        del line  # the whole text counts

    async def score(self, task: Task, text: str) -> dict[str, float]:
        return {"correct": float(self._is_there(task, text))}

    def explain(self, task: Task, text: str) -> str:
        there = "contains" if self._is_there(task, text) else "does not contain"
        return f"the text {there} the canonical answer {task.answer!r}"

    def _is_there(self, task: Task, text: str) -> bool:
        own = text.replace(task.prompt.strip(), "")
        return re.search(rf"(?<!\w){re.escape(canonical_answer(task))}(?!\w)", own, re.IGNORECASE) is not None


class Python(SameText):
    """A function of the user's, in a process that can be killed."""

    def __init__(self, name: str, sandbox: Sandbox) -> None:
        self._name, self.sandbox = name.removeprefix(_PYTHON), sandbox

    async def score(self, task: Task, text: str) -> dict[str, float]:
        parts = await self.sandbox.call(
            self._name, text, task.answer, {"question": task.prompt, "metadata": task.metadata}
        )
        if parts is None:
            raise ScoreError(f"{self._name}: got None, which is no verdict")
        return parts

    def explain(self, task: Task, text: str) -> str:
        del text
        return f"{self._name} judges; the canonical answer is {task.answer!r}"


def canonical_answer(task: Task) -> str:
    """The answer to compare with.

    Raises:
        TaskError: the task has none.
    """
    if task.answer is None:
        raise TaskError(f"answer of task {task.task_id!r}: got None, allowed the one to compare with")
    return task.answer
