r"""Procedural reasoning tasks: a hundred families of reasoning-gym (2505.24760), as many items as one wants.

A split is a family with its options, a size and a seed. **No question stands in two splits**: one that an earlier split
has is passed over, so that what is evaluated was never trained on. Which answer counts is the rule of `envs/math/answer.py`: the
last `\boxed{...}` that the policy itself wrote. Whether it is right the family says, in a process that can be killed.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from pydantic import Field, validate_call

from aipo.errors import ScoreError, TaskError
from aipo.rollout import Task
from aipo.util.section import Count, Positive
from envs.gym.families import LOOKED_AT, Family, dataset
from envs.math import explain_answer, final_answer
from envs.sandbox import Sandbox
from envs.splits import SplitEnv

_EXAMPLE = "'env.options.splits={sums: {family: chain_sum}}'"
_AT_ONCE = 50
_FRUITLESS = 1000  # items in a row that ask nothing new: the family has hardly more
_PATIENCE = 1800.0  # seconds for as many items; some families are ten at work on one


class Gym(SplitEnv[Family]):
    """Implements `aipo.rollout.demonstration.DemonstratedEnv`.

    Args:
        splits: by name, in the order in which they take their questions.
        seconds: processor time to judge one answer.
        workers: most answers that are judged at once.

    Raises:
        ValidationError: no split, no time, no worker, or a split that is not clear.
    """

    @validate_call
    def __init__(
        self,
        splits: Annotated[dict[str, Family], Field(min_length=1, examples=[_EXAMPLE])],
        seconds: Positive = 5.0,
        workers: Count = 2,
    ) -> None:
        super().__init__("the gym", splits)
        self._maker = Sandbox("envs.gym.items:items", seconds=_PATIENCE, deadline=_PATIENCE, workers=1)
        self._sandbox = Sandbox("envs.gym.items:score", seconds=seconds, workers=workers)

    def make_tasks(self, split: str, setting: Family) -> tuple[Task, ...]:
        """Makes the splits before it, too; see `envs.gym.families.dataset` for what it raises.

        Raises:
            TaskError: its family has too few questions or fails to make one.
        """
        names = self.splits()
        earlier = list(names[: names.index(split)])  # of whatever family: another one may ask the same
        taken = {task.prompt for name in earlier for task in self.tasks(name)}
        tasks: list[Task] = []
        fruitless = looked_at = 0
        for number, item in enumerate(self._items(setting)):
            looked_at = number + 1
            fruitless = fruitless + 1 if item["question"] in taken else 0
            if fruitless == _FRUITLESS:
                break
            if fruitless:
                continue
            taken.add(item["question"])
            tasks.append(
                Task(
                    task_id=f"{split}/{number}",
                    prompt=item["question"],
                    answer=item["answer"],
                    split=split,
                    metadata=item["metadata"],
                )
            )
            if len(tasks) == setting.size:
                return tuple(tasks)
        beside = f" beside those of {earlier}" if earlier else ""
        raise TaskError(
            f"questions of split {split!r}: got {len(tasks)} different ones{beside} among {looked_at} items of "
            f"{setting.family!r}, allowed {setting.size}: ask for fewer, or give options that make more"
        )

    def _items(self, family: Family) -> Iterator[dict[str, Any]]:
        """All that are looked at, made as they are asked for."""
        spec, count = family.model_dump_json(), min(family.size, _AT_ONCE)
        dataset(spec)  # refused here where it cannot be
        try:
            with ThreadPoolExecutor(1) as thread:  # the caller's own may have an event loop that runs
                for start in range(0, family.size * LOOKED_AT, count):
                    yield from thread.submit(asyncio.run, self._maker.call(spec, start, count)).result()
        except ScoreError as error:
            raise TaskError(f"items of {family.family!r}: {error}") from error

    async def score(self, task: Task, text: str) -> dict[str, float]:
        """`correct` is 1.0 where the family calls the answer that counts right, else 0.0, also for one that is nearly so.

        Raises:
            TaskError: a task of no split of ours.
            ScoreError: judging it failed or took too long.
        """
        answer = final_answer(text, task.prompt)
        if answer is None:
            return {"correct": 0.0}
        family = self.setting_of(task.split).model_dump_json()
        item = {"question": task.prompt, "answer": task.answer, "metadata": task.metadata}
        points = await self._sandbox.call(family, item, answer)
        return {"correct": float(points >= 1.0)}

    def explain(self, task: Task, text: str) -> str:
        """Which box counts as the answer."""
        return explain_answer(task, text)

    def answer(self, task: Task, text: str) -> str | None:
        """What stands in the box that counts; None without one."""
        return final_answer(text, task.prompt)

    def demonstration(self, task: Task) -> str | None:
        """The answer and no work, for families have none; None where many answers are right and none is given."""
        return None if task.answer is None else f"\\boxed{{{task.answer}}}"
