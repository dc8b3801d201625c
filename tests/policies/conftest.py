"""The tiny model and its tokenizer, shared by the tests of this room."""

import pytest
from transformers import Qwen2ForCausalLM

from aipo.policies.tokenizer import HFTokenizer
from kit.tiny_qwen2 import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> HFTokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: HFTokenizer) -> Qwen2ForCausalLM:
    return tiny_model(len(tokenizer))
