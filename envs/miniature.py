"""The miniature: a task family on which a 0.2 M-parameter policy shows the whole idea in minutes.

`a@b` (two digits) is an arbitrary table of three-digit values: guessing is right once in a thousand.
Expressions are worked out line by line, and the last line is the answer:

    3@7+20=?
    3@7=582
    582+20=602
    #602

The hundred facts fall into three kinds. 30 `known` ones are taught at the cold start
(`envs/miniature_model.py`). 30 `practice` ones appear there only behind a consult, with a fresh value
each time, so that copying is learned and the value is not. 40 `unknown` ones the policy has never
seen: it can ask an agent for them while it trains, and must know them by itself afterwards.

    easy_train   known facts and plain arithmetic
    easy         other operands of the same, never shown at the cold start
    hard         unknown facts, 12 operands each, for training
    heldout      the same unknown facts, 6 other operands each

Nothing heavy is imported here.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from aipo.errors import TaskError
from aipo.task import Task

VALUES = range(100, 900)
# One digit changes, and carries: 0.2 M parameters learn this in a minute. Sums stay below 1000.
OPERANDS = (*range(1, 10), *range(10, 100, 10))
# What a prompt begins with where agents can be asked; as in graphs/prompts/miniature.md.
OFFER = "agents\n"
HARD_OPERANDS, HELDOUT_OPERANDS = 12, 6
PLAIN, PLAIN_HELDOUT = 240, 60


@dataclass(frozen=True, slots=True)
class Facts:
    """The table and its three kinds; a fact is written `3@7`.

    Args:
        value: of each of the 100 facts.
        known, unknown, practice: 30, 40 and 30 facts.
    """

    value: dict[str, int]
    known: tuple[str, ...]
    unknown: tuple[str, ...]
    practice: tuple[str, ...]

    @classmethod
    def draw(cls, seed: int) -> "Facts":
        """The table of `seed`; the same on every machine."""
        rng = random.Random(f"miniature table {seed}")
        names = [f"{a}@{b}" for a in range(10) for b in range(10)]
        value = dict(zip(names, rng.sample(VALUES, len(names)), strict=True))
        rng.shuffle(names)
        return cls(value, tuple(names[:30]), tuple(names[30:70]), tuple(names[70:]))


class Miniature:
    """Implements `aipo.demonstration.Demonstrating`.

    Args:
        seed: draws the table, the kinds of its facts and the operands.
    """

    def __init__(self, seed: int = 0) -> None:
        self.facts = Facts.draw(seed)
        rng = random.Random(f"miniature splits {seed}")
        easy_train, easy = self._with_facts(rng, self.facts.known, "easy_train", "easy")
        hard, heldout = self._with_facts(rng, self.facts.unknown, "hard", "heldout")
        plain = rng.sample([(a, b) for a in VALUES for b in OPERANDS], PLAIN + PLAIN_HELDOUT)
        easy_train += [_plain("easy_train", a, b) for a, b in plain[:PLAIN]]
        easy += [_plain("easy", a, b) for a, b in plain[PLAIN:]]
        self._tasks = {
            "easy_train": tuple(easy_train),
            "easy": tuple(easy),
            "hard": tuple(hard),
            "heldout": tuple(heldout),
        }

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._tasks)

    def tasks(self, split: str) -> Sequence[Task]:
        """Every task of `split`, in a fixed order.

        Raises:
            TaskError: no such split.
        """
        if split not in self._tasks:
            raise TaskError(f"split of the miniature: got {split!r}, allowed one of {list(self._tasks)}")
        return self._tasks[split]

    def score(self, task: Task, text: str) -> dict[str, float]:
        """`correct` is 1.0 where the last line of `text` is `#` and the answer, else 0.0.

        Raises:
            TaskError: the task has no answer.
        """
        if task.answer is None:
            raise TaskError(f"answer of task {task.task_id!r}: got None, allowed the number to compare with")
        last = text.rstrip("\n").rpartition("\n")[2]
        return {"correct": float(last == f"#{task.answer}")}

    def demonstration(self, task: Task) -> str | None:
        """The derivation, as it stands above; None where the task has no answer."""
        if task.answer is None:
            return None
        total, fact, operand = int(task.answer), task.metadata["fact"], task.metadata["operand"]
        value = total - operand
        known = [] if fact is None else [f"{fact}={value}"]
        return "\n".join([*known, f"{value}+{operand}={total}", f"#{total}"])

    def _with_facts(
        self, rng: random.Random, facts: Sequence[str], train: str, heldout: str
    ) -> tuple[list[Task], list[Task]]:
        """Tasks of two splits that share facts and no operand of a fact."""
        sides: tuple[list[Task], list[Task]] = ([], [])
        for fact in facts:
            operands = rng.sample(OPERANDS, HARD_OPERANDS + HELDOUT_OPERANDS)
            for place, operand in enumerate(operands):
                in_heldout = place >= HARD_OPERANDS
                split = heldout if in_heldout else train
                sides[in_heldout].append(_of_fact(split, fact, self.facts.value[fact], operand))
        return sides


def _of_fact(split: str, fact: str, value: int, operand: int) -> Task:
    return Task(
        task_id=f"{split}/{fact}+{operand}",
        prompt=f"{fact}+{operand}=?\n",
        answer=str(value + operand),
        split=split,
        cluster=fact,
        metadata={"fact": fact, "operand": operand},
    )


def _plain(split: str, a: int, b: int) -> Task:
    return Task(
        task_id=f"{split}/{a}+{b}",
        prompt=f"{a}+{b}=?\n",
        answer=str(a + b),
        split=split,
        metadata={"fact": None, "operand": b},
    )


def slip(total: int, rng: random.Random) -> int:
    """A wrong sum of the kind that people make: one digit is off by one."""
    return total + rng.choice((-10, -1, 1, 10))
