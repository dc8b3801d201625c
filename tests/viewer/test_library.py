"""Which runs there are below a folder, and what is read of them."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from aipo.config.build import load_experiment
from aipo.errors import RunError, TraceError
from aipo.policies.text_tokenizer import TextTokenizer
from aipo.run import RunFolder
from aipo.trace import Mode
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.data.tokens import read_tokenizer
from kit.recorded import HOSTILE, write_step


def names(root: Path) -> list[str]:
    return [run.name for run in RunLibrary(root).runs()]


def test_runs_and_their_evaluations_are_found(little_runs: Path) -> None:
    aipo = little_runs / "aipo"
    assert names(little_runs) == ["aipo", "aipo/evaluations/after", "grpo"]
    assert names(aipo) == ["aipo", "evaluations/after"]
    assert names(aipo / "traces") == ["aipo"]
    assert names(aipo / "evaluations" / "after") == ["after"]
    alone = RunLibrary(aipo / "evaluations" / "after").run("after")
    assert (alone.folder, alone.evaluation) == (aipo.resolve(), "after")
    with pytest.raises(RunError, match="allowed a run folder, or a folder with runs in it"):
        RunLibrary(little_runs / "nowhere")


def test_a_folder_is_searched_four_levels_deep_without_links(little_runs: Path, tmp_path: Path) -> None:
    for place in ("1/2/3/4/run", "1/2/3/4/5/run", "checkpoints/run", ".hidden/run"):
        shutil.copytree(little_runs / "grpo", (tmp_path / place).parent, dirs_exist_ok=True)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names(tmp_path) == ["1/2/3/4"]


def test_a_run_appears_as_soon_as_it_has_begun_and_goes_with_its_folder(tmp_path: Path) -> None:
    library = RunLibrary(tmp_path)
    assert library.runs() == []
    run = tmp_path / "new"
    run.mkdir()
    (run / "config.yaml").write_text("train: {steps: 3}\n")
    assert library.runs() == []  # somebody's configuration
    (run / "manifest.json").write_text("{}")
    (found,) = library.runs()
    assert (found.name, found.size(), found.index.count(), found.drawing()) == ("new", (0, 0), 0, None)
    assert library.run("new") is found
    shutil.rmtree(run)
    with pytest.raises(RunError, match="run: got 'new', allowed no run at all"):
        library.run("new")


def test_a_run_is_read_from_its_files_and_an_evaluation_has_no_training(little_runs: Path) -> None:
    run = RunLibrary(little_runs).run("aipo")
    assert run.size() == (32, 2)
    assert run.index.count() == 32
    assert [row["step"] for row in run.metrics().rows] == [1, 2]
    assert run.config()["method"]["plan"] == "independent"
    assert "policy" in (run.drawing() or {})["nodes"]
    assert "graph" in run.manifest()["files"]
    assert list(run.evaluations()) == ["after"]
    first = run.index.traces(limit=1)[0]
    (stats,) = run.token_stats(first.trace_id, first.step)
    assert stats.trace_id == first.trace_id
    after = RunLibrary(little_runs).run("aipo/evaluations/after")
    assert (after.metrics().rows, after.token_stats("any", 0), after.drawing()) == ([], [], run.drawing())
    assert after.evaluations()["after"]["easy"]["assisted"].pass_at == {1: 1.0}


def test_files_are_read_again_when_they_have_changed(own_runs: Path) -> None:
    run = RunLibrary(own_runs).run("aipo")
    before = run.version()
    assert run.version() == before
    metrics = own_runs / "aipo" / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 3}\n{"step": 4')  # the last line is being written
    assert [row["step"] for row in run.metrics().rows] == [1, 2, 3]
    later = run.version()
    assert later > before
    experiment = load_experiment(str(own_runs / "aipo" / "config.yaml"))
    write_step(RunFolder(own_runs / "aipo"), experiment, 2, seal=False)
    assert run.version() > later
    assert run.size() == (48, 3)
    assert run.changed() >= os.stat(metrics).st_mtime
    os.utime(own_runs / "aipo" / "evaluations" / "after.json", (9e9, 9e9))  # scores that come last
    library = RunLibrary(own_runs)
    assert [library.run(name).changed() for name in ("aipo", "aipo/evaluations/after")] == [9e9, 9e9]


@pytest.mark.parametrize(
    ("file", "content", "look"),
    [
        ("config.yaml", "a: [", "config"), ("config.yaml", "- a", "config"),
        ("graph.json", "{", "drawing"), ("graph.json", "[]", "drawing"),
        ("manifest.json", "", "manifest"), ("manifest.json", "[" * 100_000, "manifest"),
    ],
)  # fmt: skip
def test_a_file_that_is_broken_is_named(own_runs: Path, file: str, content: str, look: str) -> None:
    (own_runs / "aipo" / file).write_text(content)
    run = RunLibrary(own_runs).run("aipo")
    with pytest.raises(RunError, match=f"(?s){Path(file).name}: got .*, allowed what `aipo` writes, in "):
        getattr(run, look)()


def test_a_torn_file_of_traces_is_named(own_runs: Path) -> None:
    torn = next((own_runs / "aipo" / "traces").glob("step-00001*"))
    torn.write_bytes(torn.read_bytes()[:100])
    run = RunLibrary(own_runs).run("aipo")
    with pytest.raises(RunError, match=r"step-00001-00000\.parquet"):
        run.size()
    with pytest.raises(TraceError, match=r"step-00001-00000\.parquet"):
        _ = run.index


def test_texts_of_tokens_are_the_context_cut_at_its_tokens(little_runs: Path, tmp_path: Path) -> None:
    run = RunLibrary(little_runs).run("aipo")
    stored = [run.index.stored(trace.trace_id) for trace in run.index.traces()]
    trace = next(s.trace for s in stored if s.texts and HOSTILE in s.texts[-1])
    ids = trace.segments[-1].token_ids
    texts = run.token_texts(trace)(ids)
    assert texts is not None and len(texts) == len(ids)
    assert "".join(texts) == f"{HOSTILE}\n#0<eos>" and texts[-1] == "<eos>"
    assert run.token_texts(replace(trace, mode=Mode.TEXT))([104, 105, TextTokenizer.eos_id]) == ["h", "i", ""]
    assert read_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": None}))
    assert read_tokenizer(tmp_path) is None
