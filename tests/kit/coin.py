"""An environment whose reward is known of any text, so that every group has something to learn from."""

import os
from collections.abc import Sequence

from aipo.rollout.env import Task


class Coin:
    """Pays for every even digit that is written.

    `COIN_FAILS_AFTER` is how many rollouts can be scored before the scorer breaks.
    """

    def __init__(self) -> None:
        self._left = int(os.environ.get("COIN_FAILS_AFTER", "1000000"))

    def splits(self) -> tuple[str, ...]:
        return ("coin",)

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(task_id=f"c{i}", prompt=f"{i}+{i}=?", answer="0", split=split) for i in range(8)]

    def score(self, task: Task, text: str) -> dict[str, float]:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("the scorer broke")
        return {"correct": sum(character in "02468" for character in text) / 8}
