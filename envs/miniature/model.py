"""The miniature's policy: a byte-level tokenizer, a small Qwen2, and its cold start.

The cold start is supervised training on demonstrations (`envs/miniature/curriculum.py`), from random weights.

The result is an ordinary `from_pretrained` folder, built once and kept in the cache.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from aipo.errors import ConfigError
from aipo.util.imports import fingerprint
from aipo.util.whole import cached_folder
from envs.miniature import arithmetic, curriculum, task
from envs.miniature.curriculum import COURSES, Demonstrator, reserved
from envs.miniature.task import SIZE, TERMS, Miniature

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
# Attention heads that share keys and values, by their size. vLLM's CPU build has kernels for 32, not for 12.
SHARING = {12: 2, 32: 1}
HEAD_DIM = 12
WIDTH, LAYERS = 96, 2
WARMUP = 50
# Rows of a pool are sorted by length, so that little of a batch is padding.
POOL = 16


def tokenizer() -> Qwen2Tokenizer:
    """One token per byte, so that any text can be written, and one special token per tag."""
    tokens = ("<pad>", "<eos>", *TAGS, *sorted(ByteLevel.alphabet()))
    return Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[],
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token=None,  # pyright: ignore[reportArgumentType]  # there is none: every byte has a token
        extra_special_tokens=list(TAGS),
        model_max_length=256,
    )


def network(
    vocab_size: int, head_dim: int = HEAD_DIM, *, width: int = WIDTH, layers: int = LAYERS
) -> Qwen2ForCausalLM:
    """Qwen2 with 2 layers of width 96, random weights from torch's current seed.

    Raises:
        ConfigError: another size of the attention heads than those of `SHARING`, a width that is no multiple of it, or
            no layer.
    """
    if head_dim not in SHARING:
        raise ConfigError(f"head_dim of the miniature's policy: got {head_dim}, allowed {sorted(SHARING)}")
    if width < WIDTH or width % WIDTH or layers < 1:
        raise ConfigError(
            f"width and layers of the miniature's policy: got {width} and {layers}, allowed a multiple of {WIDTH} and "
            "at least 1"
        )
    heads = width // head_dim
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // SHARING[head_dim],
        max_position_embeddings=256,
        tie_word_embeddings=False,  # a tied matrix cannot be reloaded into every server
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        use_cache=False,
        initializer_range=0.05 * (WIDTH / width) ** 0.5,
        # Sequences are short: with the usual 10000 most of a head's rotation would hardly move.
        rope_parameters={"rope_type": "default", "rope_theta": 300.0},
    )
    return Qwen2ForCausalLM(config)


def cold_start(
    *,
    seed: int = 0,
    steps: int = STEPS,
    batch: int = BATCH,
    head_dim: int = HEAD_DIM,
    course: str = "facts",
    size: int = SIZE,
    terms: int = TERMS,
    carry: bool = True,
    width: int = WIDTH,
    layers: int = LAYERS,
    device: Literal["cpu", "cuda"] = "cpu",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The policy before any reinforcement learning, as a `from_pretrained` folder.

    Built once for each of the arguments up to `layers` and version of these files, and kept.

    Args:
        seed: draws the table, the demonstrations and the first weights.
        steps: optimizer steps.
        batch: demonstrations of each. Small ones teach more in the same time, and less reliably.
        head_dim: size of the attention heads; 32 can be served by vLLM on a CPU.
        course: what is taught: `facts`, `full` for the splits `borrow` and `nines`, `quick` for `shortcut` and `nines`,
            `distractors` for a Knowledge that says more than it was asked, `silent` for a policy that never asks.
        size, terms, carry: of the table and of sums, as `Miniature` has them.
        width, layers: of the network. The peak learning rate falls with the width.
        device: where it is trained.
        cache: where such folders are kept; default: `aipo` in the user's cache folder.
        progress: called with the step, the number of steps and the loss.

    Raises:
        RunError: the cache cannot be written, or the disk is full or broken.
        ConfigError: no GPU that torch sees, no such size of heads, width, table or course.
    """
    if batch < 1 or steps < 1:
        raise ConfigError(
            f"steps and batch of the miniature's policy: got {steps} and {batch}, allowed 1 or more"
        )
    if course not in COURSES:
        raise ConfigError(f"course of the miniature's policy: got {course!r}, allowed one of {list(COURSES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device of the miniature's policy: got 'cuda' where torch sees no GPU, allowed 'cpu'"
        )
    files = (__file__, arithmetic.__file__, task.__file__, curriculum.__file__)
    version = "".join(fingerprint(Path(file)) for file in files)
    shape = f"{seed}-{steps}x{batch}-{head_dim}-{course}-{size}-{terms}-{carry}-{width}-{layers}"
    name = f"miniature-{shape}-{hashlib.sha256(version.encode()).hexdigest()[:12]}"

    def train(folder: Path) -> None:
        env, encoder = Miniature(seed, size, terms, carry), tokenizer()
        with torch.random.fork_rng(devices=()):  # the caller's random numbers are not ours to reset
            torch.manual_seed(seed)
            model = network(len(encoder), head_dim, width=width, layers=layers)
        model.to(device)  # pyright: ignore[reportArgumentType]  # transformers wraps `to` without its types
        demos = Demonstrator(env.facts, reserved(env), course, terms, carry)
        rows = _rows(demos, encoder, steps * batch, random.Random(f"cold start {seed}"))
        _fit(model, rows, batch, progress or (lambda step, steps, loss: None))
        model.save_pretrained(folder)
        encoder.save_pretrained(folder)

    return cached_folder(name, train, what="the miniature's policy", cache=cache)


cold_start.tokenizer = tokenizer  # pyright: ignore[reportFunctionMemberAccess]  # read before the policy is made


class _Row(NamedTuple):
    token_ids: list[int]
    learned: list[bool]


def _rows(demos: Demonstrator, encoder: Qwen2Tokenizer, count: int, rng: random.Random) -> list[_Row]:
    cache: dict[str, list[int]] = {}  # most pieces come again and again

    def encode(text: str) -> list[int]:
        if text not in cache:
            cache[text] = encoder.encode(text)
        return cache[text]

    def row() -> _Row:
        pieces = [(encode(piece.text), piece.learned) for piece in demos.draw(rng)]
        ids = [i for piece, _ in pieces for i in piece]
        return _Row(ids, [learned for piece, learned in pieces for _ in piece])

    return [row() for _ in range(count)]


def _fit(model: Qwen2ForCausalLM, rows: list[_Row], size: int, progress: Progress) -> None:
    """One pass over `rows` with AdamW; the learning rate rises, then falls to 0."""
    peak = PEAK_LR * WIDTH / model.config.hidden_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), fused=True)
    steps = len(rows) // size
    warmup = min(WARMUP, steps // 2)
    for step, batch in enumerate(_batches(rows, size)):
        rate = peak * min((step + 1) / max(warmup, 1), (steps - step) / (steps - warmup))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids_B_T = _pad([row.token_ids for row in batch]).to(model.device)
        learned_B_T = _pad([row.learned for row in batch])[:, 1:].bool().to(model.device)
        logits = model(input_ids=ids_B_T[:, :-1], use_cache=False).logits[learned_B_T]
        loss = F.cross_entropy(logits, ids_B_T[:, 1:][learned_B_T])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 10 == 0 or step + 1 == steps:
            progress(step + 1, steps, loss.item())


def _batches(rows: list[_Row], size: int) -> Iterator[list[_Row]]:
    rng = random.Random(len(rows))
    for start in range(0, len(rows), size * POOL):
        pool = sorted(rows[start : start + size * POOL], key=lambda row: len(row.token_ids))
        batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(batches)
        yield from batches


def _pad(lists: Sequence[Sequence[int]]) -> Tensor:
    # What is padded comes after everything that is learned, and attention looks back only.
    width = max(map(len, lists))
    return torch.tensor([[*values, *[0] * (width - len(values))] for values in lists])
