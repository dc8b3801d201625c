"""The miniature: a task family on which a 0.3 M-parameter policy shows the whole idea in minutes.

`a@b` (two digits) is an arbitrary table of three-digit values: guessing is right once in a thousand.
Expressions are worked out line by line, and the last line is the answer:

    3@7+20=?
    3@7=582
    582+20=602
    #602

The hundred facts fall into three kinds. 30 `known` ones are taught at the cold start
(`envs/miniature/curriculum.py`). 30 `practice` ones appear there only behind a consult, with a fresh value
each time, so that copying is learned and the value is not. 40 `unknown` ones the policy has never
seen: it can ask an agent for them while it trains, and must know them by itself afterwards.

    easy_train     known facts and plain arithmetic
    easy           other operands of the same, never shown at the cold start
    hard           unknown facts, 12 operands each, for training
    heldout        the same unknown facts, 6 other operands each
    borrow_train   two subtractions that both need a borrow: the cold start's course `full` teaches a slip
    borrow         others
    nines_train    `~582` is the nines' complement, 417: a procedure that no cold start teaches
    nines          others
    shortcut_train `523-99`: the cold start's course `quick` teaches to take 100 and to forget to give 1 back
    shortcut       others

What is lacking is a value in `hard`, a check in `borrow_train` and `shortcut_train`, a procedure in `nines_train`:
each is for another agent to help with.

For larger policies there may be more facts (`size`) and longer sums (`terms`): `13@7+20+5=?`. For a quick look there may
be sums in which nothing is carried (`carry=False`); they are learned in a fraction of the time.

Nothing heavy is imported here.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from aipo.errors import ConfigError, TaskError
from aipo.rollout import Task
from envs.miniature.arithmetic import (
    OPERANDS,
    VALUES,
    chain,
    complement,
    derivation,
    draw_operands,
    operands_of,
    summands,
    unborrowed,
)
from envs.miniature.teacher import next_text
from envs.splits import DrawnEnv

# Rows of ten facts, and operands of a sum, unless the options say otherwise.
SIZE, TERMS = 10, 1
# What a prompt begins with where agents can be asked; as in graphs/prompts/miniature.md.
OFFER = "agents\n"
HARD_OPERANDS, HELDOUT_OPERANDS = 12, 6
PLAIN, PLAIN_HELDOUT = 240, 60
CRAFT, CRAFT_HELDOUT = 480, 120
# Where nothing is carried there are fewer values and operands to choose from; every value has at least nine operands.
UNCARRIED, COMPLEMENTS = 2, 10


@dataclass(frozen=True, slots=True)
class Facts:
    """The table and its three kinds; a fact is written `3@7`.

    Args:
        value: of each of the 100 facts; of ten times `size`.
        known, unknown, practice: 30, 40 and 30 facts; 3, 4 and 3 times `size`.
    """

    value: dict[str, int]
    known: tuple[str, ...]
    unknown: tuple[str, ...]
    practice: tuple[str, ...]

    @classmethod
    def draw(cls, seed: int, size: int = SIZE, carry: bool = True) -> "Facts":
        """The table of `seed` with `size` rows of ten facts; the same on every machine.

        Raises:
            ConfigError: more facts than there are values, or none.
        """
        values = summands(carry)
        if not 1 <= size <= len(values) // 10:
            raise ConfigError(f"size of the miniature: got {size}, allowed 1 to {len(values) // 10}")
        rng = random.Random(f"miniature table {seed}")
        names = [f"{a}@{b}" for a in range(size) for b in range(10)]
        value = dict(zip(names, rng.sample(values, len(names)), strict=True))
        rng.shuffle(names)
        known, practice = 3 * size, 7 * size
        return cls(value, tuple(names[:known]), tuple(names[known:practice]), tuple(names[practice:]))


class Miniature(DrawnEnv):
    """Implements `aipo.rollout.demonstration.DemonstratedEnv` and `TeachingEnv`.

    Args:
        seed: draws the table, the kinds of its facts and the operands.
        size: rows of the table, of ten facts each; 1 to 80.
        terms: operands of each task with a fact and of each sum.
        carry: whether a sum may carry; without, the splits but `borrow` have half as many tasks.

    Raises:
        ConfigError: no such size, no operand, or several where nothing is carried.
    """

    # A right answer behind a wrong line is rewarded, and noted.
    noted = ("derivation",)

    def __init__(self, seed: int = 0, size: int = SIZE, terms: int = TERMS, carry: bool = True) -> None:
        if terms < 1 or (terms > 1 and not carry):
            raise ConfigError(
                f"terms of the miniature: got {terms}, allowed 1 or more, and 1 with carry=False"
            )
        self.facts = Facts.draw(seed, size, carry)
        self._terms, self._carry = terms, carry
        less = 1 if carry else UNCARRIED
        rng = random.Random(f"miniature splits {seed}")
        value = self.facts.value
        easy_train, easy = self._named(rng, {f: value[f] for f in self.facts.known}, "easy_train", "easy")
        hard, heldout = self._named(rng, {f: value[f] for f in self.facts.unknown}, "hard", "heldout")
        pairs = [(a, b) for a in summands(carry) for b in operands_of(a, carry)]
        plain = rng.sample(pairs, PLAIN + PLAIN_HELDOUT)
        sums = [(a, (b, *draw_operands(rng, terms - 1))) for a, b in plain]
        easy_train += [_sum("easy_train", a, operands) for a, operands in sums[:PLAIN]]
        easy += [_sum("easy", a, operands) for a, operands in sums[PLAIN:]]
        splits = {
            "easy_train": tuple(easy_train),
            "easy": tuple(easy),
            "hard": tuple(hard),
            "heldout": tuple(heldout),
            **_crafts("borrow", _borrow, random.Random(f"miniature borrow {seed}")),
            **self._complements(random.Random(f"miniature nines {seed}")),
            **_crafts("shortcut", _shortcut, random.Random(f"miniature shortcut {seed}"), less),
        }
        super().__init__("the miniature", splits)

    def score(self, task: Task, text: str) -> dict[str, float]:
        """`correct` is 1.0 where the last line of `text` is `#` and the answer, else 0.0. `derivation` is 1.0 where every
        line before it stands in the demonstration, else 0.0: the right answer may follow from a wrong line.

        Raises:
            TaskError: the task has no answer.
        """
        if task.answer is None:
            raise TaskError(f"answer of task {task.task_id!r}: got None, allowed the number to compare with")
        last, wrong = self._read(task, text)
        return {"correct": float(last == f"#{task.answer}"), "derivation": float(not wrong)}

    def explain(self, task: Task, text: str) -> str:
        """Which line counts as the answer, and which lines before it are none of the worked solution."""
        last, wrong = self._read(task, text)
        if task.answer is None:
            return f"the last line is {last!r}, and the task has no answer"
        flaws = f"; lines that do not follow: {wrong}" if wrong else ""
        return f"the last line is {last!r}, right is {f'#{task.answer}'!r}{flaws}"

    def demonstration(self, task: Task) -> str | None:
        """The derivation, as it stands above; None where the task has no answer."""
        if task.answer is None:
            return None
        return "\n".join([*self._work(task, int(task.answer)), f"#{task.answer}"])

    def turn(self, task: Task, written: str) -> str:
        """What a policy that has agents at hand writes after `written`; see `envs.miniature.teacher`."""
        known = {fact: self.facts.value[fact] for fact in self.facts.known}
        return next_text(task.prompt, known, written)

    def _read(self, task: Task, text: str) -> tuple[str, list[str]]:
        """The last line, and the lines before it that do not stand in the demonstration; of a task without an answer none."""
        work, _, last = text.rstrip("\n").rpartition("\n")
        if task.answer is None:
            return last, []
        allowed = {"", *self._work(task, int(task.answer))}
        return last, [line for line in work.split("\n") if line not in allowed]

    @staticmethod
    def _work(task: Task, answer: int) -> list[str]:
        """The lines before the answer."""
        start, *steps = task.prompt.removesuffix("=?\n").replace("-", "+-").split("+")
        operands = [int(step) for step in steps]
        value = answer - sum(operands)
        lookup = [] if start.isdecimal() else [f"{start}={value}"]
        return [*lookup, *derivation(value, operands)]

    def _named(
        self, rng: random.Random, values: Mapping[str, int], train: str, heldout: str
    ) -> tuple[list[Task], list[Task]]:
        """Tasks of two splits that begin with the same names, and share no first operand of a name."""
        sides: tuple[list[Task], list[Task]] = ([], [])
        less = 1 if self._carry else UNCARRIED
        for name, value in values.items():
            operands = rng.sample(operands_of(value, self._carry), (HARD_OPERANDS + HELDOUT_OPERANDS) // less)
            for place, operand in enumerate(operands):
                in_heldout = place >= HARD_OPERANDS // less
                split = heldout if in_heldout else train
                terms = (operand, *draw_operands(rng, self._terms - 1))
                sides[in_heldout].append(_sum(split, value, terms, name))
        return sides

    def _complements(self, rng: random.Random) -> dict[str, tuple[Task, ...]]:
        """Without a carry the splits share a few values, as they share facts; a procedure takes longer to learn."""
        if self._carry:
            return _crafts("nines", _nines, rng)
        values = {f"~{complement(value)}": value for value in rng.sample(summands(False), COMPLEMENTS)}
        train, heldout = self._named(rng, values, "nines_train", "nines")
        return {"nines_train": tuple(train), "nines": tuple(heldout)}


def _sum(split: str, value: int, operands: Sequence[int], fact: str | None = None) -> Task:
    """A sum that begins with a value, or with the fact that has it."""
    expression = chain(fact or value, operands)
    return Task(
        task_id=f"{split}/{expression}",
        prompt=f"{expression}=?\n",
        answer=str(value + sum(operands)),
        split=split,
        cluster=fact or "",
        metadata={"fact": fact, "operand": operands[0]},
    )


def _crafts(
    split: str,
    draw: Callable[[int, random.Random], tuple[str, int] | None],
    rng: random.Random,
    less: int = 1,
) -> dict[str, tuple[Task, ...]]:
    """A split for training and one held out: one task for each of so many values, of which they share none.

    Args:
        draw: an expression that begins with a value, and its answer; None where there is none.
        less: so many times fewer tasks.
    """
    train, heldout = CRAFT // less, CRAFT_HELDOUT // less
    values = rng.sample(VALUES, len(VALUES))
    drawn = [found for value in values if (found := draw(value, rng)) is not None][: train + heldout]
    names = [f"{split}_train"] * train + [split] * heldout
    tasks = [
        Task(task_id=f"{name}/{expression}", prompt=f"{expression}=?\n", answer=str(answer), split=name)
        for name, (expression, answer) in zip(names, drawn, strict=True)
    ]
    return {f"{split}_train": tuple(tasks[:train]), split: tuple(tasks[train:])}


def _borrow(a: int, rng: random.Random) -> tuple[str, int] | None:
    """Both subtractions need a borrow."""
    pairs = [(b, c) for b in _borrowing(a) for c in _borrowing(a - b) if a - b - c >= VALUES.start]
    if not pairs:
        return None
    b, c = rng.choice(pairs)
    return f"{a}-{b}-{c}", a - b - c


@cache
def _borrowing(a: int) -> tuple[int, ...]:
    """Operands that cannot be taken from `a` without a borrow."""
    return tuple(b for b in OPERANDS if unborrowed(a, b) != a - b)


def _nines(a: int, rng: random.Random) -> tuple[str, int]:
    b = rng.choice(OPERANDS)
    return f"~{a}+{b}", complement(a) + b


def _shortcut(a: int, rng: random.Random) -> tuple[str, int] | None:
    """Three digits are left, and giving back carries nothing."""
    return (f"{a}-99", a - 99) if a >= 200 and a % 10 < 9 else None
