"""Credit again: advantages that can be worked out by hand."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, RunError, TrainError
from aipo.replay.questions import credit
from aipo.replay.questions.credit import replay_credit
from aipo.trace import Mode
from aipo.trace.store import TraceStore
from aipo.util.files import busy
from kit import handmade
from kit.commands import invoke
from kit.recorded import report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two assisted and two solo rollouts with rewards 1, 1, 1, 0 and the advantages R − mean."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(load_experiment("mask", ["method.scale_by_std=false"]).to_yaml())
    traces = [
        handmade.trace(
            *(handmade.prompt(2, 3), handmade.policy(4, 5, version=0)),
            trace_id=f"r/00000-000/{i}",
            group_id="00000-000",
            index=i,
            mode=Mode.ASSISTED if i < 2 else Mode.SOLO,
            reward=1.0 if i < 3 else 0.0,
            advantage=0.25 if i < 3 else -0.75 * 0.3,
        )
        for i in range(4)
    ]
    with TraceStore(folder / "traces") as store:
        store.seal(0, traces)
    return folder


def replay(run: Path, out: Path, *overrides: str, **changes: Any) -> list[dict]:
    given = {"grid": (), "steps": None, "console": Console(file=io.StringIO())} | changes
    assert replay_credit(run, overrides=overrides, out=out, **given) == 0
    return report(out)["values"]


def test_every_setting_against_the_stored_advantages(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lines = replay(run, out, grid=("method.per_mode_baseline=false,true", "method.negative_weight=0.3,1"))
    assert [line["setting"] for line in lines] == [
        "per_mode_baseline=false, negative_weight=0.3 (as recorded)",
        "per_mode_baseline=false, negative_weight=1",
        "per_mode_baseline=true, negative_weight=0.3",
        "per_mode_baseline=true, negative_weight=1",
    ]
    with (out / "credit.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head[:5] == ["trace_id", "step", "group_id", "kind", "reward"]
    assert rows[0][:5] == ["r/00000-000/0", "0", "00000-000", "assisted", "1.0"]
    columns = list(zip(*rows, strict=True))[5:]
    assert [[float(value) for value in column] for column in columns] == [
        [0.25, 0.25, 0.25, pytest.approx(-0.225)],
        [0.25, 0.25, 0.25, -0.75],
        [0.0, 0.0, 0.5, pytest.approx(-0.15)],
        [0.0, 0.0, 0.5, -0.5],
    ]
    assert [line["changed"] for line in lines] == [0, 1, 4, 4]
    assert [line["flipped"] for line in lines] == [0, 0, 2, 2]
    assert [line["largest"] for line in lines] == pytest.approx([0.0, 0.525, 0.25, 0.275])
    assert [line["zero_variance"] for line in lines] == [0.0, 0.0, 0.5, 0.5]
    assert lines[2]["|A| assisted"] == 0.0
    assert lines[2]["|A| solo"] == pytest.approx(0.325)
    assert lines[0]["|A| suppressed"] is None
    assert json.loads((out / "ended.json").read_text()) == {"state": "finished", "reason": ""}
    assert not load_experiment(
        str(out / "config.yaml")
    ).method.per_mode_baseline  # as recorded: it is of no single one
    assert not (out / "traces").exists()
    (table,) = report(out)["tables"]
    assert [row[0] for row in table["rows"]] == [line["setting"] for line in lines]


def test_one_setting_leaves_traces_with_its_advantages(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    replay(run, out, "method.per_mode_baseline=true")
    kept = list(TraceStore(out / "traces").read())
    assert [trace.advantage for trace in kept] == [0.0, 0.0, 0.5, pytest.approx(-0.15)]
    assert [trace.trace_id for trace in kept] == [f"out/00000-000/{i}" for i in range(4)]
    assert [trace.parent_id for trace in kept] == [f"r/00000-000/{i}" for i in range(4)]
    assert load_experiment(str(out / "config.yaml")).method.per_mode_baseline


@pytest.mark.parametrize("sealed", [False, True])
def test_a_replay_that_fails_says_why_where_it_has_results_and_else_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    def fail(*_: object) -> None:
        assert busy(tmp_path / "out")  # it counts as running
        raise TrainError("the advantages are odd")

    if sealed:  # the first step is written
        monkeypatch.setattr(credit, "stage", lambda *_: fail)
    else:
        monkeypatch.setattr(credit, "_step_facts", fail)
    with pytest.raises(TrainError):
        replay(run, tmp_path / "out")
    assert (tmp_path / "out").exists() is sealed
    if sealed:
        ended = json.loads((tmp_path / "out" / "ended.json").read_text())
        assert ended == {"state": "failed", "reason": "TrainError: the advantages are odd"}


def test_only_credit_of_stored_steps_can_be_changed(run: Path, tmp_path: Path) -> None:
    allowed = r"got 'method\.coefficient', allowed method\.attribution, method\.credit, method\.negative"
    with pytest.raises(ConfigError, match=allowed):
        replay(run, tmp_path / "out", "method.coefficient=mask")
    with pytest.raises(RunError, match=r"--steps: got \(900, None\), allowed steps of .*traces"):
        replay(run, tmp_path / "out", steps=(900, None))
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(run: Path, tmp_path: Path) -> None:
    words = ["replay", "credit", run, "--grid", "method.negative_weight=0.3,1", "--steps", "0..", "--out"]
    assert invoke(*words, tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "credit.csv").is_file()
    with (run / "traces" / "step-00001-00000.parquet").open("w") as file:
        file.write("torn")
    assert invoke(*words, tmp_path / "again").exit_code == 3
    (left,) = json.loads((tmp_path / "again" / "left_out.json").read_text())
    assert left["what"].endswith("step-00001-00000.parquet")
    assert report(tmp_path / "again")["values"][0]["changed"] == 0
