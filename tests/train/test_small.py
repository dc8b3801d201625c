"""The preset `small`: somebody's own chat model and questions, in this process, with the model itself as its agents."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.doctor.run import diagnose
from aipo.run import RunFolder
from aipo.trace import Mode
from aipo.trace.store import TraceStore
from aipo.train.run import train_run
from kit.tiny import chat_tokenizer, qwen2

FEW = [
    "train={steps: 1, tasks_per_step: 2, group_size: 2, gradient_accumulation: 1, learning_rate: 1.0e-3}",
    "rollout.max_tokens=12",
    "run.threads=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that has learned nothing, and two questions."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = chat_tokenizer()
    # Room for the prompt that ships, one id for each byte; a few ids more than the tokenizer has, as real models.
    qwen2(264, num_hidden_layers=1, max_position_embeddings=4096).save_pretrained(folder / "mine")
    tokenizer.inner.save_pretrained(folder / "mine")
    rows = [{"question": "What is 1+1?", "answer": "2"}, {"question": "What is 2+3?", "answer": "5"}]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def experiment(preset: str, folder: Path, *overrides: str) -> Experiment:
    questions = f"env.options.splits={{train: {folder / 'mine.jsonl'}, test: {folder / 'mine.jsonl'}}}"
    return load_experiment(
        preset,
        [f"policy.model={folder / 'mine'}", "env.name=envs.math:Math", questions, *overrides],
    )


def test_it_trains_on_questions_of_a_file(folder: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    mine = experiment("small", folder, *FEW, f"run.out={tmp_path / 'run'}")
    train_run(mine, resume=False, evaluate_after=False, console=Console(file=out, width=200))
    run = RunFolder(tmp_path / "run")
    traces = list(TraceStore(run.traces).read())
    assert sorted(trace.mode for trace in traces) == [*[Mode.ASSISTED] * 2, *[Mode.SOLO] * 2]
    assert not [trace.error for trace in traces if trace.failed]
    assert (run.model / "model.safetensors").is_file() and "warning:" not in out.getvalue()


def test_the_doctor_is_content_with_it_and_not_with_the_presets_of_the_miniature(
    folder: Path, tmp_path: Path
) -> None:
    few = [*FEW, f"run.out={tmp_path / 'run'}"]
    small = [
        check for check in diagnose(experiment("small", folder, *few), quick=True) if check.status != "ok"
    ]
    assert small == []
    of_miniature = ["env.mixture={train: 1}", "evaluate.splits=[test]", "evaluate.settings=[solo]", *few]
    wrong = diagnose(
        experiment("aipo_distil", folder, *of_miniature, "method.distil_suppress=false"), quick=True
    )
    assert [(check.status, check.what) for check in wrong if check.status != "ok"] == [
        ("warn", "agents"),
        ("warn", "policy prompt"),
    ]


def test_training_warns_before_it_begins(folder: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    mine = experiment("small", folder, *FEW, f"run.out={tmp_path / 'run'}", "train.learning_rate=1.0e-6")
    train_run(mine, resume=False, evaluate_after=False, console=Console(file=out, width=200))
    [line] = [line for line in out.getvalue().splitlines() if line.startswith("warning: ")]
    assert line.startswith("warning: learning rate: 1e-06; usual are 1e-05 to 0.01 for all weights of ")
