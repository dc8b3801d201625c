"""Questions from a file, a folder or the hub, each with an answer, and a verdict by name."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, validate_call

from aipo.errors import ConfigError, ScoreError
from aipo.rollout import Task
from aipo.util.section import Count, Positive
from envs.file.items import read_tasks
from envs.file.source import SplitSource
from envs.file.verdicts import Mathematics, Python, Verdict, verdict_named
from envs.math.answer import final_answer
from envs.splits import SplitEnv

_EXAMPLE = "'env.options.splits={train: train.jsonl}'"


class File(SplitEnv[SplitSource]):
    """Implements `aipo.rollout.demonstration.DemonstratedEnv`.

    Args:
        splits: by name, where its items are: a file, a benchmark's name, or the keys of `envs.file.source.SplitSource`.
        verdict: `exact`, `math`, `choice`, `contains`, or `python.file.py:function`; see `envs.file.verdicts`.
        folder: its files, called as the splits are, stand in for data sets of the hub.
        answer_line: where there is no box, the last answer line counts (`Answer: 18`).
        shuffle: seed of the order of options.
        seconds: processor time for one verdict.
        workers: most verdicts at once.

    Raises:
        ValidationError: no split, no time, no worker, or a source that is not clear.
        ConfigError: no such verdict, or options beside another verdict than `choice`.
    """

    @validate_call
    def __init__(
        self,
        splits: Annotated[dict[str, SplitSource], Field(min_length=1, examples=[_EXAMPLE])],
        verdict: str = "exact",
        folder: Path | None = None,
        answer_line: bool = True,
        shuffle: int = 0,
        seconds: Positive = 5.0,
        workers: Count = 2,
    ) -> None:
        super().__init__("the environment", splits)
        self._folder, self._shuffle, self._line = folder, shuffle, answer_line
        names = {split: source.verdict or verdict for split, source in splits.items()}
        self._verdicts: dict[str, Verdict] = {
            name: verdict_named(name, line=answer_line, seconds=seconds, workers=workers)
            for name in dict.fromkeys(names.values())
        }
        self._verdict_names = names
        for split, source in splits.items():
            if (source.options or source.wrong) and names[split] != "choice":
                raise ConfigError(
                    f"options of split {split!r}: got the verdict {names[split]!r}, allowed `choice` for questions with options"
                )

    def make_tasks(self, split: str, setting: SplitSource) -> tuple[Task, ...]:
        """In the order of the file or data set; see `envs.file.items.read_tasks` for what it raises."""
        return read_tasks(split, setting, folder=self._folder, shuffle=self._shuffle)

    async def score(self, task: Task, text: str) -> dict[str, float]:
        """`correct` is 1.0 where the answer that counts is as good as the canonical one, else 0.0; a function of the
        user's may say what lies between, and name parts of its own.

        Raises:
            TaskError: the task has no answer, and its verdict needs one.
            ScoreError: the verdict failed or took too long.
        """
        return await self._verdict_of(task).score(task, text)

    def explain(self, task: Task, text: str) -> str:
        """What counts as the answer, and what would be right."""
        return self._verdict_of(task).explain(task, text)

    def answer(self, task: Task, text: str) -> str | None:
        """What counts as the answer; None where there is none, or the verdict knows none."""
        return self._verdict_of(task).answer(task, text)

    async def same(self, task: Task, one: str, other: str) -> bool:
        """Are two answers the same? To `math` by math-verify, to others by their text.

        Raises:
            ScoreError: it could not be told in time.
        """
        return await self._verdict_of(task).same(task, one, other)

    def labels(self, task: Task) -> dict[str, str]:
        """The columns that its split keeps, such as level and subject."""
        kept = self.setting_of(task.split).keep
        return {name: str(task.metadata[name]) for name in kept if name in task.metadata}

    def demonstration(self, task: Task) -> str | None:
        r"""The worked solution that the items hold, with the canonical answer in a `\boxed{...}` where it has none."""
        solution = task.metadata.get("solution")
        if solution is None or final_answer(solution, task.prompt, line=self._line) is not None:
            return solution
        return f"{solution}\n\n\\boxed{{{task.answer}}}"

    def close(self) -> None:
        """Ends the processes of its verdicts; so does the end of the environment, or of the process."""
        for verdict in self._verdicts.values():
            if isinstance(verdict, Mathematics | Python):
                verdict.sandbox.close()

    def _verdict_of(self, task: Task) -> Verdict:
        """That of the task's split; a question of no split has the one of all of them."""
        if name := self._verdict_names.get(task.split):
            return self._verdicts[name]
        if len(self._verdicts) > 1:
            raise ScoreError(
                f"verdict: got a question of no split, allowed one where all splits have one of {list(self._verdicts)}"
            )
        return next(iter(self._verdicts.values()))
