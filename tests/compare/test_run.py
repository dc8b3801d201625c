"""The whole command on policies that learn next to nothing: what is left, what goes on, what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from aipo.compare import jobs
from aipo.compare import run as compare
from aipo.compare.jobs import Job
from aipo.compare.matrix import Matrix, read_matrix
from aipo.config.load import load_config
from aipo.errors import ConfigError, RunError, TrainError
from aipo.run import RunFolder
from aipo.trace.store import TraceStore
from aipo.util.files import busy, exclusive
from aipo.util.output import EventConsole
from kit.matrices import finish_all, matrix_file

SMALL = """
  - run.threads=1
  - policy.options.steps=30
  - train.tasks_per_step=2
  - train.group_size=4
  - train.minibatches=1
  - train.passes=1
  - train.gradient_accumulation=1
  - train.save_every=1
  - rollout.max_tokens=16
  - evaluate.samples=1
  - evaluate.ks=[1]
  - evaluate.settings=[solo]
"""
GRPO = "grpo: {config: grpo, set: [train.steps=2]}"
TWICE = "twice: {stages: [{config: mask, set: [train.steps=1]}, {config: grpo, set: [train.steps=2]}]}"
BROKEN = "broken: {config: aipo, set: [train.steps=1, 'env.mixture={nowhere: 1.0}']}"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (compare, jobs):
        monkeypatch.setattr(module, "POLL_S", 0.05)


def write(folder: Path, *arms: str, seeds: str = "[3]", reference: str = "grpo") -> Path:
    names = "\n".join(f"  {arm}" for arm in arms)
    return matrix_file(folder, f"seeds: {seeds}\nset:{SMALL}reference: {reference}\narms:\n{names}\n")


def run(file: Path, *, report: bool = False) -> tuple[bool, str]:
    console = Console(record=True, width=160, force_terminal=False)
    whole = compare.compare(file, at_once=2, report_only=report, console=console)
    return whole, console.export_text()


def test_a_matrix_is_run_kept_and_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out"

    # A failing arm is told, and the others go on.
    whole, text = run(write(tmp_path, GRPO, BROKEN))
    assert not whole
    assert "broken 3 failed, see" in text and "missing   broken 3: not begun; last said: ConfigError" in text
    assert "nowhere" in text
    said = json.loads((out / "summary.json").read_text())
    assert [(one["arm"], one["seed"]) for one in said["missing"]] == [("broken", 3)]
    assert said["winner"] is None and set(said["arms"]) == {"before", "grpo"}
    # What it leaves are runs like any other.
    assert {path.name for path in (out / "grpo" / "3").iterdir()} >= {"config.yaml", "manifest.json", "model"}
    assert len(list(TraceStore(out / "grpo" / "3" / "traces").read())) == 2 * 2 * 4
    assert "grpo,3,heldout,solo,1," in (out / "results.csv").read_text()

    # A file that says otherwise than what has finished is refused; nothing is touched.
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    says = r"out/grpo/3: got train\.steps: 3, was 2(?s:.*)Allowed: the settings"
    with pytest.raises(ConfigError, match=says):
        run(write(tmp_path, GRPO.replace("2", "3"), BROKEN))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == kept

    # One goes, another one joins, and one was killed while it was evaluated: it goes on from its last checkpoint and
    # comes to the same. What has finished stays as it is.
    measured, before = (out / "grpo/3/evaluations/after.json", out / "before/3/evaluations/before.json")
    was = json.loads(measured.read_text())
    measured.unlink()
    whole, text = run(write(tmp_path, GRPO, TWICE))
    assert whole and "missing" not in text
    assert json.loads(measured.read_text()) == was and "from checkpoint-2" in (out / "grpo/3.log").read_text()
    assert before.stat().st_mtime_ns == kept[before]
    assert load_config(str(out / "twice/3/config.yaml")).policy.model == str(out / "twice/3.1/model")

    # The results only, from what is there; the last event has them.
    (out / "report.html").unlink()
    console = EventConsole(StringIO())
    assert compare.compare(write(tmp_path, GRPO, TWICE), at_once=2, report_only=True, console=console)
    started, last = map(json.loads, console.stdout.getvalue().splitlines())
    assert (out / "report.html").is_file()
    assert started == {"event": "started", "command": "compare", "out": str(out)}
    summary = json.loads((out / "summary.json").read_text())
    assert last == {"event": "finished", "command": "compare", "out": str(out), "summary": summary}


def test_a_warm_up_is_run_once_for_all_arms(tmp_path: Path) -> None:
    out, file = tmp_path / "out", write(tmp_path, GRPO)
    silent = "policy.options.course=silent, warmup.steps=1, warmup.demonstrations=10, warmup.batch=10, warmup.probes=2"
    file.write_text(f"warmup: {{config: aipo_distil, set: [{silent}]}}\n" + file.read_text())
    whole, _ = run(file)
    warm = RunFolder(out / "warmup" / "3")
    assert whole and set(warm.read_warmup()) == {"before", "after"}
    for name in ("grpo/3/config.yaml", "before/3.yaml"):
        assert load_config(str(out / name)).policy.model == str(warm.model)
    written = warm.config.stat().st_mtime_ns
    shutil.rmtree(out / "grpo" / "3")
    assert run(file)[0] and warm.config.stat().st_mtime_ns == written

    # Where the only one fails, nothing can start.
    file.write_text(
        file.read_text().replace("warmup.steps=1", "warmup.steps=1, 'warmup.mixture={nowhere: 1}'")
    )
    shutil.rmtree(out)
    with pytest.raises(TrainError, match=r"warmup 3 ended with exit code 2, its log is .*:(?s:.*)nowhere"):
        run(file)
    assert not (out / "grpo").exists()


def test_a_seed_whose_warm_up_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def run_jobs(those: Sequence[Job], *_: object, ended: Callable[[Job, int], None], **__: object) -> None:
        for job in those:
            started.append(job.name)
            ended(job, int(job.name == "warmup 4"))

    monkeypatch.setattr(compare, "run_jobs", run_jobs)
    monkeypatch.setattr(compare, "_build_policies", lambda *_: None)
    file = write(tmp_path, GRPO, seeds="[3, 4]")
    file.write_text("warmup: {config: aipo_distil}\n" + file.read_text())
    whole, text = run(file)
    assert started == ["warmup 3", "warmup 4", "before 3", "grpo 3"]
    assert not whole and "warmup 4 failed, see" in text


def wait_for(lines: int, run: RunFolder, process: subprocess.Popen[bytes]) -> None:
    """Waits until the run has so many lines of metrics."""
    while len(run.read_metrics()) < lines:
        assert process.poll() is None
        time.sleep(0.05)


def test_a_killed_and_an_interrupted_comparison_go_on(tmp_path: Path) -> None:
    file = write(tmp_path, "long: {config: grpo, set: [train.steps=400]}", reference="long")
    cell = read_matrix(file).cell("long", 3)
    folder = cell.folder

    def begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "aipo.cli", "compare", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Whoever runs tests in the background of a shell has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    # kill -9, of it and of what it had running.
    first = begin()
    wait_for(3, folder, first)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    for pid in (first.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    done = len(folder.read_metrics())
    assert done < 400

    # Ctrl-C: it goes on from there, and takes its children with it.
    second = begin()
    wait_for(done + 3, folder, second)
    second.send_signal(signal.SIGINT)
    assert second.wait() == 130
    assert not busy(folder.path)
    assert "from checkpoint-" in cell.log.read_text() and "interrupted" in cell.log.read_text()
    steps = [row["step"] for row in folder.read_metrics()]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= done + 3


def finished(file: Path) -> Matrix:
    matrix = read_matrix(file)
    finish_all(matrix, dict.fromkeys(matrix.arms, 0.5), facts=2, samples=4)
    return matrix


def test_runs_that_outlived_their_comparison_are_waited_for(tmp_path: Path) -> None:
    file = write(tmp_path, GRPO)
    folder = finished(file).cell("grpo", 3).folder.path
    held = threading.Event()

    def hold() -> None:
        with exclusive(folder):
            held.set()
            time.sleep(1)

    threading.Thread(target=hold).start()
    assert held.wait(60) and busy(folder)
    whole, _ = run(file)
    assert whole and not busy(folder)


def test_one_comparison_at_a_time(tmp_path: Path) -> None:
    file = write(tmp_path, GRPO)
    with exclusive(finished(file).out), pytest.raises(RunError, match="another process is writing"):
        run(file)


def test_seeds_may_be_added_and_settings_that_change_nothing_may_change(tmp_path: Path) -> None:
    matrix = finished(write(tmp_path, GRPO))
    compare.check_unchanged(read_matrix(write(tmp_path, GRPO, TWICE, seeds="[3, 4]")))
    compare.check_unchanged(read_matrix(write(tmp_path, GRPO.replace("]", ", run.threads=2]"))))
    other = GRPO.replace("]", ", evaluate.samples=2]")
    with pytest.raises(ConfigError, match=r"grpo/3: got evaluate\.samples: 2, was 1"):
        compare.check_unchanged(read_matrix(write(tmp_path, other)))
    matrix.cell("grpo", 3).folder.evaluation("after").unlink()  # not evaluated yet: still free to be
    with pytest.raises(ConfigError, match=r"before/3: got evaluate\.samples: 2, was 1"):
        compare.check_unchanged(read_matrix(write(tmp_path, other)))


def test_runs_of_an_older_version_are_gone_on_with(tmp_path: Path) -> None:
    """Their configurations lack settings that are new."""
    file = write(tmp_path, "aipo: {config: aipo}", GRPO)
    matrix = finished(file)
    for path in [
        *matrix.out.rglob("config.yaml"),
        *(Path(cell.stages[0].name) for cell in matrix.before.values()),
    ]:
        settings = yaml.safe_load(path.read_text())
        del settings["rollout"]["control_tokens"], settings["run"]["date"]
        for agent in settings["agents"].values():
            del agent["thinking"]
        path.write_text(yaml.safe_dump(settings))
    assert run(file)[0]
    with pytest.raises(ConfigError, match=r"agents\.verify\.thinking\.<a>: '</a>', was None"):
        run(write(tmp_path, "aipo: {config: aipo, set: ['agents.verify.thinking={<a>: </a>}']}", GRPO))


def test_the_policy_before_does_not_depend_on_the_method(tmp_path: Path) -> None:
    finished(write(tmp_path, GRPO))
    first = "aipo: {config: aipo, set: [train.steps=1]}"
    compare.check_unchanged(read_matrix(write(tmp_path, first, GRPO, reference="aipo")))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = write(tmp_path, GRPO)
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunError):
        run(file)
    assert (tmp_path / "out").read_text() == "mine"


def test_runs_side_by_side_do_not_share_servers(tmp_path: Path) -> None:
    file = write(tmp_path, GRPO.replace("]", ", policy.engine=vllm]"))
    with pytest.raises(ConfigError, match=r"--at-once: got 2 with policy\.engine=vllm \(grpo 3\), allowed 1"):
        run(file)
    assert not (tmp_path / "out").exists()
