"""A reference model as an agent: what it samples it can score, and it needs nothing but its weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.messages import HumanMessage, SystemMessage

from aipo.config.build import load_experiment
from aipo.errors import AgentError, ConfigError
from aipo.policies import Completion, SampleRequest
from aipo.policies.local.policy import LocalPolicy
from aipo.rollout.reference_chat import ReferenceChat, reference
from aipo.util.event_loop import LOOP
from envs.miniature.model import network, tokenizer

MESSAGES = [{"role": "human", "content": "3@7+20=?"}]
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"


def model_folder(folder: Path) -> Path:
    words = tokenizer()
    network(len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> LocalPolicy:
    folder = model_folder(tmp_path_factory.mktemp("start"))
    return load_experiment("aipo_distil", ["policy.dtype=float32", "policy.device=cpu"]).local_policy(folder)


def chat(start: LocalPolicy, **options: Any) -> ReferenceChat:
    return reference(lambda name: start, **options)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_what_it_samples_it_scores_alike(start: LocalPolicy, temperature: float) -> None:
    mine = chat(start, temperature=temperature, max_tokens=12)
    said = LOOP.run(mine.ainvoke([HumanMessage("3@7+20=?")]))
    ids, logprobs = (said.response_metadata[name] for name in ("token_ids", "logprobs"))
    assert start.tokenizer.decode(ids).removesuffix("<eos>") == said.text
    assert said.usage_metadata == {"input_tokens": 8, "output_tokens": len(ids), "total_tokens": 8 + len(ids)}
    np.testing.assert_allclose(LOOP.run(mine.score(MESSAGES, ids)), logprobs, atol=1e-5)


def test_its_log_probs_are_those_of_a_plain_forward_pass(start: LocalPolicy) -> None:
    prompt, ids = start.tokenizer.encode("3@7+20=?"), start.tokenizer.encode("582+")
    with torch.no_grad():
        logits = start.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    expected = (logits / 2).log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
    got = LOOP.run(chat(start, temperature=2.0).score(MESSAGES, ids))
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


def test_the_seed_decides(start: LocalPolicy) -> None:
    texts = [LOOP.run(chat(start, seed=seed).ainvoke([HumanMessage("1+1")])).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_messages_go_through_the_chat_template_where_there_is_one(
    start: LocalPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    sample = start.sample

    async def spy(request: SampleRequest) -> Completion:
        seen.append(request.token_ids.tolist())
        return await sample(request)

    monkeypatch.setattr(start, "sample", spy)
    for template in (None, TEMPLATE):
        monkeypatch.setattr(start.tokenizer.inner, "chat_template", template)
        LOOP.run(chat(start, max_tokens=1).ainvoke([SystemMessage("1"), HumanMessage("2+2")]))
    plain, templated = (start.tokenizer.decode(ids) for ids in seen)
    assert (plain, templated) == ("1\n2+2", "s1u2+2=")


def test_what_does_not_fit_is_refused(start: LocalPolicy) -> None:
    with pytest.raises(AgentError, match=r"tokens to score: got 8 and 999, allowed \d+ together"):
        LOOP.run(chat(start).score(MESSAGES, [30] * 999))


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"max_tokens": 0}])
def test_numbers_out_of_range_are_refused(start: LocalPolicy, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"of a reference model: got 0.*, allowed > 0"):
        chat(start, **options)


def test_weights_are_loaded_when_they_are_needed_and_by_name() -> None:
    asked: list[str | None] = []

    def weights(name: str | None) -> Any:
        asked.append(name)
        raise OSError("gone")

    mine = reference(weights, model="a folder")
    assert asked == []
    with pytest.raises(OSError, match="gone"):
        LOOP.run(mine.ainvoke("?"))
    assert asked == ["a folder"]


def test_the_start_is_trained_once_whoever_asks(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    weights = load_experiment(
        "aipo_distil", [f"policy.model={folder}", "policy.device=cpu"]
    ).reference_weights
    assert weights(None) is weights(None)
    assert not any(p.requires_grad for p in weights(None).model.parameters())
