"""A chat template that asks for the date is told the day on which the run began, on whatever day anybody reads it."""

import io
import json
import pickle
import shutil
from datetime import date
from pathlib import Path

import pytest
from rich.console import Console

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, RunError
from aipo.evaluate.run import evaluate_folder
from aipo.export.chat_template import TokenTexts
from aipo.replay.questions.rerun import ReplaySource, check_traces
from aipo.run import RunFolder
from aipo.trace import Role
from aipo.trace.store import TraceStore
from aipo.train.resume import same_run
from kit import tiny_run
from kit.handmade import trace

DAY = date(2024, 7, 26)
EVALUATION = "evaluate={samples: 1, ks: [1], settings: [solo], splits: [hard]}"
QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was trained on another day than today."""
    folder = tmp_path_factory.mktemp("dated")
    tiny_run.model_folder(folder / "start")
    template = "{{ strftime_now('%Y+%m+%d') }}={{ messages[0].content }}"
    (folder / "start" / "chat_template.jinja").write_text(template)
    experiment = tiny_run.config(folder, EVALUATION)
    experiment.date = DAY
    tiny_run.train(experiment)
    return folder


def named(begun: Path) -> dict[str, str]:
    """The run's code, to be imported where it was not recorded here."""
    return {"graph.name": f"{begun / 'code.py'}:helped", "env.name": f"{begun / 'code.py'}:Parity"}


def days(traces: Path) -> set[str]:
    stored = TraceStore(traces).stored()
    return {
        text[:10]
        for one in stored
        for text, s in zip(one.texts, one.trace.segments, strict=True)
        if s.role is Role.PROMPT
    }


def test_it_is_recorded_and_told_to_every_rollout(begun: Path) -> None:
    run = RunFolder(begun / "run")
    assert (run.read_date(), days(run.traces)) == (DAY, {"2024+07+26"})
    assert load_experiment(str(run.config), of_run=True).date == DAY


def test_a_replay_says_the_same(begun: Path) -> None:
    overrides = [f"{key}={name}" for key, name in named(begun).items()]
    assert check_traces(ReplaySource(path=begun / "run", overrides=overrides), QUIET) == 0


def test_a_resumed_run_and_an_evaluation_go_on_with_it(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path / "copy")
    experiment = tiny_run.config(tmp_path / "copy", EVALUATION)
    assert experiment.date == date.today() != DAY
    experiment = experiment.with_settings({"policy.model": str(begun / "start"), **named(begun)})
    run = RunFolder(tmp_path / "copy" / "run")
    shutil.rmtree(run.checkpoints / "checkpoint-6")
    tiny_run.train(experiment, resume=True, evaluate_after=True)
    assert (days(run.traces), days(run.evaluation_traces("after"))) == ({"2024+07+26"}, {"2024+07+26"})
    evaluate_folder(run.path, None, (), name="later", console=QUIET)
    assert (run.read_date(), days(run.evaluation_traces("later"))) == (DAY, {"2024+07+26"})


def test_another_day_is_another_run(begun: Path) -> None:
    run = RunFolder(begun / "run")
    experiment = load_experiment(str(run.config), ["run.date=2024-07-27"], of_run=True)
    with pytest.raises(ConfigError, match=r"run\.date: '2024-07-27', was '2024-07-26'"):
        same_run(run, experiment)


def test_an_export_takes_the_template_off_as_it_was(begun: Path) -> None:
    run = RunFolder(begun / "run")
    sampled = trace()
    assert TokenTexts(run.tokenizer, run.read_date()).question(sampled, "2024+07+26=3@7") == "3@7"
    assert TokenTexts(run.tokenizer).question(sampled, "2024+07+26=3@7") is None


def test_worker_processes_and_other_experiments_of_the_run_are_told_the_same() -> None:
    experiment = load_experiment("aipo_distil")
    experiment.date = DAY
    others = (
        pickle.loads(pickle.dumps(experiment.share_of(0))),
        experiment.for_evaluation(),
        experiment.with_settings({"run.seed": 3}),
    )
    assert [other.date for other in others] == [DAY] * 3


def test_a_run_of_before_has_none_and_one_that_is_no_day_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_date() is None
    for text in ("{}", "run: {seed: 3}", "run: {date: null}"):
        run.config.write_text(text)
        assert run.read_date() is None
    run.config.write_text(json.dumps({"run": {"date": "someday"}}))
    with pytest.raises(RunError, match=r"run\.date in .*: got Invalid isoformat string: 'someday'"):
        run.read_date()
