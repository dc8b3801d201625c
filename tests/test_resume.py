"""Which checkpoint a run goes on from."""

from pathlib import Path

from aipo.replays.weights import Choice, Weights
from aipo.resume import generation_of, last_checkpoint
from aipo.run import RunFolder


def checkpoint(run: RunFolder, step: int, state: str | None) -> Path:
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    return folder


def test_the_newest_one_by_number(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert last_checkpoint(run) is None
    checkpoint(run, 9, "{}")
    newest = checkpoint(run, 10, "{}")
    assert last_checkpoint(run) == newest
    assert generation_of(newest, 5) == 2


def test_one_that_was_being_written_when_the_run_was_killed_is_none(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    checkpoint(run, 3, None)
    checkpoint(run, 4, '{"global_step": ')
    assert last_checkpoint(run) is None
    whole = checkpoint(run, 2, '{"global_step": 2}')
    assert last_checkpoint(run) == whole
    # Nor is it looked through by a replay of a younger generation.
    choice = Choice(run=run, name="nearest", updates=1, start=Weights("folder", 0))
    assert choice.at(5) == Weights(str(whole), 2)
    assert choice.at(1) == Weights("folder", 0)
    assert choice.own() == [0, 2]
