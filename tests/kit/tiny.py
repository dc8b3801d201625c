"""What the training tests share: a tiny model, a tokenizer, and traces made by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from aipo.method.step_rows import StepRows
from aipo.trace import Consult, Mode, Role, Segment, StopReason, Trace, segment

VOCABULARY = 16
PAD, EOS = 0, 1


def model(seed: int = 0, *, vocabulary: int = VOCABULARY, hidden: int = 16) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
        initializer_range=0.3,  # far from uniform, so that a wrong token shows
    )
    return Qwen2ForCausalLM(config)


def saved(folder: Path, seed: int = 0) -> Qwen2ForCausalLM:
    """A model that knows where its weights are, so that TRL can load a reference model."""
    model(seed).save_pretrained(folder)
    return Qwen2ForCausalLM.from_pretrained(folder)


def tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
    )


def prompt(*ids: int) -> Segment:
    return segment(Role.PROMPT, "task", ids)


def policy(*ids: int, logprobs: Sequence[float] | None = None) -> Segment:
    return segment(Role.POLICY, "policy", ids, logprobs=[-1.0] * len(ids) if logprobs is None else logprobs)


def agent(*ids: int, source: str = "knowledge") -> Segment:
    return segment(Role.AGENT, source, ids)


def env(*ids: int) -> Segment:
    return segment(Role.ENV, "notice", ids)


def consult(asked: int, start: int | None, told: int, **changes: Any) -> Consult:
    made: dict[str, Any] = {"agent": "knowledge", "request": "3@7", "reply": "582"}
    return Consult(request_segment=asked, request_start=start, reply_segment=told, **(made | changes))


def trace(*segments: Segment, **changes: Any) -> Trace:
    made: dict[str, Any] = {
        "trace_id": "t",
        "run_id": "r",
        "group_id": "g",
        "task_id": "q",
        "step": 0,
        "index": 0,
        "mode": Mode.SOLO,
        "task": {},
        "seed": 0,
        "sampling": {},
        "segments": segments,
        "stop_reason": StopReason.EOS,
        "reward": 1.0,
        "advantage": 1.0,
    }
    return Trace(**(made | changes))


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
