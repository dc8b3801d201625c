"""The miniature's policy: a byte-level tokenizer, a small Qwen2, and its cold start.

The cold start is supervised training on demonstrations, from random weights. It teaches arithmetic,
the known facts, how to consult and how to copy from feedback. What agents write, and lines that are
wrong on purpose, are context only: they carry no loss. No unknown fact is in any demonstration.

The result is an ordinary `from_pretrained` folder, built once and kept in the cache.
"""

import hashlib
import os
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from aipo.errors import ConfigError
from aipo.loading import fingerprint
from aipo.run import disk
from envs import miniature
from envs.miniature import OFFER, OPERANDS, VALUES, Facts, Miniature, slip

Progress = Callable[[int, int, float], None]

AGENTS = ("verify", "knowledge", "reasoning")
TAGS = (
    *(f"<{kind}:{agent}>" for kind in ("consult", "feedback") for agent in AGENTS),
    "</consult>",
    "</feedback>",
    "<notice>",
    "</notice>",
)

STEPS = 1700
BATCH = 32
PEAK_LR = 3e-3
# Attention heads, and those of keys and values, by their size. vLLM's CPU build has kernels for 32, not for 12.
HEADS = {12: (8, 4), 32: (3, 3)}
HEAD_DIM = 12
WARMUP = 50
# Rows of a pool are sorted by length, so that little of a batch is padding.
POOL = 16

# How often each kind of demonstration is drawn.
SHARES = {"known": 0.32, "plain": 0.24, "practice": 0.37, "asked": 0.02, "verify": 0.03, "reasoning": 0.02}
# Kinds in which nobody is asked; half of them are shown without agents.
ALONE = ("known", "plain")


def tokenizer() -> Qwen2Tokenizer:
    """One token per byte, so that any text can be written, and one special token per tag."""
    words = ("<pad>", "<eos>", *TAGS, *sorted(ByteLevel.alphabet()))
    return Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token=None,  # pyright: ignore[reportArgumentType]  # there is none: every byte has a token
        extra_special_tokens=list(TAGS),
        model_max_length=256,
    )


class Piece(NamedTuple):
    """A run of a demonstration's text; only what is `learned` carries loss."""

    text: str
    learned: bool = True


def reserved(env: Miniature) -> frozenset[str]:
    """Expressions of the evaluation splits, `3@7+20`."""
    prompts = (task.prompt for split in ("easy", "heldout") for task in env.tasks(split))
    return frozenset(prompt.removesuffix("=?\n") for prompt in prompts)


_EXPRESSION = re.compile(r"[0-9@]+\+[0-9]+")


@dataclass(frozen=True, slots=True)
class Demonstrator:
    """Draws demonstrations.

    Args:
        facts: the table.
        reserved: expressions of the evaluation splits (`3@7+20`), never shown, in a prompt or below.
    """

    facts: Facts
    reserved: frozenset[str]

    def draw(self, rng: random.Random) -> list[Piece]:
        """One demonstration; its first piece is the prompt."""
        (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
        while True:
            question, *work = getattr(self, f"_{kind}")(rng)
            text = "".join(piece.text for piece in (question, *work))
            if self.reserved.isdisjoint(_EXPRESSION.findall(text)):
                break
        alone = kind in ALONE and rng.random() < 0.5
        return [question if alone else Piece(OFFER + question.text, learned=False), *work]

    def _known(self, rng: random.Random) -> list[Piece]:
        fact = rng.choice(self.facts.known)
        value, b = self.facts.value[fact], rng.choice(OPERANDS)
        return [_prompt(f"{fact}+{b}"), Piece(f"{fact}={value}\n"), Piece(_rest(value, b))]

    def _plain(self, rng: random.Random) -> list[Piece]:
        value, b = rng.choice(VALUES), rng.choice(OPERANDS)
        return [_prompt(f"{value}+{b}"), Piece(_rest(value, b))]

    def _practice(self, rng: random.Random) -> list[Piece]:
        return self._looked_up(rng.choice(self.facts.practice), rng.choice(VALUES), rng)

    def _asked(self, rng: random.Random) -> list[Piece]:
        fact = rng.choice(self.facts.known)
        return self._looked_up(fact, self.facts.value[fact], rng)

    def _looked_up(self, fact: str, value: int, rng: random.Random) -> list[Piece]:
        b = rng.choice(OPERANDS)
        line = f"{fact}={value}"
        consult = _consult("knowledge", fact, line)
        return [_prompt(f"{fact}+{b}"), *consult, Piece(f"{line}\n"), Piece(_rest(value, b))]

    def _verify(self, rng: random.Random) -> list[Piece]:
        """A line, right or wrong, is checked; the right one follows."""
        prompt, *before, _ = rng.choice((self._known, self._plain))(rng)
        value, b = _sum_of(prompt, before)
        line = f"{value}+{b}={value + b}"
        if rng.random() < 0.5:
            checked = _consult("verify", line, "right")
            return [prompt, *before, Piece(f"{line}\n"), *checked, Piece(f"#{value + b}<eos>")]
        wrong = f"{value}+{b}={slip(value + b, rng)}"
        checked = _consult("verify", wrong, line)
        return [prompt, *before, Piece(f"{wrong}\n", learned=False), *checked, Piece(_rest(value, b))]

    def _reasoning(self, rng: random.Random) -> list[Piece]:
        """The next line of the derivation is asked for and copied."""
        prompt, *before, _ = rng.choice((self._known, self._plain))(rng)
        value, b = _sum_of(prompt, before)
        return [
            prompt,
            *before,
            *_consult("reasoning", "next", f"{value}+{b}={value + b}"),
            Piece(_rest(value, b)),
        ]


def _sum_of(prompt: Piece, before: list[Piece]) -> tuple[int, int]:
    a, b = prompt.text.removesuffix("=?\n").split("+")
    return int(before[0].text.strip().partition("=")[2] if before else a), int(b)


def _prompt(expression: str) -> Piece:
    return Piece(f"{expression}=?\n", learned=False)


def _rest(value: int, b: int) -> str:
    return f"{value}+{b}={value + b}\n#{value + b}<eos>"


def _consult(agent: str, request: str, reply: str) -> list[Piece]:
    return [
        Piece(f"<consult:{agent}>{request}</consult>"),
        Piece(f"<feedback:{agent}>{reply}</feedback>", learned=False),
    ]


def network(vocab_size: int, head_dim: int = HEAD_DIM) -> Qwen2ForCausalLM:
    """Qwen2 with 2 layers of width 96, random weights from torch's current seed.

    Raises:
        ConfigError: another size of the attention heads than those of `HEADS`.
    """
    if head_dim not in HEADS:
        raise ConfigError(f"head_dim of the miniature's policy: got {head_dim}, allowed {sorted(HEADS)}")
    heads, key_value_heads = HEADS[head_dim]
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=256,
        tie_word_embeddings=False,  # a tied matrix cannot be reloaded into every server
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        use_cache=False,
        initializer_range=0.05,
        # Sequences are short: with the usual 10000 most of a head's rotation would hardly move.
        rope_parameters={"rope_type": "default", "rope_theta": 300.0},
    )
    return Qwen2ForCausalLM(config)


def cold_start(
    *,
    seed: int = 0,
    steps: int = STEPS,
    head_dim: int = HEAD_DIM,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The policy before any reinforcement learning, as a `from_pretrained` folder.

    Built once for each seed, number of steps, size of heads and version of these files, and kept.

    Args:
        seed: draws the table, the demonstrations and the first weights.
        steps: optimiser steps.
        head_dim: size of the attention heads; 32 can be served by vLLM on a CPU.
        cache: where such folders are kept; default: `aipo` in the user's cache folder.
        progress: called with the step, the number of steps and the loss.

    Raises:
        RunError: the disk is full or broken.
        ConfigError: no such size of heads.
    """
    version = fingerprint(Path(__file__)) + fingerprint(Path(miniature.__file__))
    name = f"miniature-{seed}-{steps}-{head_dim}-{hashlib.sha256(version.encode()).hexdigest()[:12]}"
    folder = (cache or _cache()) / name
    if folder.is_dir():
        return folder
    env, words = Miniature(seed), tokenizer()
    with torch.random.fork_rng(devices=()):  # the caller's random numbers are not ours to reset
        torch.manual_seed(seed)
        model = network(len(words), head_dim)
    rows = _rows(
        Demonstrator(env.facts, reserved(env)), words, steps * BATCH, random.Random(f"cold start {seed}")
    )
    _fit(model, rows, progress or (lambda step, steps, loss: None))
    with disk("saving the cold start", folder.parent):
        _save(model, words, folder)
    return folder


def _save(model: Qwen2ForCausalLM, words: Qwen2Tokenizer, folder: Path) -> None:
    """Whole or not at all: whoever finds the folder may load it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
        model.save_pretrained(draft)
        words.save_pretrained(draft)
        try:
            Path(draft).rename(folder)
        except OSError:
            if not folder.is_dir():  # somebody else was faster, which is as good
                raise


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aipo"


class _Row(NamedTuple):
    token_ids: list[int]
    learned: list[bool]


def _rows(demos: Demonstrator, words: Qwen2Tokenizer, count: int, rng: random.Random) -> list[_Row]:
    known: dict[str, list[int]] = {}  # most pieces come again and again

    def encode(text: str) -> list[int]:
        if text not in known:
            known[text] = words.encode(text)
        return known[text]

    def row() -> _Row:
        pieces = [(encode(piece.text), piece.learned) for piece in demos.draw(rng)]
        ids = [i for piece, _ in pieces for i in piece]
        return _Row(ids, [learned for piece, learned in pieces for _ in piece])

    return [row() for _ in range(count)]


def _fit(model: Qwen2ForCausalLM, rows: list[_Row], progress: Progress) -> None:
    """One pass over `rows` with AdamW; the learning rate rises, then falls to 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), fused=True)
    steps = len(rows) // BATCH
    warmup = min(WARMUP, steps // 2)
    for step, batch in enumerate(_batches(rows)):
        rate = PEAK_LR * min((step + 1) / max(warmup, 1), (steps - step) / (steps - warmup))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids_B_T = _pad([row.token_ids for row in batch])
        learned_B_T = _pad([row.learned for row in batch])[:, 1:].bool()
        logits = model(input_ids=ids_B_T[:, :-1], use_cache=False).logits[learned_B_T]
        loss = F.cross_entropy(logits, ids_B_T[:, 1:][learned_B_T])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 10 == 0 or step + 1 == steps:
            progress(step + 1, steps, loss.item())


def _batches(rows: list[_Row]) -> Iterator[list[_Row]]:
    rng = random.Random(len(rows))
    for start in range(0, len(rows), BATCH * POOL):
        pool = sorted(rows[start : start + BATCH * POOL], key=lambda row: len(row.token_ids))
        batches = [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
        rng.shuffle(batches)
        yield from batches


def _pad(lists: Sequence[Sequence[int]]) -> Tensor:
    # What is padded comes after everything that is learned, and attention looks back only.
    width = max(map(len, lists))
    return torch.tensor([[*values, *[0] * (width - len(values))] for values in lists])
