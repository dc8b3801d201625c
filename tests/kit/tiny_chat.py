"""A tokenizer of bytes with a chat template as Qwen's, and a tiny network for it."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from aipo.policies.tokenizer import HFTokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGS = ("<consult:verify>", "<feedback:verify>")


def chat_tokenizer(
    *, template: str | None = TEMPLATE, tags: tuple[str, ...] = (), eos: str = "<|im_end|>", shift: int = 0
) -> HFTokenizer:
    """The tokenizer.

    Args:
        tags: strings that are one id each.
        shift: ids that are left out at the beginning, so that all others are different ones.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [*(f"<unused{i}>" for i in range(shift)), *alphabet]
    backend = Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>", "<|end|>")]
    )
    backend.add_tokens([AddedToken(t, special=False) for t in tags])
    inner = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token="<|end|>")
    inner.chat_template = template
    return HFTokenizer(inner)


def tiny_network(tokenizer: HFTokenizer, seed: int = 0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.3,  # far from uniform, so that temperature shows
    )
    return Qwen2ForCausalLM(config).eval()
