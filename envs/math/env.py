r"""Mathematics with one right answer: GSM8K, MATH, AIME and whatever else asks for a number or an expression.

Which of several answers counts is a rule that must not surprise: **the last `\boxed{...}` that the policy itself
wrote**. What agents wrote is not looked at, nor is the question where the policy repeats it. An empty box is the form
that the prompt asks for, not an answer. A last box that is not closed is an answer that was not finished: then there
is none. Without an answer `correct` is 0. Whether an answer equals the canonical one is math-verify's to say, in a
process that can be killed; where it cannot say so in time, the rollout is unscored.
"""

import re
from typing import Annotated

from pydantic import Field, validate_call

from aipo.errors import TaskError
from aipo.rollout import Task
from aipo.util.section import Count, Positive
from envs.math.items import Source, read_tasks
from envs.math.writing import until_closed
from envs.sandbox import Sandbox
from envs.splits import SplitEnv

_EXAMPLE = "'env.options.splits={train: {hub: openai/gsm8k, config: main, split: train}}'"
_BOX = re.compile(r"\\boxed\s*\{")


class Math(SplitEnv[Source]):
    """Implements `aipo.rollout.demonstration.DemonstratedEnv`.

    Args:
        splits: by name, where its items are: a file, or the keys of `envs.math.items.Source`.
        seconds: processor time for one comparison.
        workers: most comparisons at once.

    Raises:
        ValidationError: no split, no time, no worker, or a source that is not clear.
    """

    @validate_call
    def __init__(
        self,
        splits: Annotated[dict[str, Source], Field(min_length=1, examples=[_EXAMPLE])],
        seconds: Positive = 5.0,
        workers: Count = 2,
    ) -> None:
        super().__init__("the math environment", splits)
        self._sandbox = Sandbox("envs.math.verdict:matches", seconds=seconds, workers=workers)

    def make_tasks(self, split: str, setting: Source) -> tuple[Task, ...]:
        """In the order of the file or data set; see `envs.math.items.read_tasks` for what it raises."""
        return read_tasks(split, setting)

    async def score(self, task: Task, text: str) -> dict[str, float]:
        """`correct` is 1.0 where the answer that counts is as good as the canonical one, else 0.0.

        Raises:
            TaskError: the task has no answer.
            ScoreError: the comparison failed or took too long.
        """
        if task.answer is None:
            raise TaskError(f"answer of task {task.task_id!r}: got None, allowed the one to compare with")
        answer = final_answer(text, task.prompt)
        right = answer is not None and await self._sandbox.call(task.answer, answer)
        return {"correct": float(right)}

    def explain(self, task: Task, text: str) -> str:
        """Which box counts as the answer."""
        return explain_answer(task, text)

    def demonstration(self, task: Task) -> str | None:
        r"""The worked solution that the items hold, with the canonical answer in a `\boxed{...}` where it has none."""
        solution = task.metadata.get("solution")
        if solution is None or final_answer(solution, task.prompt) is not None:
            return solution
        return f"{solution}\n\n\\boxed{{{task.answer}}}"


def explain_answer(task: Task, text: str) -> str:
    r"""The answer that counts beside the canonical one, in words; see `final_answer`."""
    answer = final_answer(text, task.prompt)
    canonical = "" if task.answer is None else f"; the canonical answer is {task.answer!r}"
    if answer is None:
        return f"no answer: the last \\boxed{{...}} is missing, or not closed{canonical}"
    return f"the last \\boxed{{...}} says {answer!r}{canonical}"


def final_answer(text: str, question: str) -> str | None:
    r"""What stands in the last `\boxed{...}` of `text`; None where there is no answer (see above)."""
    if "\\boxed" in question:
        text = text.replace(question.strip(), "")
    for box in reversed(list(_BOX.finditer(text))):
        content = until_closed(text, box.end())
        if content is None or content.strip():
            return content
    return None
