"""Checkpoints that are whole or named with the reason; what is kept of old ones; a disk that is full."""

import io
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from aipo.errors import LoadError, RunError
from aipo.evaluate.run import evaluate_folder
from aipo.run import RunFolder
from aipo.train.checkpoints import checkpoints, last_checkpoint, problems, tidy
from aipo.train.resume import where_from
from aipo.train.run import train_run
from aipo.util.whole import MANIFEST, damage, record, written_whole
from kit import tiny_run
from kit.recorded import replayed_losses

QUIET = Console(file=io.StringIO())
RESUMED = ["optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json", "training_args.bin"]
WEIGHTS = ["README.md", "config.json", "generation_config.json", MANIFEST, "model.safetensors"]
TORN = [b"", b"\xff" * 64, (2**62).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"[]"]
"""What a disk may leave of a safetensors file."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five rollout steps of two optimizer steps, and a checkpoint behind each."""
    return tiny_run.train(tiny_run.config(tmp_path_factory.mktemp("tiny"), "train.steps=5"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained, tmp_path / "run")))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("tokenizer"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def without_manifests(run: RunFolder) -> None:
    """As a run was recorded before there were manifests, with its three newest checkpoints."""
    for one in checkpoints(run):
        if one.resumable:
            (one.path / MANIFEST).unlink()
        else:
            shutil.rmtree(one.path)


def test_of_old_ones_the_weights_are_kept(trained: Path) -> None:
    every = checkpoints(RunFolder(trained))
    assert [(one.version, one.resumable, one.loadable) for one in every] == [
        (2, False, True),
        (4, False, True),
        (6, True, True),
        (8, True, True),
        (10, True, True),
    ]
    assert names(every[0].path) == sorted([*WEIGHTS])
    assert names(every[-1].path) == sorted([*WEIGHTS, *RESUMED])
    assert names(trained / "checkpoints") == [f"checkpoint-{n}" for n in (10, 2, 4, 6, 8)]
    assert all(damage(one.path) is None for one in every)
    assert damage(trained / "model") is None


@pytest.mark.parametrize(
    ("break_it", "file", "says"),
    [
        *((Path.unlink, name, f"{name} is missing") for name in RESUMED),
        (Path.unlink, "model.safetensors", "model.safetensors is missing"),
        (Path.unlink, "tokenizer.json", "tokenizer.json is missing"),
        (Path.unlink, MANIFEST, "manifest.json is missing"),
        (cut, MANIFEST, "manifest.json cannot be read: "),
        (cut, "model.safetensors", "model.safetensors has "),
        (cut, "optimizer.pt", "optimizer.pt has "),
        *((flip, name, f"{name} is not what was written") for name in (*RESUMED, "model.safetensors")),
    ],
)
def test_one_that_is_not_whole_is_named_and_the_one_before_is_taken(
    run: RunFolder, break_it: Callable[[Path], None], file: str, says: str
) -> None:
    break_it(run.checkpoints / "checkpoint-10" / file)
    found = last_checkpoint(run)
    assert found.path == run.checkpoints / "checkpoint-8"
    assert where_from(found, 2).startswith(f"checkpoint-10 is not whole: {says}")
    assert where_from(found, 2).count("\n") == 1
    assert where_from(found, 2).splitlines()[1].startswith("from checkpoint-8, step 4;")


@pytest.mark.parametrize("copied", ["checkpoint-12", "checkpoint-9"])
def test_one_by_the_name_of_another_is_named(run: RunFolder, copied: str) -> None:
    """A run would go on with the weights of another rollout step."""
    every = checkpoints(run)
    shutil.copytree(every[-2].path, run.checkpoints / copied)
    shutil.rmtree(every[-1].path)
    found = last_checkpoint(run)
    assert found.path == every[-2].path
    assert [*map(str, found.broken)] == [f"{copied} is not whole: trainer_state.json says 8 optimizer steps"]


def test_none_that_is_whole(run: RunFolder) -> None:
    for version in (6, 8, 10):
        flip(run.checkpoints / f"checkpoint-{version}" / "optimizer.pt")
    with pytest.raises(
        RunError, match=r"got no whole checkpoint \(checkpoint-10 is .*checkpoint-6 is .*begins anew"
    ):
        last_checkpoint(run)
    shutil.rmtree(run.checkpoints)
    assert last_checkpoint(run) == (None, [])


@pytest.mark.parametrize(
    ("break_it", "file", "says"),
    [
        (None, "", None),
        (Path.unlink, "optimizer.pt", r"the optimizer state \(optimizer\*\) is missing"),
        (Path.unlink, "scheduler.pt", r"the learning-rate schedule \(scheduler.pt\) is missing"),
        (Path.unlink, "rng_state.pth", r"the state of the random numbers \(rng_state\*\) is missing"),
        (Path.unlink, "model.safetensors", r"the weights \(\*.safetensors\) is missing"),
        (Path.unlink, "trainer_state.json", "trainer_state.json is missing or torn"),
        (cut, "trainer_state.json", "trainer_state.json is missing or torn"),
        (cut, "model.safetensors", "model.safetensors is torn"),
        *(
            (partial(Path.write_bytes, data=torn), "model.safetensors", "model.safetensors is torn")
            for torn in TORN
        ),
        (cut, "optimizer.pt", "optimizer.pt is torn"),
        (cut, "rng_state.pth", "rng_state.pth is torn"),
    ],
)
def test_one_from_before_there_were_manifests_is_taken_unless_it_is_torn(
    run: RunFolder, break_it: Callable[[Path], None] | None, file: str, says: str | None
) -> None:
    without_manifests(run)
    newest = run.checkpoints / "checkpoint-10"
    if break_it is not None:
        break_it(newest / file)
    found = last_checkpoint(run)
    assert found.path == (newest if says is None else run.checkpoints / "checkpoint-8")
    assert "(it has no manifest: what its files contain cannot be checked)" in where_from(found, 2)
    assert says is None or re.search(f"^checkpoint-10 is not whole: {says}$", where_from(found, 2), re.M)


def test_a_resumed_run_that_leaves_one_out_comes_to_the_same_end(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(trained.parent, folder)
    run = RunFolder(folder / "run")
    cut(run.checkpoints / "checkpoint-10" / "model.safetensors")
    (run.checkpoints / "checkpoint-8" / "scheduler.pt").unlink()
    shutil.rmtree(run.model)
    told = io.StringIO()
    experiment = tiny_run.config(folder, "train.steps=5")
    run.config.write_text(experiment.to_yaml())
    train_run(experiment, resume=True, evaluate_after=False, console=Console(file=told, width=200))
    assert [
        line for line in told.getvalue().splitlines() if "not whole" in line or line.startswith("from ")
    ] == [
        "checkpoint-10 is not whole: model.safetensors has 58,076 bytes, not 58,176",
        "checkpoint-8 is not whole: scheduler.pt is missing",
        "from checkpoint-6, step 3; later traces are set aside in traces/__superseded",
    ]
    before = [line["loss"] for line in RunFolder(trained).read_metrics()]
    assert [line["loss"] for line in run.read_metrics()] == before
    assert (run.model / "model.safetensors").read_bytes() == (
        trained / "model" / "model.safetensors"
    ).read_bytes()
    assert [one.resumable for one in checkpoints(run)] == [False, False, True, True, True]
    assert last_checkpoint(run).path == run.checkpoints / "checkpoint-10"


def test_what_is_old_goes_only_when_enough_is_whole(run: RunFolder) -> None:
    flip(run.checkpoints / "checkpoint-10" / "optimizer.pt")  # sizes are right: to read all of it takes long
    cut(run.checkpoints / "checkpoint-8" / "optimizer.pt")
    tidy(run, keep_weights=True)
    assert [(one.version, one.resumable) for one in checkpoints(run)] == [
        (2, False),
        (4, False),
        (6, True),
        (8, True),
        (10, True),
    ]
    newest = run.checkpoints / "checkpoint-10"
    for version in (12, 14):
        shutil.copytree(newest, run.checkpoints / f"checkpoint-{version}")
    tidy(run, keep_weights=False)
    assert [one.version for one in checkpoints(run) if one.resumable] == [10, 12, 14]
    assert not (run.checkpoints / "checkpoint-6").exists()


def test_a_run_from_before_there_were_manifests_keeps_its_checkpoints(run: RunFolder) -> None:
    without_manifests(run)
    newest = run.checkpoints / "checkpoint-12"
    shutil.copytree(run.checkpoints / "checkpoint-10", newest)
    state = newest / "trainer_state.json"
    state.write_text(state.read_text().replace('"global_step": 10', '"global_step": 12'))
    record(newest)
    tidy(run, keep_weights=True)
    problem = problems(checkpoints(run))
    assert [(one.version, one.resumable, problem(one)) for one in checkpoints(run)] == [
        (6, False, None),
        (8, True, None),
        (10, True, None),
        (12, True, None),
    ]
    flip(newest / "optimizer.pt")
    assert last_checkpoint(run).path == run.checkpoints / "checkpoint-10"


def test_damaged_weights_that_are_kept_are_not_recorded_as_whole(run: RunFolder) -> None:
    old = run.checkpoints / "checkpoint-6"
    flip(old / "model.safetensors")
    shutil.copytree(run.checkpoints / "checkpoint-10", run.checkpoints / "checkpoint-12")
    tidy(run, keep_weights=True)
    assert names(old) == sorted([*WEIGHTS])
    assert damage(old) == "model.safetensors is not what was written (its hash differs)"


def test_torn_weights_from_before_there_were_manifests_are_not_recorded_as_whole(run: RunFolder) -> None:
    without_manifests(run)
    for version in (12, 14):
        shutil.copytree(run.checkpoints / "checkpoint-10", run.checkpoints / f"checkpoint-{version}")
    cut(run.checkpoints / "checkpoint-6" / "model.safetensors")
    tidy(run, keep_weights=True)
    assert [(one.version, one.resumable) for one in checkpoints(run)] == [
        (8, False),
        (10, True),
        (12, True),
        (14, True),
    ]


def test_what_a_killed_process_left_of_an_old_one_goes(run: RunFolder) -> None:
    old = run.checkpoints / "checkpoint-4"
    (old / "optimizer.pt").write_text("killed before this went")
    (old / "pytorch_model_fsdp_0").mkdir()
    (old / "notes.txt").write_text("mine")
    tidy(run, keep_weights=True)
    assert names(old) == sorted([*WEIGHTS, "notes.txt"])


def test_a_full_disk_leaves_the_checkpoint_before(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.save meets it in the third checkpoint, with whose optimizer state the disk is full."""
    experiment = tiny_run.config(tmp_path / "tiny", "train.steps=3")
    save, count = torch.save, [0]

    def on_a_full_disk(value: object, file: object, **how: object) -> None:
        count[0] += str(file).endswith("optimizer.pt")
        save(value, "/dev/full" if count[0] == 3 else file, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "save", on_a_full_disk)
    with pytest.raises(RunError) as error:
        tiny_run.train(experiment)
    folder = experiment.out / "checkpoints"
    assert str(error.value) == (
        "saving checkpoint-6: got a file that torch.save could not write to its end, allowed a disk with room, in "
        f"{folder}. Traces and checkpoints that were finished are kept. See to the disk, then start again; a training run "
        "goes on with --resume."
    )
    assert names(folder) == ["checkpoint-2", "checkpoint-4"]
    assert last_checkpoint(RunFolder(experiment.out)).path == folder / "checkpoint-4"


@pytest.mark.parametrize(
    "text",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
        "PytorchStreamWriter failed writing file data/0: file write failed",
        "basic_ios::clear: iostream error",
    ],
)
def test_a_folder_whose_writing_failed_is_as_it_was(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "model"
    with written_whole(folder, "saving") as draft:
        (draft / "weights").write_text("first")
    with pytest.raises(RunError, match="saving: got "), written_whole(folder, "saving") as draft:
        (draft / "weights").write_text("second")
        raise RuntimeError(text)
    assert (folder / "weights").read_text() == "first"
    assert damage(folder) is None
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with written_whole(folder, "saving") as draft:
        (draft / "weights").write_text("third")
    assert (folder / "weights").read_text() == "third"


def test_a_manifest_of_another_kind_is_none(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"model": "start"}')
    assert damage(tmp_path) is None
    (tmp_path / MANIFEST).write_text("[]")
    assert damage(tmp_path) == "manifest.json cannot be read: got no keys and values"
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "part").write_text("x")
    record(tmp_path)
    assert damage(tmp_path) is None
    assert damage(tmp_path, of_interest=lambda name: name != "inner/part") is None
    (tmp_path / "inner" / "part").write_text("y")
    assert damage(tmp_path) == "inner/part is not what was written (its hash differs)"
    assert damage(tmp_path, hashes=False) is None
    assert damage(tmp_path, of_interest=lambda name: name != "inner/part") is None


def test_the_card_may_be_edited(tmp_path: Path) -> None:
    for name in ("README.md", "weights"):
        (tmp_path / name).write_text("x")
    record(tmp_path, ["README.md", "weights"])
    (tmp_path / "README.md").write_text("a card of ones own")
    assert damage(tmp_path) is None
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert list(manifest["files"]) == ["weights"]
    manifest["files"]["README.md"] = {"bytes": 1, "hash": "x"}  # as it was written before
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert damage(tmp_path) is None
    (tmp_path / "README.md").unlink()
    assert damage(tmp_path) is None


def losses(run: RunFolder, out: Path, **changes: object) -> str:
    """What the command says."""
    told = io.StringIO()
    replayed_losses(run.path, out, console=Console(file=told, width=200), **changes)
    return told.getvalue()


def test_the_loss_of_every_step_is_replayed_with_the_weights_that_sampled_it(
    run: RunFolder, tmp_path: Path
) -> None:
    told = losses(run, tmp_path / "out")
    assert "start, checkpoint-2, checkpoint-4, checkpoint-6, checkpoint-8" in told
    assert "other weights than those that sampled" not in told


def test_the_loss_with_other_weights_is_refused_or_says_so(run: RunFolder, tmp_path: Path) -> None:
    shutil.rmtree(run.checkpoints / "checkpoint-2")
    flip(run.checkpoints / "checkpoint-6" / "model.safetensors")
    says = (
        r"weights that sampled step 1: got none \(their checkpoint is gone\), allowed steps whose weights there are "
        r"\(--steps: 0, 2, 4, 5\), or --checkpoint nearest, which takes those of start here"
    )
    with pytest.raises(RunError, match=says):
        losses(run, tmp_path / "out", steps=(1, 1))
    with pytest.raises(
        RunError, match=r"step 3: got none \(checkpoint-6 is not whole: model\.safetensors is not"
    ):
        losses(run, tmp_path / "out", steps=(3, 3))
    assert not (tmp_path / "out").exists()
    told = losses(run, tmp_path / "out", steps=(0, 3), checkpoint="nearest", code=3)  # something was left out
    assert "other weights than those that sampled (by step: 1 start, 3 checkpoint-4)" in told
    assert "left out: checkpoint-6: is not whole: model.safetensors is not what was written" in told
    told = losses(run, tmp_path / "all")  # only those that can be the same
    assert "start, checkpoint-4, checkpoint-8" in told


@pytest.mark.parametrize("break_it", [cut, flip, Path.unlink])
def test_a_trained_policy_that_is_not_whole_is_neither_evaluated_nor_trained_on(
    run: RunFolder, tmp_path: Path, break_it: Callable[[Path], None]
) -> None:
    break_it(run.model / "model.safetensors")
    with pytest.raises(
        LoadError, match=r"model\.safetensors .*--resume.*writes it again from the last checkpoint"
    ):
        evaluate_folder(run.path, None, (), name="eval", console=QUIET)
    assert not (run.path / "evaluations").exists()
    experiment = tiny_run.config(tmp_path / "tiny", f"policy.model={run.model}")
    with pytest.raises(LoadError, match=r"policy\.model: got .*model\.safetensors "):
        tiny_run.train(experiment)
