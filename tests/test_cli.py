"""The command line, run as a user runs it: small, on the real thing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from aipo.cli import main
from aipo.run import RunFolder
from aipo.trace.store import TraceStore
from kit.commands import aipo

SMALL = [
    *("policy.options.steps=40", "train.tasks_per_step=2", "train.group_size=4", "train.minibatches=2"),
    "train.passes=1",
    *("train.gradient_accumulation=1", "train.save_every=1", "rollout.max_tokens=24", "run.threads=1"),
]


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """`aipo` in this process: its exit code, and what it prints, in one line."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["aipo", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), (captured.out + captured.err).replace("\n", " ")

    return run


def timeless(run: Path) -> list[dict[str, object]]:
    """Its metrics, but for what depends on the hour."""
    times = ("step_time", "seconds/rows")
    return [{k: v for k, v in row.items() if k not in times} for row in RunFolder(run).read_metrics()]


def small_run(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = aipo("train", *options, "--config", "aipo_distil", f"run.out={out}", "train.steps=3", *SMALL)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps; the two tests that resume copy it."""
    out = tmp_path_factory.mktemp("cli") / "run"
    said = small_run(out).stdout
    assert "graphs/consult.py" in said
    steps = re.findall(r"^train +(\d) of 3  solo \d\.\d\d .*active_share \d\.\d\d", said, re.MULTILINE)
    assert steps == ["1", "2", "3"]  # one line for each, without a terminal
    return out


def test_a_run_leaves_what_it_says(trained: Path) -> None:
    folder = RunFolder.open(trained)
    files = {"config.yaml", "manifest.json", "graph.json", "metrics.jsonl", "ended.json"}
    assert json.loads(folder.ended.read_text()) == {"state": "finished", "reason": ""}
    assert folder.read_manifest()["preset"] == "aipo_distil"
    assert {p.name for p in trained.iterdir()} >= files | {"traces", "checkpoints", "model"}
    assert [row["step"] for row in folder.read_metrics()] == [1, 2, 3, 4, 5, 6]
    traces = list(TraceStore(folder.traces).read())
    assert len(traces) == 3 * 2 * 4
    assert all(trace.advantage is not None for trace in traces if not trace.failed)
    files = json.loads(folder.manifest.read_text())["files"]
    assert traces[0].fingerprints["graph"] == files["graph"]["fingerprint"]


def test_the_same_seed_gives_the_same_run(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    events = [json.loads(line) for line in small_run(run, "--json").stdout.splitlines()]
    assert timeless(run) == timeless(trained)
    # Standard output held events and nothing else.
    first, last = events[0], events[-1]
    assert first["event"] == "step" and first["stage"] == "cold start"
    assert {"event": "started", "command": "train", "run": str(run), "steps": 3} in events
    assert [(one["step"], one["steps"]) for one in events if one.get("stage") == "train"] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    rewards = [row["reward/solo"] for row in RunFolder(run).read_metrics() if "reward/solo" in row]
    assert [one["metrics"]["reward/solo"] for one in events if one.get("stage") == "train"] == rewards
    saved = [(one["step"], Path(one["folder"]).name) for one in events if one["event"] == "checkpoint"]
    assert saved == [(1, "checkpoint-2"), (2, "checkpoint-4"), (3, "checkpoint-6")]
    assert last == {"event": "finished", "command": "train", "run": str(run), "model": str(run / "model")}


def test_a_resumed_run_is_an_uninterrupted_one(trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(trained, again)
    for folder in ("checkpoints/checkpoint-6", "checkpoints/checkpoint-4", "model"):
        shutil.rmtree(again / folder)
    done = aipo("train", "--resume", "--config", str(again / "config.yaml"), f"run.out={again}")
    assert done.returncode == 0, done.stderr
    assert timeless(again) == timeless(trained)
    ids = [trace.trace_id for trace in TraceStore(again / "traces").read()]
    assert len(ids) == len(set(ids)) == 24


def test_eval_writes_pass_at_k(trained: Path) -> None:
    options = [f"evaluate.{word}" for word in ("splits=[heldout]", "samples=1", "ks=[1]", "settings=[solo]")]
    done = aipo("eval", "--json", "--run", str(trained), "--name", "small", *options)
    assert done.returncode == 0 and "heldout" in done.stderr
    file = trained / "evaluations" / "small.json"
    result = json.loads(file.read_text())
    started, *steps, measured, last = map(json.loads, done.stdout.splitlines())
    assert started == {"event": "started", "command": "eval", "file": str(file)}
    assert [(one["step"], one["steps"]) for one in steps] == [(n, 240) for n in range(12, 241, 12)]
    assert measured == {"event": "evaluation", "file": str(file), "results": result}
    assert last == {"event": "finished", "command": "eval", "file": str(file), "results": result}
    assert set(result["heldout"]["solo"]["pass_at"]) == {"1"}
    assert result["heldout"]["solo"]["counts"]["tasks"] == 240


def test_a_folder_that_holds_a_run_is_refused(trained: Path, call) -> None:
    before = sorted(trained.rglob("*"))
    code, printed = call("train", "--config", "aipo_distil", f"run.out={trained}")
    assert code == 2 and "RunError: run.out: got" in printed and "--resume" in printed
    assert sorted(trained.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train --resume --config aipo_distil run.out=none", "allowed a folder with a config.yaml of a run"),
        ("train --config aipo_distil method.coeficient=pi", "did you mean 'method.coefficient'?"),
        ("init file", "allowed a folder that can be written"),
        ("init folder", "exists already"),
        ("demo --out demo --arms ,", "--arms: got ''"),
        *(
            (f"replay {question} folder step=3..7", "which --steps 3..7 chooses")
            for question in ("credit", "loss", "train")
        ),
        ("graph solo graph.options.budget=3", "got ['budget'], allowed ["),
    ],
)
def test_what_is_refused_is_one_message(
    tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch, arguments: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the working directory does not stay on it
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder" / "graphs").mkdir(parents=True)
    code, printed = call(*arguments.split())
    assert code == 2 and says in printed
    assert os.listdir("folder") == ["graphs"]


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "aipo.cli",
            "train",
            "--config",
            "aipo_distil",
            f"run.out={out}",
            "train.steps=500",
            *SMALL,
        ],
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
    assert json.loads(folder.ended.read_text()) == {"state": "stopped", "reason": "interrupted (Ctrl-C)"}


def test_graph_prints_the_picture_and_the_files(call) -> None:
    for name in ("consult", "solo"):  # another graph has options of its own
        code, printed = call("graph", name)
        assert code == 0 and f"graphs/{name}.py" in printed
        assert ("subgraph knowledge" in printed) == (name == "consult")


def test_the_graph_of_a_configuration_is_the_one_that_is_drawn(tmp_path: Path, call) -> None:
    file = tmp_path / "my.yaml"
    graph = "graph: {name: 'graphs.solo:solo', options: {prompt: miniature.md}}\n"
    file.write_text("policy: {model: none}\n" + graph)
    for arguments in ([], ["solo"], ["run.seed=1"]):
        code, printed = call("graph", "--config", str(file), *arguments)
        assert code == 0 and "graphs/solo.py" in printed and "prompts/miniature.md" in printed


def test_an_edited_prompt_in_the_working_directory_is_used(tmp_path: Path) -> None:
    assert aipo("init", ".", cwd=tmp_path).returncode == 0
    prompt = tmp_path / "graphs" / "prompts" / "miniature.md"
    prompt.write_text(prompt.read_text().replace("{{ question }}", "{{ question }}#"))
    options = [*SMALL, "train.steps=1", "train.save_every=null", "run.out=runs/edited"]
    done = aipo("train", "--config", "aipo_distil", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs/edited/manifest.json").read_text())
    assert manifest["files"]["prompts.miniature"]["file"] == str(prompt.resolve())
    first = next(iter(TraceStore(tmp_path / "runs/edited/traces").read()))
    words = AutoTokenizer.from_pretrained(tmp_path / "runs/edited/model")
    assert words.decode(first.segments[0].token_ids).endswith("=?\n#")


ENVIRONMENT = """
import asyncio
import sys
import threading
import time

{first}


class Mine:
    def __init__(self):
        {then}

    def splits(self):
        return ()

    def tasks(self, split):
        return []

    async def score(self, task, answer):
        return {{}}
"""


@pytest.mark.parametrize(
    ("first", "then", "says"),
    [
        ("sys.exit(3)", "pass", "importing '{file}': got sys.exit(3), allowed code that runs, in {file}:7"),
        ("", "sys.exit(3)", "got sys.exit(3), allowed code that runs, in {file}:12"),
    ],
)
def test_code_that_exits_as_it_is_loaded_is_named(
    call: Callable[..., tuple[int, str]], tmp_path: Path, first: str, then: str, says: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ENVIRONMENT.format(first=first, then=then))
    code, said = call("env", f"{file}:Mine")
    assert code == 2 and says.format(file=file) in said


def test_shells_complete_its_commands() -> None:
    code = "import sys; sys.argv = ['aipo']; from aipo.cli import main; main()"
    asked = {"_AIPO_COMPLETE": "complete_bash", "COMP_WORDS": "aipo tr", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), done.stderr, done.returncode) == (["train", "try", "traces"], "", 0)


@pytest.mark.parametrize(
    ("then", "names"),
    [
        ("threading.Thread(target=time.sleep, args=[9e9], name='mine').start()", "mine"),
        ("asyncio.new_event_loop().run_in_executor(None, time.sleep, 9e9)", "asyncio_0"),
    ],
)
def test_a_thread_that_somebody_leaves_running_does_not_keep_the_command(
    tmp_path: Path, then: str, names: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ENVIRONMENT.format(first="", then=then))
    code = (
        "from aipo.util import termination\n"
        "termination.end_in_time.__kwdefaults__['grace_s'] = 0.1\n"
        "from aipo.cli import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "env", f"{file}:Mine", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0 and json.loads(done.stdout)
    assert done.stderr.splitlines()[-1] == f"ended, though these threads go on: {names}"
