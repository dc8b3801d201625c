"""Programs that are judged by tests, in a sandbox.

**The last closed block of code that the policy wrote counts.** The expected outputs and the comparison stay outside of
the sandbox in which the solution runs. Suites of asserts run in a sandbox of their own, beside the solution's.
"""

import asyncio
from pathlib import Path
from typing import Annotated

from pydantic import Field, validate_call

from aipo.errors import TaskError
from aipo.rollout import Task
from aipo.util.section import Count
from envs.code.items import ProblemSource, read_problems
from envs.code.problem import Problem
from envs.code.verdict import failure
from envs.isolation import DEFAULT_LIMITS, Isolation, Limits
from envs.splits import SplitEnv

_EXAMPLE = "'env.options.splits={humaneval: humaneval}'"
_FENCE = "```"
_LABELS = ("difficulty", "platform")


class Code(SplitEnv[ProblemSource]):
    """Implements `aipo.rollout.demonstration.DemonstratedEnv`.

    Args:
        splits: by name, a suite or the keys of `envs.code.items.ProblemSource`.
        folder: its files, or folders of files, called as the splits are, stand in for data sets of the hub.
        limits: of a solution, and of a suite of asserts; see `envs.isolation.Limits`.
        workers: most solutions that are judged at once.
        python: a Python for solutions; default: the one that runs AIPO, with the standard library alone.
        unsafe: runs solutions without isolation.

    Raises:
        ValidationError: no split, no worker, or a setting that is not clear.
        ConfigError: programs cannot be isolated here.
    """

    @validate_call
    def __init__(
        self,
        splits: Annotated[dict[str, ProblemSource], Field(min_length=1, examples=[_EXAMPLE])],
        folder: Path | None = None,
        limits: Limits = DEFAULT_LIMITS,
        workers: Count = 2,
        python: str | None = None,
        unsafe: bool = False,
    ) -> None:
        super().__init__("the code environment", splits)
        self._folder, self._limits, self._workers = folder, limits, workers
        self._isolation = Isolation(python=python, unsafe=unsafe)
        self._problems: dict[str, Problem] = {}
        self._judged = ("", "", "")
        self._turns: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}

    def make_tasks(self, split: str, setting: ProblemSource) -> tuple[Task, ...]:
        """In the order of the file or data set; see `envs.code.items.read_problems` for what it raises."""
        tasks: list[Task] = []
        for problem in read_problems(setting, split, self._folder):
            task = Task(
                task_id=f"{split}/{problem.name}",
                prompt=problem.prompt,
                answer=None,  # tests stand in for it, and no trace holds them
                split=split,
                metadata={"suite": setting.suite, **problem.metadata},
            )
            self._problems[task.task_id] = problem
            tasks.append(task)
        return tuple(tasks)

    async def score(self, task: Task, text: str) -> dict[str, float]:
        """`correct` is 1.0 where the program that counts passes every test, else 0.0.

        Raises:
            TaskError: a task of no split of ours.
            ScoreError: the sandbox, or the tests themselves, failed.
        """
        problem = self._problem_of(task)
        program = final_program(text)
        if program is None:
            return {"correct": 0.0}
        async with self._turns_here():
            why = await failure(self._isolation, problem, program, self._limits)
        self._judged = (task.task_id, text, why or "it passes every test")
        return {"correct": float(why is None)}

    def explain(self, task: Task, text: str) -> str:
        """Which block counts as the answer and how it is judged; of the text that was scored last, also how it fails."""
        program = final_program(text)
        kind = type(self._problem_of(task).tests()).__name__.lower()
        if program is None:
            return f"no answer: the last block of code is missing, empty or not closed; it would be judged by {kind}"
        why = f": {self._judged[2]}" if self._judged[:2] == (task.task_id, text) else ""
        return f"the last block of code counts, {len(program.splitlines())} lines, judged by {kind}{why}"

    def labels(self, task: Task) -> dict[str, str]:
        """LiveCodeBench's difficulty and platform; other suites tell none."""
        return {name: str(task.metadata[name]) for name in _LABELS if name in task.metadata}

    def demonstration(self, task: Task) -> str | None:
        """The suite's own solution; None where it has none, as LiveCodeBench."""
        solution = self._problem_of(task).solution
        return None if solution is None else f"{_FENCE}python\n{solution.strip()}\n{_FENCE}"

    def _problem_of(self, task: Task) -> Problem:
        self.tasks(task.split)  # a stored trace has the task, and not its tests
        if task.task_id not in self._problems:
            raise TaskError(f"task: got {task.task_id!r}, allowed one of split {task.split!r}")
        return self._problems[task.task_id]

    def _turns_here(self) -> asyncio.Semaphore:
        """The turns of this event loop; a semaphore belongs to the loop in which somebody waits for it."""
        self._turns = {loop: turns for loop, turns in self._turns.items() if not loop.is_closed()}
        return self._turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._workers))


def final_program(text: str) -> str | None:
    """The last block between fences that is not empty; None where there is none, or the last one is not closed."""
    blocks: list[str] = []
    lines: list[str] | None = None
    for line in text.splitlines():
        if line.strip().startswith(_FENCE):
            if lines is not None:
                blocks.append("\n".join(lines))
            lines = [] if lines is None else None
        elif lines is not None:
            lines.append(line)
    if lines is not None:
        return None
    return next((block for block in reversed(blocks) if block.strip()), None)
