"""Running a configuration: what is refused before it costs anything, and going on."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer

from aipo.config import Config, dump, load_config
from aipo.errors import ConfigError, TrainError
from aipo.lesson import LessonStore, positions
from aipo.run import RunFolder
from aipo.stepfiles import StepFiles
from aipo.store import TraceStore
from aipo.train import train_run

SMALL = [
    "policy.options.steps=30",
    "train.tasks_per_step=2",
    "train.group_size=4",
    "train.minibatches=1",
    "train.gradient_accumulation=1",
    "train.steps=2",
    "rollout.max_tokens=16",
    "run.threads=1",
]


def small(out: Path, *overrides: str) -> Config:
    return load_config("aipo", [f"run.out={out}", *SMALL, *overrides])


def train(config: Config, *, resume: bool = False) -> None:
    train_run(config, resume=resume, evaluate_after=False, console=Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "env.mixture={easy_train: 0.5, nowhere: 0.5}",
            r"env\.mixture: got \['nowhere'\], allowed \['easy_train'",
        ),
        ("env.mixture={easy_train: 3}", "share of split 'easy_train': got 3"),
        ("evaluate.splits=[heldout, nowhere]", r"evaluate\.splits: got \['nowhere'\]"),
        ("graph.options.bugdet=3", "got .'bugdet'."),
    ],
)
def test_a_mistake_is_said_before_the_folder_is_taken(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        train(small(tmp_path / "run", override))
    assert not (tmp_path / "run").exists()


def test_a_run_in_which_everything_fails_says_why_and_can_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # A part that has no weight fails its rollout, so nothing is left to learn from.
    with pytest.raises(TrainError, match=r"generation 0: got 8 failed ones.*reward part: got 'correct'"):
        train(small(out, "rollout.reward_weights={neatness: 1.0}"))
    kept = list(TraceStore(RunFolder(out).traces).read())
    assert len(kept) == 8
    assert all(trace.failed and trace.reward is None for trace in kept)


def test_going_on_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = small(out, "train.save_every=null")
    train(config)
    ids = [trace.trace_id for trace in TraceStore(out / "traces").read()]
    train(config, resume=True)
    assert sorted(trace.trace_id for trace in TraceStore(out / "traces").read()) == sorted(ids)
    kept = (out / "traces" / "__superseded").glob("*.parquet.attempt-1")
    assert len(list(kept)) == 2  # what was there is kept beside


def test_a_run_keeps_its_tokenizer_and_what_was_done_with_each_token(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    config = small(folder.path, "train.save_every=1")
    train(config)
    tokenizer = Tokenizer.from_file(str(folder.tokenizer / "tokenizer.json"))
    store, lessons = TraceStore(folder.traces), LessonStore(folder.lessons)
    assert [file.step for file in StepFiles(folder.lessons).files()] == [0, 1] == store.steps()
    (prompt, *_), asked = next((t.segments, t.task["prompt"]) for t in store.read())
    assert tokenizer.decode(prompt.token_ids.tolist()).endswith(asked)
    for trace in store.read():
        for lesson in lessons.of(trace.trace_id, trace.step):
            assert lesson.advantage == trace.advantage != 0
            assert lesson.update == trace.step + 1
            places = positions(lesson, [len(s) for s in trace.segments])
            assert len(places) == len(lesson)
            if lesson.kind == "sampled":
                assert places.tolist() == list(range(len(trace.segments[0]), len(trace.token_ids)))

    # Going on without lessons leaves none of the generations that are done over.
    shutil.rmtree(folder.checkpoints / "checkpoint-2")
    train(small(folder.path, "train.save_every=1", "train.lessons=false"), resume=True)
    assert [file.step for file in StepFiles(folder.lessons).files()] == [0]
    assert store.steps() == [0, 1]


def test_lessons_can_be_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(small(folder.path, "train.steps=1", "train.lessons=false"))
    assert not folder.lessons.exists()


def test_going_on_with_other_settings_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_text(dump(small(out)))
    before = (out / "config.yaml").read_bytes()
    with pytest.raises(
        ConfigError, match=r"got method\.coefficient: 'pi', was 'constant'; train\.learning_rate: 0\.001, was"
    ):
        train(small(out, "method.coefficient=pi", "train.learning_rate=1e-3", "run.threads=2"), resume=True)
    assert (out / "config.yaml").read_bytes() == before
