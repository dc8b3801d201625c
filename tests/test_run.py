"""A run folder: taken or free, whole files, and a disk that is full."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from aipo.errors import LimitError, RunError, TrainError
from aipo.run import RunFolder, keep_tokenizer, recorded_end
from aipo.train.callbacks import MetricsFile
from aipo.util.files import busy, disk, exclusive, write_json, writing


def full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path / "a" / "b").path.is_dir()
    with exclusive(tmp_path / "killed"):
        pass  # before it began
    assert RunFolder.create(tmp_path / "killed").path.is_dir()


@pytest.mark.parametrize(("path", "place"), [("note.txt", "."), ("config.yaml", "."), ("file", "file")])
def test_a_folder_that_holds_something_or_is_a_file_is_refused(tmp_path: Path, path: str, place: str) -> None:
    (tmp_path / path).write_text("x")
    with pytest.raises(RunError, match="which is not empty, allowed a new folder"):
        RunFolder.create(tmp_path / place)


def test_an_old_run_is_one_with_a_configuration(tmp_path: Path) -> None:
    for take in (partial(RunFolder.create, resume=True), RunFolder.open):
        with pytest.raises(RunError, match=r"allowed a folder with a config\.yaml of a run"):
            take(tmp_path)
    (tmp_path / "config.yaml").write_text("x")
    assert RunFolder.create(tmp_path, resume=True).path == RunFolder.open(tmp_path).path == tmp_path


def test_a_metric_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    folder.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert folder.read_metrics() == [{"step": 1}, {"step": 2}]
    assert folder.read_metrics(last=1) == [{"step": 2}]
    assert folder.read_metrics(last=3) == [{"step": 1}, {"step": 2}]


def test_a_torn_manifest_is_refused_by_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_manifest() == {}
    run.manifest.write_text('{"packages": {"to')
    with pytest.raises(RunError, match=r"manifest .*manifest\.json: got Unterminated string"):
        run.read_manifest()
    run.manifest.write_text("[1]")
    with pytest.raises(
        RunError, match=r"manifest .*manifest\.json: got a list, allowed what a run has written"
    ):
        run.read_manifest()


def test_json_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match=r"writing x\.json: got .*No space left.*See to the disk"):
        write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_place_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        RunError, match=r"run\.out: got .*Not a directory.*allowed a folder that can be written"
    ):
        RunFolder.create(tmp_path / "file" / "run")
    with pytest.raises(RunError, match=r"writing x\.json: got .*allowed a folder that can be written"):
        write_json(tmp_path / "file" / "x.json", 1)
    with pytest.raises(RunError, match="Permission denied"), writing("making", tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_tokenizer_is_kept_once_and_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    def save(text: str) -> Callable[[str], None]:
        def write(path: str) -> None:
            os.mkdir(path)
            Path(path, "tokenizer.json").write_text(text)
            if text == "half":
                full()

        return write

    with pytest.raises(RunError, match=r"saving the tokenizer: got .*No space left"):
        keep_tokenizer(folder, save("half"))
    assert list(folder.path.iterdir()) == []
    keep_tokenizer(folder, save("first"))
    keep_tokenizer(folder, save("second"))
    assert [p.name for p in folder.path.iterdir()] == ["tokenizer"]
    assert (folder.tokenizer / "tokenizer.json").read_text() == "first"


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))


def test_what_is_not_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk("reading", tmp_path):
        (tmp_path / "nowhere").read_text()


def test_the_error_of_a_library_that_met_a_full_disk(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(RunError, match=r"saving: got .*os error 28.*--resume"), disk("saving", tmp_path):
        raise SafetensorError(text)
    with pytest.raises(SafetensorError), disk("saving", tmp_path):
        raise SafetensorError("Error while deserializing header")


def test_metrics_on_a_full_disk_keep_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    args, state, control = TrainingArguments(output_dir=str(tmp_path)), TrainerState(), TrainerControl()
    file.on_train_begin(args, state, control)
    state.global_step = 1
    file.on_log(args, state, control, logs={"loss": 0.5})
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match=r"writing metrics: got .*No space left"):
        file.on_log(args, state, control, logs={"loss": 0.4})
    monkeypatch.undo()
    assert RunFolder(tmp_path).read_metrics() == [{"step": 1, "loss": 0.5}]


def test_one_process_at_a_time_writes_a_run_and_others_see_it(tmp_path: Path) -> None:
    script = """
    import sys
    from pathlib import Path
    from aipo.util.files import busy, exclusive
    print(busy(Path(sys.argv[1])))
    with exclusive(Path(sys.argv[1])):
        pass
    """

    def other() -> tuple[str, str]:
        command = [sys.executable, "-c", dedent(script), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout, done.stderr

    assert not busy(tmp_path)
    with exclusive(tmp_path):
        said, error = other()
        assert said == "True\n" and "which another process is writing, allowed one at a time" in error
    assert other() == ("False\n", "")


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (KeyboardInterrupt(), "stopped", "interrupted (Ctrl-C)"),
        (LimitError("spending: got 5, allowed 4\nmore"), "stopped", "LimitError: spending: got 5, allowed 4"),
        (SystemExit(3), "stopped", "SystemExit: 3"),
        (TrainError("the loss is NaN"), "failed", "TrainError: the loss is NaN"),
        (ZeroDivisionError("by 0"), "failed", "ZeroDivisionError: by 0"),
    ],
)
def test_how_a_run_ended_is_written_down(
    tmp_path: Path, error: BaseException, state: str, reason: str
) -> None:
    folder = RunFolder(tmp_path)
    with recorded_end(folder):
        assert not folder.ended.exists()
    assert json.loads(folder.ended.read_text()) == {"state": "finished", "reason": ""}
    with pytest.raises(type(error)), recorded_end(folder):
        assert not folder.ended.exists()  # taken up again
        raise error
    assert json.loads(folder.ended.read_text()) == {"state": state, "reason": reason}


@pytest.mark.parametrize("place", ["new/runs/one", "one"])
def test_an_evaluation_that_fails_before_its_first_trace_leaves_no_folder(tmp_path: Path, place: str) -> None:
    folder = RunFolder(tmp_path / place)
    with pytest.raises(RunError, match="no server answers"), folder.evaluation_taken("eval"):
        keep_tokenizer(folder, lambda draft: Path(draft).mkdir())
        (folder.evaluation_traces("eval") / "__journal").mkdir()
        raise RunError("no server answers")
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_that_fails_leaves_the_tokenizer_of_another_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunError), folder.evaluation_taken("second"):
        with folder.evaluation_taken("first"):
            keep_tokenizer(folder, lambda draft: Path(draft).mkdir())
            write_json(folder.evaluation_traces("first") / "trace", {})
        raise RunError("no server answers")
    assert {path.name for path in folder.path.iterdir()} == {"evaluations", "tokenizer"}
    assert {path.name for path in (folder.path / "evaluations").iterdir()} == {"first"}


def test_the_last_of_several_evaluations_that_fail_removes_the_tokenizer(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunError), folder.evaluation_taken("second"):
        with pytest.raises(RunError), folder.evaluation_taken("first"):
            keep_tokenizer(folder, lambda draft: Path(draft).mkdir())
            raise RunError("no server answers")
        assert folder.tokenizer.is_dir()
        raise RunError("no server answers")
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_that_fails_later_keeps_what_it_earned_and_says_why(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_json(folder.path / "mine.json", {})
    traces = folder.evaluation_traces("eval")
    with pytest.raises(RunError), folder.evaluation_taken("eval"):
        write_json(traces / "trace", {})
        raise RunError("no server answers\nany more")
    ended = json.loads((traces / "ended.json").read_text())
    assert ended == {"state": "failed", "reason": "RunError: no server answers"}
    with pytest.raises(RunError), folder.evaluation_taken("other"):
        raise RunError("at once")
    assert {path.name for path in (folder.path / "evaluations").iterdir()} == {"eval"}
    with folder.evaluation_taken("eval"):
        assert not (traces / "ended.json").exists()
    assert json.loads((traces / "ended.json").read_text()) == {"state": "finished", "reason": ""}


def test_a_run_that_fails_at_its_start_removes_the_folders_above_it_that_it_made(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError), RunFolder.taken(tmp_path / "mine" / "runs" / "one"):
        raise RunError("no")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.parametrize(("holds", "left"), [(None, []), ("results.csv", [".lock", "results.csv"])])
def test_a_folder_that_was_made_to_be_locked_goes_with_a_failure_that_left_nothing(
    tmp_path: Path, holds: str | None, left: list[str]
) -> None:
    with pytest.raises(TrainError), exclusive(tmp_path / "runs" / "matrix"):
        if holds:
            (tmp_path / "runs" / "matrix" / holds).write_text("1")
        raise TrainError("the cold start failed")
    assert sorted(path.name for path in tmp_path.glob("runs/matrix/*")) == left
    assert (tmp_path / "runs").exists() is bool(left)
