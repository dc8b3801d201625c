"""The command line, run as a user runs it: small, on the real thing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aipo.cli import main
from aipo.run import RunFolder
from aipo.trace.store import TraceStore

SMALL = [
    "policy.options.steps=40",
    "train.tasks_per_step=2",
    "train.group_size=4",
    "train.minibatches=2",
    "train.gradient_accumulation=1",
    "train.save_every=1",
    "rollout.max_tokens=24",
    "run.threads=1",
]


def aipo(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`aipo` in a process of its own, without this checkout on its path unless it is installed."""
    command = [sys.executable, "-m", "aipo.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`aipo` in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["aipo", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def strip_times(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k not in ("step_time", "seconds/rows")} for row in rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps; the two tests that resume copy it."""
    out = tmp_path_factory.mktemp("cli") / "run"
    done = aipo("train", "--config", "aipo", f"run.out={out}", "train.steps=3", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "graphs/consult.py" in done.stdout
    return out


def test_a_run_leaves_what_it_says(trained: Path) -> None:
    folder = RunFolder.open(trained)
    assert {p.name for p in trained.iterdir()} >= {
        "config.yaml",
        "manifest.json",
        "graph.json",
        "metrics.jsonl",
        "traces",
        "checkpoints",
        "model",
    }
    assert [row["step"] for row in folder.read_metrics()] == [1, 2, 3, 4, 5, 6]
    traces = list(TraceStore(folder.traces).read())
    assert len(traces) == 3 * 2 * 4
    assert all(trace.advantage is not None for trace in traces if not trace.failed)
    assert (
        traces[0].fingerprints["graph"]
        == json.loads(folder.manifest.read_text())["files"]["graph"]["fingerprint"]
    )


def test_the_same_seed_gives_the_same_run(trained: Path, tmp_path: Path) -> None:
    done = aipo("train", "--config", "aipo", f"run.out={tmp_path / 'run'}", "train.steps=3", *SMALL)
    assert done.returncode == 0, done.stderr
    assert strip_times(RunFolder(tmp_path / "run").read_metrics()) == strip_times(
        RunFolder(trained).read_metrics()
    )


def test_a_resumed_run_is_an_uninterrupted_one(trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(trained, again)
    shutil.rmtree(again / "checkpoints" / "checkpoint-6")
    shutil.rmtree(again / "checkpoints" / "checkpoint-4")
    shutil.rmtree(again / "model")
    done = aipo("train", "--resume", "--config", str(again / "config.yaml"), f"run.out={again}")
    assert done.returncode == 0, done.stderr
    assert strip_times(RunFolder(again).read_metrics()) == strip_times(RunFolder(trained).read_metrics())
    ids = [trace.trace_id for trace in TraceStore(again / "traces").read()]
    assert len(ids) == len(set(ids)) == 24


def test_eval_writes_pass_at_k(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        "evaluate.splits=[heldout]",
        "evaluate.samples=1",
        "evaluate.ks=[1]",
        "evaluate.settings=[solo]",
    ]
    assert call(monkeypatch, "eval", "--run", str(trained), "--name", "small", *options) == 0
    result = json.loads((trained / "evaluations" / "small.json").read_text())
    assert set(result["heldout"]["solo"]["pass_at"]) == {"1"}
    assert result["heldout"]["solo"]["counts"]["tasks"] == 240
    assert "heldout" in capsys.readouterr().out


def test_a_folder_that_holds_a_run_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(trained.rglob("*"))
    assert call(monkeypatch, "train", "--config", "aipo", f"run.out={trained}") == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert "RunError: run.out: got" in error
    assert "--resume" in error
    assert sorted(trained.rglob("*")) == before


def test_resume_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(monkeypatch, "train", "--resume", "--config", "aipo", f"run.out={tmp_path / 'none'}") == 2
    assert "allowed a folder with a config.yaml of a run" in capsys.readouterr().err.replace("\n", " ")


def test_a_misspelt_key_is_refused_by_name(capsys, monkeypatch) -> None:
    assert call(monkeypatch, "train", "--config", "aipo", "method.coeficient=pi") == 2
    assert "did you mean 'method.coefficient'?" in capsys.readouterr().err.replace("\n", " ")


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "aipo.cli",
        "train",
        "--config",
        "aipo",
        f"run.out={out}",
        "train.steps=500",
    ]
    process = subprocess.Popen(
        [*command, *SMALL],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A background shell ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    folder = RunFolder(out)
    # Waits for an event, not for a time: two steps of metrics are on the disk.
    while process.poll() is None and len(folder.read_metrics()) < 4:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130, error
    assert "finished traces and checkpoints are kept" in error
    traces = list(TraceStore(folder.traces).read())
    assert sum(not trace.failed for trace in traces) >= 2 * 8


def test_graph_prints_the_picture_and_the_files(capsys, monkeypatch) -> None:
    assert call(monkeypatch, "graph", "consult") == 0
    printed = capsys.readouterr().out
    assert "subgraph knowledge" in printed
    assert "graphs/consult.py" in printed


def test_another_graph_has_options_of_its_own(capsys, monkeypatch) -> None:
    assert call(monkeypatch, "graph", "solo") == 0
    assert "graphs/solo.py" in capsys.readouterr().out
    assert call(monkeypatch, "graph", "solo", "graph.options.budget=3") == 2
    assert "got ['budget'], allowed ['prompt']" in capsys.readouterr().err.replace("\n", " ")


def test_the_graph_of_a_configuration_is_the_one_that_is_drawn(tmp_path: Path, capsys, monkeypatch) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(
        "policy: {model: none}\ngraph: {name: 'graphs.solo:solo', options: {prompt: miniature.md}}\n"
    )
    for arguments in ([], ["solo"], ["run.seed=1"]):
        assert call(monkeypatch, "graph", "--config", str(file), *arguments) == 0
        printed = capsys.readouterr().out
        assert "graphs/solo.py" in printed and "prompts/miniature.md" in printed


def test_an_edited_prompt_in_the_working_directory_is_used(tmp_path: Path) -> None:
    assert aipo("init", ".", cwd=tmp_path).returncode == 0
    prompt = tmp_path / "graphs" / "prompts" / "miniature.md"
    prompt.write_text(prompt.read_text().replace("{{ question }}", "{{ question }}#"))
    options = [*SMALL, "train.steps=1", "train.save_every=null", "run.out=runs/edited"]
    done = aipo("train", "--config", "aipo", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs/edited/manifest.json").read_text())
    assert manifest["files"]["prompts.miniature"]["file"] == str(prompt.resolve())
    first = next(iter(TraceStore(tmp_path / "runs/edited/traces").read()))
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tmp_path / "runs/edited/model")
    assert words.decode(first.segments[0].token_ids).endswith("=?\n#")


def test_init_into_a_place_that_cannot_be_made(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    assert call(monkeypatch, "init", str(tmp_path / "file")) == 2
    assert "allowed a folder that can be written" in capsys.readouterr().err.replace("\n", " ")


def test_a_demo_without_arms_is_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    assert call(monkeypatch, "demo", "--out", str(tmp_path / "demo"), "--arms", "") == 2
    assert "--arms: got ''" in capsys.readouterr().err.replace("\n", " ")


def test_init_does_not_overwrite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "graphs").mkdir()
    assert call(monkeypatch, "init", str(tmp_path)) == 2
    assert "exists already" in capsys.readouterr().err.replace("\n", " ")
    assert os.listdir(tmp_path) == ["graphs"]
