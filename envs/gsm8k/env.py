"""GSM8K, or questions like its own: mathematics whose items hold a worked solution, one step a line."""

from functools import cached_property
from itertools import chain

from aipo.errors import TaskError
from aipo.rollout import Task
from envs.file.source import SplitSource
from envs.gsm8k.numbers import read_number
from envs.gsm8k.solution import Solution
from envs.gsm8k.teacher import next_text
from envs.math.env import Math


class GSM8K(Math):
    """As `envs.math:Math`, which says what its options are. Tutors (`envs.gsm8k.agents`) look solutions up in it.

    Implements `aipo.rollout.demonstration.DemonstratedEnv` and `TeachingEnv`.
    """

    def make_tasks(self, split: str, setting: SplitSource) -> tuple[Task, ...]:
        """In the order of the file or data set; see `envs.file.items.read_tasks` for what else it raises.

        Raises:
            TaskError: a task without a solution, or whose answer is no number.
        """
        tasks = super().make_tasks(split, setting)
        for task in tasks:
            _solution(task)
        return tasks

    def solution(self, question: str) -> Solution:
        """The worked solution of a question.

        Raises:
            TaskError: it is none of any split, or two splits answer it in different ways.
        """
        if solution := self._solutions.get(question.strip()):
            return solution
        allowed = f"one of {len(self._solutions)} in the splits {list(self.splits())}"
        raise TaskError(f"question for a tutor: got {question[:80]!r}, allowed {allowed} of env.options")

    def turn(self, task: Task, written: str) -> str:
        """What a policy that has tutors at hand writes after `written`; see `envs.gsm8k.teacher`."""
        return next_text(task.task_id, _solution(task), self.demonstration(task) or "", written)

    @cached_property
    def _solutions(self) -> dict[str, Solution]:
        tasks: dict[str, Task] = {}
        for task in chain.from_iterable(map(self.tasks, self.splits())):
            first = tasks.setdefault(task.prompt.strip(), task)
            if first.answer != task.answer:
                raise TaskError(
                    f"answers of one question: got {first.answer!r} in {first.task_id!r} and {task.answer!r} in "
                    f"{task.task_id!r}, allowed the same one, as a tutor knows a task by its question"
                )
        return {question: _solution(task) for question, task in tasks.items()}


def _solution(task: Task) -> Solution:
    answer = read_number(task.answer or "")
    text = str(task.metadata.get("solution", ""))
    if answer is None or not text:
        got = "no solution" if answer is not None else f"the answer {task.answer!r}"
        raise TaskError(
            f"task {task.task_id!r}: got {got}, allowed a worked solution, one step a line, and a number as its answer "
            "(`#### 18` behind the solution, as GSM8K has it, or a column named by env.options.splits.NAME.solution)"
        )
    return Solution(task.prompt, text, answer)
