"""Tiny Qwen2 models with random weights, tokenizers for them, and a source of rows for a trainer."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from aipo.method.loss import LossInputs
from aipo.method.settings import MethodSettings
from aipo.method.step_rows import StepRows
from aipo.policies.tokenizer import HFTokenizer

VOCABULARY = 16
PAD, EOS = 0, 1
SPECIALS = ("<eos>", "<pad>", "<consult:verify>", "</consult>")
CHAT_TAGS = ("<consult:verify>", "<feedback:verify>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# -- networks --------------------------------------------------------------------------------------------


def qwen2(vocabulary: int, seed: int = 0, **changes: Any) -> Qwen2ForCausalLM:
    """Random weights, far from uniform, so that a wrong token or temperature shows."""
    settings = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, **{**settings, **changes}))


def model(seed: int = 0, *, vocabulary: int = VOCABULARY, hidden: int = 16) -> Qwen2ForCausalLM:
    """The network of the training tests."""
    ends = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
    size = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "max_position_embeddings": 512}
    return qwen2(vocabulary, seed, **size, **ends)


def method(**settings: Any) -> MethodSettings:
    """A method whose agents' tokens weigh 1 unless the settings say otherwise; a configuration's default is `mask`."""
    return MethodSettings(**({"coefficient": "constant"} | settings))


def loss_inputs(codes: Sequence[Sequence[int]], logprobs: Tensor, **changes: Any) -> LossInputs:
    """Rows with advantages and denominators of 1, sampled with the weights that are trained."""
    unchanged: dict[str, Any] = {
        "entropies_B_T": torch.zeros_like(logprobs.detach()),
        "behaviour_logprobs_B_T": logprobs.detach(),
        "advantages_B_T": torch.ones(len(codes), 1),
        "denominators_B": torch.ones(len(codes)),
    }
    codes_B_T = torch.tensor(codes, dtype=torch.int8)
    return LossInputs(logprobs_B_T=logprobs, codes_B_T=codes_B_T, **(unchanged | changes))


def saved(folder: Path, seed: int = 0) -> Qwen2ForCausalLM:
    """A model that knows where its weights are, so that TRL can load a reference model."""
    model(seed).save_pretrained(folder)
    return Qwen2ForCausalLM.from_pretrained(folder)


def text_model(vocabulary: int, **changes: Any) -> Qwen2ForCausalLM:
    """The network of the policies' tests, for `text_tokenizer`."""
    size = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    return qwen2(vocabulary, **{**size, **changes}).eval()


def chat_network(tokenizer: HFTokenizer, seed: int = 0) -> Qwen2ForCausalLM:
    """A network of one layer for `chat_tokenizer`."""
    return qwen2(len(tokenizer), seed, num_hidden_layers=1).eval()


# -- tokenizers ------------------------------------------------------------------------------------------


def tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """One id for each of the words w2, w3, ..."""
    ids = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(ids, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
    )


def text_tokenizer() -> HFTokenizer:
    """44 ids, among them tags and tokens of several characters."""
    characters = string.ascii_lowercase + "0123<>/: "
    vocab = {text: i for i, text in enumerate([*characters, "ok", "ok>", "ok>!", "!"])}
    backend = Tokenizer(BPE(vocab, [("o", "k"), ("ok", ">"), ("ok>", "!")]))
    backend.decoder = decoders.Fuse()
    return _with_tags(backend, SPECIALS, ("<tool>",), eos="<eos>", pad="<pad>")


TOOL = [("t", "o"), ("to", "o"), ("too", "l"), ("<", "tool"), ("<tool", ">")]


def byte_tokenizer(merges: Sequence[tuple[str, str]] = TOOL) -> HFTokenizer:
    """As Qwen's: bytes and merges; the merges here lead to a text that is also an added token."""
    return _with_tags(_byte_level(merges=merges), SPECIALS, ("<tool>",), eos="<eos>")


def chat_tokenizer(
    *,
    template: str | None = CHAT_TEMPLATE,
    tags: tuple[str, ...] = (),
    eos: str = "<|im_end|>",
    shift: int = 0,
) -> HFTokenizer:
    """A tokenizer of bytes with a chat template as Qwen's.

    Args:
        tags: strings that are one id each.
        shift: ids that are left out at the beginning, so that all others are different ones.
    """
    specials = ("<|im_start|>", "<|im_end|>", "<|end|>")
    made = _with_tags(_byte_level(shift=shift), specials, tags, eos=eos, pad="<|end|>")
    made.inner.chat_template = template
    return made


def _byte_level(*, shift: int = 0, merges: Sequence[tuple[str, str]] = ()) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [*(f"<unused{i}>" for i in range(shift)), *alphabet, *(a + b for a, b in merges)]
    backend = Tokenizer(BPE({text: i for i, text in enumerate(texts)}, [*merges]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _with_tags(
    backend: Tokenizer, specials: Sequence[str], tags: Sequence[str], *, eos: str, pad: str | None = None
) -> HFTokenizer:
    backend.add_special_tokens([AddedToken(text, special=True) for text in specials])
    backend.add_tokens([AddedToken(text, special=False) for text in tags])
    return HFTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=pad))


# -- rows ------------------------------------------------------------------------------------------------


@dataclass
class Rows:
    """A row source that gives what it was given."""

    steps: Mapping[int, StepRows] | Sequence[StepRows]
    shared: bool = False
    asked: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def rows(self, step: int) -> StepRows:
        self.asked.append(step)
        return self.steps[step % len(self.steps)]

    def updated(self, version: int) -> None:
        self.versions.append(version)
