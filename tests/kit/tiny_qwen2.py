"""A tiny Qwen2 and a tokenizer for it: 44 ids, among them tags and tokens of several characters."""

import string

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from aipo.policies.tokenizer import HFTokenizer

SPECIALS = ("<eos>", "<pad>", "<consult:verify>", "</consult>")


def tiny_tokenizer() -> HFTokenizer:
    characters = string.ascii_lowercase + "0123<>/: "
    vocab = {text: i for i, text in enumerate([*characters, "ok", "ok>", "ok>!", "!"])}
    backend = Tokenizer(models.BPE(vocab, [("o", "k"), ("ok", ">"), ("ok>", "!")]))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(t, special=True) for t in SPECIALS])
    backend.add_tokens([AddedToken("<tool>", special=False)])
    return HFTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    )


def byte_tokenizer() -> HFTokenizer:
    """As Qwen's: bytes and merges; the merges here lead to a text that is also an added token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "o"), ("to", "o"), ("too", "l"), ("<", "tool"), ("<tool", ">")]
    vocab = {text: i for i, text in enumerate([*alphabet, *(a + b for a, b in merges)])}
    backend = Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in SPECIALS])
    backend.add_tokens([AddedToken("<tool>", special=False)])
    return HFTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>"))


def tiny_model(vocabulary: int, **changes) -> Qwen2ForCausalLM:
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
        **changes,
    }
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**settings)).eval()
