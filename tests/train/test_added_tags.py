"""`policy.add_tags`: a model whose tokenizer cuts tags into pieces is trained with one token for each tag."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from aipo.config.build import Experiment, load_experiment
from aipo.doctor.run import diagnose
from aipo.errors import ConfigError
from aipo.run import RunFolder
from aipo.trace.store import TraceStore
from aipo.train.checkpoints import checkpoints
from aipo.train.run import train_run
from kit.recorded import replayed_losses
from kit.tiny import chat_tokenizer, qwen2

TAGS = [
    *("<consult:verify>", "<consult:knowledge>", "</consult>"),
    *("<feedback:verify>", "<feedback:knowledge>", "</feedback>", "<notice>", "</notice>"),
]
FEW = [
    "train={steps: 2, save_every: 1, tasks_per_step: 2, group_size: 4, gradient_accumulation: 1, learning_rate: 1.0e-2}",
    *("env.mixture={train: 1}", "evaluate.splits=[test]", "rollout.max_tokens=12", "run.threads=1"),
    *("rollout.reward_weights={length: 1.0}", "agents.reasoning=null"),
]
CODE = '''
from envs.math import Math

class Length(Math):
    """Rewards an even number of characters, which random weights write, too."""
    def score(self, task, text):
        return {"length": float(len(text) % 2 == 0)}
'''
SUPPRESSED = ["method.suppress_share=0.25", "method.distil_suppress=true", "policy.add_tags=true"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that has learned nothing, and two questions."""
    folder = tmp_path_factory.mktemp("tags")
    # Room for the prompt that ships, and for four of the eight tags.
    qwen2(264, num_hidden_layers=1, max_position_embeddings=4096).save_pretrained(folder / "mine")
    chat_tokenizer().inner.save_pretrained(folder / "mine")
    rows = [{"question": "What is 1+1?", "answer": "2"}, {"question": "What is 2+3?", "answer": "5"}]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "mine.py").write_text(CODE)
    return folder


def experiment(folder: Path, *overrides: str) -> Experiment:
    questions = f"env.options.splits={{train: {folder / 'mine.jsonl'}, test: {folder / 'mine.jsonl'}}}"
    env = f"env.name={folder / 'mine.py'}:Length"
    return load_experiment("small", [f"policy.model={folder / 'mine'}", env, questions, *FEW, *overrides])


@pytest.fixture(scope="module")
def trained(folder: Path) -> RunFolder:
    run = experiment(folder, *SUPPRESSED, f"run.out={folder / 'run'}")
    train_run(run, resume=False, evaluate_after=False, console=Console(file=io.StringIO()))
    return RunFolder(folder / "run")


def weights(model: Path | str) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(model).state_dict()


def test_without_it_suppression_is_refused_and_the_option_is_named(folder: Path) -> None:
    off = experiment(folder, *SUPPRESSED, "policy.add_tags=false")
    with pytest.raises(ConfigError, match=r"cuts into several tokens, .*policy\.add_tags=true makes them so"):
        off.check_model()
    experiment(folder, *SUPPRESSED).check_model()


def test_everything_of_a_run_has_the_tags(folder: Path, trained: RunFolder) -> None:
    again = experiment(folder, *SUPPRESSED, f"policy.model={trained.model}")
    assert again.added_tags == TAGS
    assert again.build_model() == str(trained.model)  # the option may stay on
    tokenizer = again.tokenizer(trained.model)
    ids = [tokenizer.token_id(tag) for tag in TAGS]
    assert ids == list(range(260, 268))
    traces = list(TraceStore(trained.traces).read())
    assert not [trace.error for trace in traces if trace.failed]
    assert {trace.forbidden_ids for trace in traces} == {(), (260, 261, 263, 264)}
    start, end = weights(trained.read_manifest()["model"]), weights(trained.model)
    assert start["lm_head.weight"].shape == (268, 16)
    moved = (start["lm_head.weight"] != end["lm_head.weight"]).any(1)
    assert moved[ids].all()


def test_the_loss_is_replayed_with_them(trained: RunFolder, tmp_path: Path) -> None:
    gaps = [
        abs(o["loss"] - o["online"]["loss"])
        for o in replayed_losses(trained.path, tmp_path / "out")
        if o["online"]
    ]
    assert len(gaps) == 2 and max(gaps) < 1e-6


def test_a_replay_from_other_weights_has_them(folder: Path, trained: RunFolder, tmp_path: Path) -> None:
    """And its losses are those of the run, whose first weights these are."""
    other = {"checkpoint": "start", "overrides": [f"policy.model={folder / 'mine'}"]}
    losses = replayed_losses(trained.path, tmp_path / "out", **other)
    assert abs(losses[0]["loss"] - losses[0]["online"]["loss"]) < 1e-6


def test_the_card_says_what_the_base_is(folder: Path, trained: RunFolder) -> None:
    card = (trained.model / "README.md").read_text()
    assert f"`{folder / 'mine'}`, with the graph's tags as tokens |" in card


def test_it_goes_on_from_a_checkpoint(folder: Path, trained: RunFolder) -> None:
    copy = RunFolder(folder / "copy")
    shutil.copytree(trained.path, copy.path)
    before = weights(copy.model)
    shutil.rmtree(copy.model)
    *_, last = checkpoints(copy)
    shutil.rmtree(last.path)
    run = experiment(folder, *SUPPRESSED, f"run.out={copy.path}")
    train_run(run, resume=True, evaluate_after=False, console=Console(file=io.StringIO()))
    after = weights(copy.model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_doctor_checks_what_will_run(folder: Path) -> None:
    made = list(diagnose(experiment(folder, *SUPPRESSED), quick=True))
    assert [check for check in made if check.status == "fail"] == []
    [tags] = [check for check in made if check.what == "tags"]
    assert "<consult:verify> (1)" in tags.found
    off = experiment(folder, *SUPPRESSED, "policy.add_tags=false")
    [tags] = [check for check in diagnose(off, quick=True) if check.what == "tags"]
    assert tags.status == "fail" and "policy.add_tags=true" in tags.found


@pytest.mark.parametrize("vocabulary", ["small", "large"])
def test_beside_an_adapter_their_rows_are_trained(
    folder: Path, tmp_path: Path, vocabulary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if vocabulary == "large":  # TRL's head would be used, which does not know the one that peft wraps
        monkeypatch.setattr("aipo.train.trainer._DENSE_LOGITS", 0)
    lora = experiment(folder, *SUPPRESSED, "policy.lora={rank: 2}", f"run.out={tmp_path / 'run'}")
    train_run(lora, resume=False, evaluate_after=False, console=Console(file=io.StringIO()))
    run = RunFolder(tmp_path / "run")
    start, end = weights(run.read_manifest()["model"]), weights(run.model)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        moved = (start[name] != end[name]).any(1)
        assert not moved[:260].any() and moved[260:].all() == (name == "lm_head.weight"), name
    losses = [o for o in replayed_losses(run.path, tmp_path / "out") if o["online"]]
    assert len(losses) == 2
    assert max(abs(o["loss"] - o["online"]["loss"]) for o in losses) < 1e-6


def test_a_graph_has_to_say_its_tags(folder: Path) -> None:
    (folder / "own.py").write_text(
        "from graphs import consult\n\ndef own(*, agents): return consult(agents=agents)\n"
    )
    own = experiment(folder, *SUPPRESSED, f"graph={{name: {folder / 'own.py'}:own}}")
    with pytest.raises(
        ConfigError, match=r"own, which does not say its tags, allowed a function with an attribute"
    ):
        own.check_model()
    (folder / "maker.py").write_text("def maker(): raise AssertionError('a model is made')\n")
    made = experiment(
        folder,
        *SUPPRESSED,
        f"graph={{name: {folder / 'own.py'}:own}}",
        f"policy.model={folder / 'maker.py'}:maker",
    )
    with pytest.raises(ConfigError, match="which does not say its tags"):  # before minutes go into its model
        made.check_model()


def test_tags_of_the_graphs_own_grammar(folder: Path) -> None:
    grammar = "graph.options.grammar={open: '<ask:{agent}>', close: '</ask>'}"
    made = experiment(folder, "policy.add_tags=true", grammar, "agents.knowledge=null")
    assert made.added_tags == [
        *("<ask:verify>", "</ask>", "<feedback:verify>", "</feedback>", "<notice>", "</notice>"),
        "<consult:verify>",  # rollout.suppress_tags still names it
    ]
    assert (
        experiment(folder, "policy.add_tags=true", "agents.verify=null", "agents.knowledge=null").added_tags
        == []
    )
