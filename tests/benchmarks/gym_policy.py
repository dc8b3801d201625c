"""Families of reasoning-gym for a small policy, the policy and the agent that knows the answers: for matrix_gym.yaml.

The policy is taught the known families. The others stand in its cold start only behind a consult, with the answer of
another question, so that asking and copying are learned and the procedure is not.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from langchain_core.language_models import BaseChatModel

from aipo.loading import fingerprint
from envs import gym_families, miniature_lessons, miniature_model
from envs.gym import Gym
from envs.gym_families import Family, Item, items
from envs.miniature import OFFER
from envs.miniature_agents import RuleBased
from envs.miniature_lessons import Piece
from envs.miniature_model import HEAD_DIM, LAYERS, WIDTH, Device, Progress, kept, taught

KNOWN = {
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    "letter_counting": {"min_words": 2, "max_words": 3},
}
UNKNOWN = {
    "spell_backward": {"min_word_len": 3, "max_word_len": 6},
    "number_filtering": {"min_numbers": 3, "max_numbers": 3, "max_decimals": 0},
    "gcd": {"min_value": 2, "max_value": 60},
}
TRAIN, HELDOUT = 1000, 120
APART = 10_000_000  # an item is made of seed + number: these never meet


def gym(*, seed: int = 0) -> Gym:
    """Of each family `NAME`, which is evaluated, and `NAME_train`, with other questions."""
    splits: dict[str, Family] = {}
    for place, (name, options) in enumerate((KNOWN | UNKNOWN).items()):
        first = (100 * seed + place) * APART
        splits[name] = Family(family=name, size=HELDOUT, seed=first, options=options)
        splits[f"{name}_train"] = Family(family=name, size=TRAIN, seed=first + APART // 2, options=options)
    return Gym(splits=splits)


@dataclass
class Lessons:
    """Implements `envs.miniature_model.Demonstrations`; no question of `gym(seed=seed)` is evaluated after it was shown."""

    seed: int
    reserved: set[str] = field(init=False)

    def __post_init__(self) -> None:
        env = gym(seed=self.seed)
        names = [name for name in env.splits() if name in KNOWN or name.removesuffix("_train") in UNKNOWN]
        self.reserved = {task.prompt for name in names for task in env.tasks(name)}
        self._items = {
            name: self._all(name, options, place)
            for place, (name, options) in enumerate((KNOWN | UNKNOWN).items())
        }

    def _all(self, name: str, options: dict[str, int], place: int) -> Callable[[random.Random], Item]:
        family = Family(family=name, size=2500, seed=(100 * self.seed + 50 + place) * APART, options=options)
        those = [item for _, item in items(family) if item["question"] not in self.reserved]
        return lambda rng: rng.choice(those)

    def draw(self, rng: random.Random) -> list[Piece]:
        if rng.random() < 0.5:
            item = self._items[rng.choice(list(KNOWN))](rng)
            offer = rng.choice(("", OFFER))
            return [Piece(offer + item["question"], learned=False), _answered(item["answer"])]
        draw = self._items[rng.choice(list(UNKNOWN))]
        answer = draw(rng)["answer"]
        return [
            Piece(OFFER + draw(rng)["question"], learned=False),
            Piece("<consult:reasoning>next</consult>"),
            Piece(f"<feedback:reasoning>{answer}</feedback>", learned=False),
            _answered(answer),
        ]


def _answered(answer: str) -> Piece:
    return Piece(f"\\boxed{{{answer}}}<eos>")


def cold_start(
    *,
    seed: int = 0,
    steps: int = 2000,
    width: int = WIDTH,
    layers: int = LAYERS,
    head_dim: int = HEAD_DIM,
    device: Device = "cpu",
    progress: Progress | None = None,
) -> Path:
    """The policy before any reinforcement learning, as `envs.miniature_model.cold_start`."""
    files = (__file__, gym_families.__file__, miniature_lessons.__file__, miniature_model.__file__)
    version = hashlib.sha256("".join(fingerprint(Path(file)) for file in files).encode()).hexdigest()[:12]
    return taught(
        kept() / f"gym-{seed}-{steps}-{head_dim}-{width}-{layers}-{version}",
        Lessons(seed),
        seed=seed,
        steps=steps,
        head_dim=head_dim,
        width=width,
        layers=layers,
        device=device,
        progress=progress,
    )


def solver(*, seed: int = 0) -> BaseChatModel:
    """An agent that knows the answer to every question that is trained on."""
    env = gym(seed=seed)
    tasks = (task for name in env.splits() if name.endswith("_train") for task in env.tasks(name))
    return Solver(seed=seed, error_rate=0.0, answers={task.prompt: str(task.answer) for task in tasks})


class Solver(RuleBased):
    """Gives the answer, which is the one next step."""

    answers: dict[str, str]

    def rule(self, step: str, text: str, rng: random.Random) -> str | None:
        question = text.partition("Problem:\n")[2].partition("\n\nWork so far:")[0]
        return self.answers.get(question) if step == "next" else None
