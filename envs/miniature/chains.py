"""Tasks of the miniature that need two or three consults, and a policy that can follow them.

A chain looks up one fact after the other: the last digit of a value is the row of the next fact.

    3@7@4+20=?
    3@7=582
    2@4=617
    617+20=637
    #637

Every fact of a chain is unknown, so it takes as many consults as facts. Which fact is asked next follows from the last reply.

    two_train, two      chains of two facts, 480 and 120 tasks
    three_train, three  chains of three facts, 480 and 120 tasks

No chain of an evaluated split is in a split for training; single facts are in both. The other splits are those of `Miniature`.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import Qwen2ForCausalLM

from aipo.errors import ConfigError
from aipo.rollout import Task
from aipo.util.imports import fingerprint
from aipo.util.whole import cached_folder
from envs.miniature import arithmetic, curriculum, model, task
from envs.miniature.arithmetic import OPERANDS, VALUES, derivation
from envs.miniature.curriculum import OFFER, Demonstrator, Piece, _consult, _prompt, _rest, reserved
from envs.miniature.model import BATCH, Progress, _fit, _rows, tokenizer
from envs.miniature.task import CRAFT, CRAFT_HELDOUT, Facts, Miniature

LENGTHS = {"two": 2, "three": 3}
"""Facts of a chain, by split."""
STEPS = 800
SHARES = {"single": 0.5, "asked": 0.35, "recalled": 0.15}
"""How often each kind of demonstration is drawn: those of the cold start, chains with consults, chains of known facts."""


class Chains(Miniature):
    """The miniature with chains. `seed` is that of `Miniature`."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        chains = {
            name: split for length in LENGTHS for name, split in _splits(self.facts, length, seed).items()
        }
        self._settings = {**self._settings, **chains}

    @staticmethod
    def _work(task: Task, answer: int) -> list[str]:
        values: dict[str, int] = task.metadata.get("values", {})
        if not values:
            return Miniature._work(task, answer)
        lookups = [f"{fact}={value}" for fact, value in values.items()]
        return [*lookups, *derivation([*values.values()][-1], [task.metadata["operand"]])]


def expression(facts: Sequence[str]) -> str:
    """`expression(["3@7", "2@4"])` is `3@7@4`."""
    return "@".join([facts[0], *(fact.partition("@")[2] for fact in facts[1:])])


def _splits(facts: Facts, name: str, seed: int) -> dict[str, tuple[Task, ...]]:
    """A split for training and one held out, which share no chain; a fifth of all chains is held out."""
    rng = random.Random(f"miniature chains {name} {seed}")
    chains = [chain for fact in facts.unknown for chain in _chains(facts, (fact,), LENGTHS[name])]
    rng.shuffle(chains)
    fifth = len(chains) // 5
    tasks = dict[str, tuple[Task, ...]]()
    for split, part, size in (
        (f"{name}_train", chains[fifth:], CRAFT),
        (name, chains[:fifth], CRAFT_HELDOUT),
    ):
        drawn = rng.sample([(chain, operand) for chain in part for operand in OPERANDS], size)
        tasks[split] = tuple(_task(split, facts, *one) for one in drawn)
    return tasks


def _chains(facts: Facts, begun: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    """Every chain of a length that begins so, of unknown facts, none of them twice."""
    if len(begun) == length:
        yield begun
        return
    for fact in _next(facts.unknown, facts.value[begun[-1]]):
        if fact not in begun:
            yield from _chains(facts, (*begun, fact), length)


def _next(facts: Sequence[str], value: int) -> list[str]:
    """The facts in the row that a value leads to."""
    return [fact for fact in facts if fact.startswith(f"{value % 10}@")]


def _task(split: str, facts: Facts, chain: Sequence[str], operand: int) -> Task:
    question = f"{expression(chain)}+{operand}"
    values = {fact: facts.value[fact] for fact in chain}
    return Task(
        task_id=f"{split}/{question}",
        prompt=f"{question}=?\n",
        answer=str(facts.value[chain[-1]] + operand),
        split=split,
        cluster=chain[0],
        metadata={"fact": chain[0], "operand": operand, "values": values},
    )


class ChainDemonstrator(Demonstrator):
    """Draws demonstrations of the cold start, and chains. No unknown fact is in them.

    A fact for practice has another value each time, so that a value which is told is copied and not known.
    """

    __slots__ = ()

    def draw(self, rng: random.Random) -> list[Piece]:
        """One demonstration; its first piece is the prompt."""
        (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
        if kind == "single":
            return super().draw(rng)
        question, *work = self._chain(rng, asked=kind == "asked")
        alone = kind == "recalled" and rng.random() < 0.5
        return [question if alone else Piece(OFFER + question.text, learned=False), *work]

    def _chain(self, rng: random.Random, *, asked: bool) -> list[Piece]:
        allowed = (*self.facts.known, *self.facts.practice) if asked else self.facts.known
        length = rng.choice([*LENGTHS.values()])
        while len(values := self._values(allowed, length, rng)) < length:
            pass  # no allowed fact in the row that a value leads to
        operand = rng.choice(OPERANDS)
        pieces = [_prompt(f"{expression([*values])}+{operand}")]
        for fact, value in values.items():
            line = f"{fact}={value}"
            consult = [] if fact in self.facts.known else _consult("knowledge", fact, line)
            pieces += [*consult, Piece(f"{line}\n")]
        return [*pieces, Piece(_rest([*values.values()][-1], (operand,)))]

    def _values(self, allowed: Sequence[str], length: int, rng: random.Random) -> dict[str, int]:
        """A chain's facts and their values; fewer than `length` where it cannot go on."""
        values: dict[str, int] = {}
        facts = [*allowed]
        while facts and len(values) < length:
            fact = rng.choice(facts)
            value = self.facts.value[fact] if fact in self.facts.known else rng.choice(VALUES)
            values[fact] = value
            facts = [one for one in _next(allowed, value) if one not in values]
        return values


def cold_start(
    *, seed: int = 0, steps: int = STEPS, cache: Path | None = None, progress: Progress | None = None
) -> Path:
    """The policy, as a `from_pretrained` folder. Built once for each of the arguments, and kept.

    It begins as `envs.miniature.model.cold_start` and is then shown chains among the demonstrations of the course `facts`.

    Args:
        seed: draws the table, the demonstrations and the first weights.
        steps: optimizer steps behind the cold start.
        cache: where such folders are kept; default: `aipo` in the user's cache folder.
        progress: called with the step, the number of steps and the loss.

    Raises:
        RunError: the cache cannot be written, or the disk is full or broken.
        ConfigError: no step.
    """
    if steps < 1:
        raise ConfigError(f"steps of the miniature's policy: got {steps}, allowed 1 or more")
    files = (__file__, model.__file__, arithmetic.__file__, task.__file__, curriculum.__file__)
    version = hashlib.sha256("".join(fingerprint(Path(file)) for file in files).encode()).hexdigest()[:12]

    def train(folder: Path) -> None:
        env, encoder = Chains(seed), tokenizer()
        network = Qwen2ForCausalLM.from_pretrained(
            model.cold_start(seed=seed, cache=cache, progress=progress)
        )
        demos = ChainDemonstrator(env.facts, reserved(env))
        rows = _rows(demos, encoder, steps * BATCH, random.Random(f"chains {seed}"))
        _fit(network, rows, BATCH, progress or (lambda step, steps, loss: None))
        network.save_pretrained(folder)
        encoder.save_pretrained(folder)

    name = f"miniature-chains-{seed}-{steps}x{BATCH}-{version}"
    return cached_folder(name, train, what="the miniature's policy of chains", cache=cache)


cold_start.tokenizer = tokenizer  # pyright: ignore[reportFunctionMemberAccess]  # read before the policy is made
