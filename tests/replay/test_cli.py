"""`aipo replay ...` as it is typed: words, exit codes and what is left behind."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import graphs
from aipo.cli import app
from aipo.errors import ConfigError, RunError
from aipo.run import RunFolder
from aipo.trace.store import TraceStore
from kit.recorded import contents

PROMPTS = Path(graphs.__file__).parent / "prompts"


def replay(*words: object) -> Result:
    return CliRunner().invoke(app, ["replay", *map(str, words)], env={"COLUMNS": "200"})


def test_check(run: RunFolder) -> None:
    done = replay("check", run.path, "step=0")
    assert done.exit_code == 0 and "4 traces: 4 identical, 0 diverged" in done.output


def test_score_with_other_weights_leaves_a_run(run: RunFolder, tmp_path: Path) -> None:
    before = contents(run.path)
    done = replay("score", run.path, "rollout.reward_weights.correct=0.5", "--out", tmp_path / "new")
    assert done.exit_code == 0, done.output
    new = list(TraceStore(tmp_path / "new" / "traces").read())
    assert [t.reward for t in new] == [0.5, 0.0] * 4
    old = list(TraceStore(run.traces).read())
    assert [t.parent_id for t in new] == [t.trace_id for t in old]
    assert contents(run.path) == before
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert manifest["replay_of"]["run_id"] == "aipo"


def test_a_frozen_replay_of_an_edited_prompt_says_where_it_would_ask(run: RunFolder, tmp_path: Path) -> None:
    mine = tmp_path / "prompts"
    mine.mkdir()
    text = (PROMPTS / "knowledge.md").read_text()
    (mine / "knowledge.md").write_text(text.replace("Task: answer", "Task: answer!"))
    done = replay("graph", run.path, "--prompts", mine, "--frozen", "--out", tmp_path / "new")
    assert "call of knowledge" in done.output
    new = list(TraceStore(tmp_path / "new" / "traces").read())
    assert ["needs a live call here" in (t.error or "") for t in new[:2]] == [True, False]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["check", "RUN", "agents=verify"], ConfigError, "the filter: got 'agents'"),
        (["check", "RUN", "verify"], ConfigError, "got 'verify', allowed key=value"),
        (["check", "NOWHERE"], RunError, "allowed a run, one of its evaluations, or a folder of traces"),
        (["score", "RUN", "--out", "RUN"], RunError, "which is only read"),
    ],
)
def test_what_is_wrong_is_said(
    run: RunFolder, words: list[str], error: type[Exception], message: str
) -> None:
    done = replay(*(str(run.path) if word == "RUN" else word for word in words))
    assert isinstance(done.exception, error) and message in str(done.exception)
