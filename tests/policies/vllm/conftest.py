"""Servers that stop with their test, and a push of weights to one of them."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, Qwen2ForCausalLM

from aipo.policies.tokenizer import HFTokenizer
from kit.servers import serving
from kit.tiny_vllm import Reloading, Synced, copy_of, pushing


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def network(tmp_path: Path, model: Qwen2ForCausalLM) -> PreTrainedModel:
    """The trainer's network: a copy, to be changed."""
    return copy_of(model, tmp_path)


@pytest.fixture
def synced(
    stack: ExitStack,
    network: PreTrainedModel,
    model: Qwen2ForCausalLM,
    tokenizer: HFTokenizer,
    tmp_path: Path,
) -> Synced:
    """Starts a server of the given kind with the first weights; gives it, the push to it, and the policy."""

    def start(kind: type[Reloading] = Reloading, *, tolerance: float = 1e-3, **options: Any) -> Any:
        server = kind(copy_of(model, tmp_path / "theirs"), **options)
        url = stack.enter_context(serving(server.app))
        return server, *pushing(stack, network, tokenizer, tmp_path, url, tolerance=tolerance)

    return start
