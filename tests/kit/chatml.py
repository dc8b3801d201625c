"""A tiny Qwen2 that chats: ChatML, a byte-level BPE, and enough training to consult and to put a digit in a box.

It has read nothing but the prompts that ship and sums that are made up here, and its answers are guesses. It is there
to show that real questions travel whole through every room, not that anybody solves them.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from aipo.policies.tokenizer import HFTokenizer
from graphs.solo import PROMPTS, policy_prompt

AGENTS = ("verify", "knowledge", "reasoning")
TAGS = (
    *(f"<{kind}:{agent}>" for kind in ("consult", "feedback") for agent in AGENTS),
    *("</consult>", "</feedback>", "<notice>", "</notice>"),
)
# Qwen2.5's, without tools.
TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GUESSES = "23456"
_STEPS, _BATCH = 100, 8


def chat_tokenizer(*, tags: bool) -> Qwen2Tokenizer:
    """Qwen's kind with about 700 ids; the tags of the grammar are tokens of their own, or they are not."""
    texts = [(PROMPTS / "policy.md").read_text(encoding="utf-8")]
    texts += [_question(random.Random(n)) + _request("7") + _ending("7") for n in range(50)]
    backend = Qwen2Tokenizer().backend_tokenizer  # for how it cuts text into words
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    )
    learned = json.loads(backend.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )
    if tags:
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in TAGS])
    return tokenizer


def chat_model(folder: Path, *, tags: bool) -> Path:
    """Trained and saved to `folder`: it consults where agents are offered, and ends on a digit in a box."""
    tokenizer = chat_tokenizer(tags=tags)
    words = HFTokenizer(tokenizer)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 32 each: vLLM has no smaller ones on CPUs
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=words.eos_id,
        pad_token_id=words.pad_id,
    )
    model = Qwen2ForCausalLM(config)
    _fit(model, words)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _question(rng: random.Random) -> str:
    names, things = ("Ann", "Bob", "Cid", "Dee"), ("apples", "coins", "$x$", "points")
    a, b, c = (rng.randrange(100) for _ in range(3))
    return (
        f"{rng.choice(names)} has {a} {rng.choice(things)} and finds {b}. How many are there if {c} get lost?"
    )


def _request(guess: str) -> str:
    return f"<consult:knowledge>Is it {guess}?</consult>"


def _ending(guess: str) -> str:
    return f"So it is \\boxed{{{guess}}}.<|im_end|>"


def _demonstration(words: HFTokenizer, rng: random.Random) -> tuple[list[int], list[bool]]:
    """A conversation, and which of its tokens are the policy's own."""
    assisted, guess = rng.random() < 0.6, rng.choice(GUESSES)
    prompt = policy_prompt("policy.md").render(
        "assisted" if assisted else "solo", question=_question(rng), agents=AGENTS
    )
    pieces = [(words.encode_prompt(prompt), False)]
    if assisted:
        pieces += [
            (words.encode(_request(guess), control=True), True),
            (words.encode("<feedback:knowledge>", control=True), False),
            (words.encode(f"It may be {rng.choice(GUESSES)}."), False),
            (words.encode("</feedback>", control=True), False),
        ]
    pieces.append((words.encode(_ending(guess), control=True), True))
    return [i for ids, _ in pieces for i in ids], [own for ids, own in pieces for _ in ids]


def _fit(model: Qwen2ForCausalLM, words: HFTokenizer) -> None:
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    for step in range(_STEPS):
        rows = [_demonstration(words, rng) for _ in range(_BATCH)]
        ids_B_T = _padded([ids for ids, _ in rows])
        own_B_T = _padded([own for _, own in rows]).bool()
        logits = model(input_ids=ids_B_T[:, :-1], use_cache=False).logits[own_B_T[:, 1:]]
        loss = F.cross_entropy(logits, ids_B_T[:, 1:][own_B_T[:, 1:]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 20) * (1 - step / _STEPS)
        optimizer.step()
        optimizer.zero_grad()


def _padded(lists: Sequence[Sequence[int]]) -> torch.Tensor:
    # Behind everything that is learned, where attention does not look.
    width = max(map(len, lists))
    return torch.tensor([[*values, *[0] * (width - len(values))] for values in lists])
