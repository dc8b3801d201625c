"""The cache of models: a folder is made once and whole, whoever asks."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aipo.util.whole import cached_folder, user_cache


class Maker:
    """Counts how often it makes the folder."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, folder: Path) -> None:
        self.count += 1
        (folder / "weights").write_text("0.5")
        (folder / "inner").mkdir()
        (folder / "inner" / "words").write_text("a b c")


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_folder_is_made_once_for_several_who_ask_at_the_same_time(tmp_path: Path) -> None:
    make = Maker()
    with ThreadPoolExecutor(8) as threads:
        folders = [
            threads.submit(cached_folder, "one", make, what="it", cache=tmp_path / "new") for _ in range(8)
        ]
    assert {one.result() for one in folders} == {tmp_path / "new" / "one"}
    assert make.count == 1
    assert visible(tmp_path / "new") == ["one"]
    assert (tmp_path / "new" / "one" / "weights").read_text() == "0.5"


@pytest.mark.parametrize("torn", ["weights", "inner/words"])
def test_a_folder_that_is_not_whole_is_made_again(tmp_path: Path, torn: str) -> None:
    make = Maker()
    folder = cached_folder("one", make, what="it", cache=tmp_path)
    before = (folder / torn).read_text()
    (folder / torn).write_text("0")
    assert cached_folder("one", make, what="it", cache=tmp_path) == folder
    assert ((folder / torn).read_text(), make.count) == (before, 2)
    (folder / torn).unlink()
    cached_folder("one", make, what="it", cache=tmp_path)
    assert ((folder / torn).read_text(), make.count) == (before, 3)
    assert visible(tmp_path) == ["one"]


def test_what_fails_leaves_nothing_and_what_others_write_stays(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise ValueError("no memory")

    def make_with_a_failure_beside(folder: Path) -> None:
        (folder / "weights").write_text("first")
        with pytest.raises(ValueError, match="no memory"):
            cached_folder("two", fail, what="it", cache=tmp_path)

    folder = cached_folder("one", make_with_a_failure_beside, what="it", cache=tmp_path)
    assert (folder / "weights").read_text() == "first"
    assert visible(tmp_path) == ["one"]


def test_another_process_may_remove_the_empty_folder_of_drafts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mkdir, removed = os.mkdir, list[Path]()

    def mkdir_and_lose(path: Path, *mode: int) -> None:
        mkdir(path, *mode)
        if Path(path).name == ".draft" and not removed:
            removed.append(Path(path))
            os.rmdir(path)

    monkeypatch.setattr(os, "mkdir", mkdir_and_lose)
    assert (cached_folder("one", Maker(), what="it", cache=tmp_path) / "weights").is_file()
    assert removed == [tmp_path / ".draft"]


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "aipo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache" / "aipo"
