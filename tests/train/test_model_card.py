"""The card of a checkpoint and of a trained policy says what it is, and its way of loading works."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from aipo.config.build import load_experiment
from aipo.run import RunFolder
from aipo.train.saving import write_card
from aipo.util.files import write_json
from kit import tiny_run
from kit.markdown import SHOWN, WILD, markup


def card_of(folder: Path) -> tuple[dict[str, object], str]:
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def loaded(folder: Path, body: str) -> torch.nn.Module:
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    scope: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        exec(code, scope)
    return scope["model"]  # type: ignore[return-value]


@pytest.mark.parametrize(("words", "library"), [([], "transformers"), (["policy.lora={rank: 2}"], "peft")])
def test_it_says_what_it_is(tmp_path: Path, words: list[str], library: str) -> None:
    run = RunFolder(tiny_run.train(tiny_run.config(tmp_path / "tiny", "train.steps=2", *words)))
    start = tmp_path / "tiny" / "start"
    checkpoint = run.checkpoints / "checkpoint-2"
    head, body = card_of(checkpoint)
    assert head["library_name"] == library
    assert head["pipeline_tag"] == "text-generation"
    for line in (
        "# `run`, checkpoint-2",
        f"| base | `{start}` |",
        "| preset | `mask` |",
        "| rollout steps | 1 of 2 (2 optimizer steps) |",
        "plan `independent`, credit `group`, coefficient `constant`, objective `dapo`",
        "| agents | `verify`, `knowledge`, `reasoning` |",
        "[config.yaml](../../config.yaml)",
    ):
        assert line in body
    assert (checkpoint / "../../config.yaml").is_file()
    for word in ("TRL", "GRPO was introduced", "&#", "Need Help"):
        assert word not in body
    assert not (run.checkpoints / "README.md").exists()
    assert loaded(checkpoint, body).num_parameters() > 0  # type: ignore[operator]

    head, body = card_of(run.model)
    assert head["library_name"] == "transformers"  # an adapter is merged
    assert "| rollout steps | 2 of 2 (4 optimizer steps) |" in body
    assert "[config.yaml](../config.yaml)" in body
    trained = loaded(run.model, body)
    same = AutoModelForCausalLM.from_pretrained(run.model)
    assert torch.equal(trained.lm_head.weight, same.lm_head.weight)  # type: ignore[union-attr]


def test_it_cannot_be_steered(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    write_json(run.manifest, {"model": WILD, "preset": WILD, "packages": {"trl": WILD, WILD: "1"}})
    experiment = load_experiment("aipo_distil")
    experiment.agents[WILD] = experiment.agents["verify"]
    write_card(run.path, run, experiment, 1)
    found = markup(card_of(run.path)[1])
    assert found.html == [] and found.headings == ["`run`, run", "Load it"]
    assert found.links == ["../../config.yaml", "../../manifest.json", "../../metrics.jsonl"]
    # the model, the preset and the agent
    assert (found.code[SHOWN], found.code[f"trl {SHOWN}"], found.code[f"{SHOWN} 1"]) == (3, 1, 1)
