"""Two of the miniature's policies that know different facts, for a discussion (graphs/idea3.py).

Both begin as the cold start does (`envs/miniature/model.py`). Of the forty facts that the cold start leaves unknown, each side is taught every other one. Both are taught what to do with
another's solution: where their own begins with a fact that they know, it stays; else the other's value is taken over. That is
learned on facts with a fresh value each time, so that a value which is only heard is copied and not known.
"""

import hashlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

from transformers import Qwen2ForCausalLM

from aipo.util.imports import fingerprint
from aipo.util.whole import cached_folder
from envs.miniature import arithmetic, curriculum, model, task
from envs.miniature.arithmetic import VALUES, chain
from envs.miniature.curriculum import _EXPRESSION, Demonstrator, Piece, _prompt, _rest, reserved
from envs.miniature.model import BATCH, LAYERS, WIDTH, Progress, _fit, _rows, cold_start, tokenizer
from envs.miniature.task import Facts, Miniature

STEPS = 1000
SIDES = ("left", "right")
SHARES = {"known": 0.35, "plain": 0.15, "kept": 0.15, "taken": 0.3, "agreed": 0.05}
"""How often each kind of demonstration is drawn."""


class PeerDemonstrator(Demonstrator):
    """Draws demonstrations of one side. What the other says is context, and so is an idea that is wrong."""

    __slots__ = ()

    def draw(self, rng: random.Random) -> list[Piece]:
        """One demonstration; its first piece is the prompt."""
        (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
        while True:
            pieces: list[Piece] = getattr(self, f"_{kind}")(rng)
            text = "".join(piece.text for piece in pieces)
            if self.reserved.isdisjoint(_EXPRESSION.findall(text)):
                return pieces

    def _kept(self, rng: random.Random) -> list[Piece]:
        """A known fact; the other has a wrong value, or the right one."""
        fact = rng.choice(self.facts.known)
        value = self.facts.value[fact]
        heard = rng.choice(VALUES) if rng.random() < 0.7 else value
        return self._fused(fact, value, value, heard, rng)

    def _taken(self, rng: random.Random) -> list[Piece]:
        """A fact that is not known; the other's value is taken."""
        guess, value = rng.choice(VALUES), rng.choice(VALUES)
        return self._fused(rng.choice(self.facts.practice), value, guess, value, rng)

    def _agreed(self, rng: random.Random) -> list[Piece]:
        prompt, answer = self._plain(rng)
        return [prompt, answer._replace(learned=False), *_heard(answer.text), answer]

    def _fused(self, fact: str, value: int, own: int, heard: int, rng: random.Random) -> list[Piece]:
        operands = self._operands(value, rng)

        def solution(start: int) -> str:
            return f"{fact}={start}\n{_rest(start, operands)}"

        idea = Piece(solution(own), learned=own == value)
        return [_prompt(chain(fact, operands)), idea, *_heard(solution(heard)), Piece(solution(value))]


def _heard(solution: str) -> list[Piece]:
    """As graphs/prompts/miniature_fuse.md shows it."""
    return [Piece(f"peer:{solution.removesuffix('<eos>')};", learned=False)]


def facts_of(facts: Facts, side: str) -> Facts:
    """The table as one side knows it: half of what is unknown is known."""
    own = facts.unknown[SIDES.index(side) :: 2]
    rest = tuple(fact for fact in facts.unknown if fact not in own)
    return replace(facts, known=(*facts.known, *own), unknown=rest)


def peer(
    *,
    side: Literal["left", "right"],
    seed: int = 0,
    steps: int = STEPS,
    batch: int = BATCH,
    width: int = WIDTH,
    layers: int = LAYERS,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """One of the two policies, as a `from_pretrained` folder. Built once for each of the arguments, and kept.

    Args:
        side: whose half of the facts it knows.
        seed: draws the table and the demonstrations.
        steps, batch: optimizer steps, and demonstrations of each.
        width, layers: of the network; unlike peers have different ones.
        cache: where such folders are kept; default: `aipo` in the user's cache folder.
        progress: called with the step, the number of steps and the loss.

    Raises:
        RunError: the cache cannot be written, or the disk is full or broken.
        ConfigError: no such width or number of layers.
    """
    files = (__file__, model.__file__, arithmetic.__file__, task.__file__, curriculum.__file__)
    version = hashlib.sha256("".join(fingerprint(Path(file)) for file in files).encode()).hexdigest()[:12]

    def train(folder: Path) -> None:
        env, encoder = Miniature(seed), tokenizer()
        start = cold_start(seed=seed, width=width, layers=layers, cache=cache)
        made = Qwen2ForCausalLM.from_pretrained(start)
        demos = PeerDemonstrator(facts_of(env.facts, side), reserved(env))
        rows = _rows(demos, encoder, steps * batch, random.Random(f"peer {side} {seed}"))
        _fit(made, rows, batch, progress or (lambda step, steps, loss: None))
        made.save_pretrained(folder)
        encoder.save_pretrained(folder)

    name = f"miniature-peer-{side}-{seed}-{steps}x{batch}-{width}-{layers}-{version}"
    return cached_folder(name, train, what="the miniature's peers", cache=cache)


peer.tokenizer = tokenizer  # pyright: ignore[reportFunctionMemberAccess]  # read before the policy is made
