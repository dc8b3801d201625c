"""What is seen to be wrong with a model's folder before anything is loaded."""

import json
from pathlib import Path

import pytest

from aipo.config.build import load_experiment
from aipo.errors import LoadError
from aipo.policies.model_folder import flaw_of
from kit import tiny
from kit.tiny_run import model_folder

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
WHOLE = {"config.json": b"{}", "model.safetensors": b"\x08\0\0\0\0\0\0\0{}"}
ADAPTER = b'{"base_model_name_or_path": "far/base"}'


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (WHOLE, None),
        (WHOLE | {"model.safetensors": POINTER}, "in which model.safetensors is a pointer of git-lfs"),
        (WHOLE | {"tokenizer.json": POINTER}, "in which tokenizer.json is a pointer of git-lfs"),
        ({"adapter_config.json": ADAPTER}, "which holds an adapter of 'far/base', allowed whole weights"),
        ({"m.gguf": b"GGUF"}, "which has no config.json but m.gguf, allowed a folder"),
        ({}, "which has no config.json, allowed a folder as `save_pretrained` writes it"),
        ({"model/config.json": b"{}"}, "which has no config.json, allowed "),
        ({"config.json": b"{}"}, "which has no weights, allowed a folder"),
        (WHOLE | {"manifest.json": b"{"}, "which is not whole (manifest.json cannot be read"),
    ],
)
def test_a_folder_is_told_what_it_lacks(tmp_path: Path, files: dict[str, bytes], says: str | None) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    flaw = flaw_of(tmp_path, hashes=True)
    assert flaw is None if says is None else (flaw or "").startswith(says)


def test_a_file_is_no_folder_and_a_name_of_the_hub_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert str(flaw_of(tmp_path / "m.gguf", hashes=False)).startswith("which is a file, allowed a folder")
    assert flaw_of("far/model", hashes=False) is None


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    """transformers would give a network random numbers where its weights are missing, and train it."""
    model = model_folder(tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(
        LoadError, match=r"whose files lack \d+ weights of BertLMHeadModel such as .*, allowed all weights"
    ):
        load_experiment("aipo_distil", [f"policy.model={model}"]).network(model)


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny.saved(tmp_path)
    with pytest.raises(
        LoadError, match=r"tokenizer of '.*': got no vocabulary, .*is tokenizer\.json there\?"
    ):
        load_experiment("aipo_distil").tokenizer(tmp_path)


@pytest.mark.parametrize("template", ["{% for", "{{ raise_exception('no user') }}"])
def test_a_chat_template_that_fails_is_refused(tmp_path: Path, template: str) -> None:
    tiny.chat_tokenizer(template=template).inner.save_pretrained(tmp_path)
    with pytest.raises(
        LoadError, match=r"chat template of '.*': got Template.*Error: .*allowed one that takes a user's"
    ):
        load_experiment("aipo_distil").tokenizer(tmp_path)


def test_a_folder_that_is_gone_can_be_made_again(tmp_path: Path) -> None:
    """As the copy in a user's cache that a run began with."""
    gone, small = tmp_path / "gone", load_experiment("small", [f"policy.model={tmp_path}"])
    for load in (small.tokenizer, small.network, small.network_settings):
        with pytest.raises(
            LoadError, match=r"gone', which is not there, .* `aipo model --config RUN/config\.yaml`"
        ):
            load(gone)
