"""`aipo model`: makes the model of a configuration and prints its folder."""

import json
from pathlib import Path

import pytest

from aipo.config.build import load_experiment
from aipo.errors import LoadError
from kit.commands import invoke

SMALL = ("--config", "aipo_distil", "policy.options.steps=2")


def test_only_the_folder_is_on_standard_output(tmp_path: Path) -> None:
    done = invoke("model", *SMALL, f"policy.options.cache={tmp_path}")
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert done.stdout == f"{folder}\n"
    assert "cold start" in done.stderr
    assert (folder / "config.json").is_file()


def test_it_writes_events(tmp_path: Path) -> None:
    done = invoke("model", "--json", *SMALL, f"policy.options.cache={tmp_path}")
    first, *_, last = map(json.loads, done.stdout.splitlines())
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (first["event"], first["stage"]) == ("step", "cold start")
    assert last == {"event": "finished", "command": "model", "model": str(folder)}


def test_a_function_of_yours_says_how_far_it_is(tmp_path: Path) -> None:
    file, notes = tmp_path / "mine.py", []
    file.write_text(f"def mine(progress):\n    progress(1, 2, 'halfway')\n    return {str(tmp_path)!r}\n")
    experiment = load_experiment("aipo_distil", [f"policy.model={file}:mine"])
    assert experiment.build_model(lambda *note: notes.append(note)) == str(tmp_path)
    assert notes == [(1, 2, "halfway"), (1, 1, str(tmp_path))]


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"policy\.model: got .*which has no config\.json"):
        invoke("model", "--config", "aipo_distil", f"policy.model={tmp_path}")
