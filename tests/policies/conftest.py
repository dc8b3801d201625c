"""The tiny model and its tokenizer, shared by the tests of this room."""

import pytest
from transformers import Qwen2ForCausalLM

from aipo.policies.tokenizer import HFTokenizer
from kit.tiny import text_model, text_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> HFTokenizer:
    return text_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: HFTokenizer) -> Qwen2ForCausalLM:
    return text_model(len(tokenizer))
