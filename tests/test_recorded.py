"""A run folder that was recorded before settings, metrics and kinds of rollouts got their present names."""

import importlib.util
import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from aipo import recorded
from aipo.config.build import load_experiment
from aipo.errors import ConfigError
from aipo.export.run import ExportOptions, consult_tags, export_run
from aipo.method.metrics import check_declared
from aipo.render import terminal
from aipo.replay.questions.grid import settings
from aipo.replay.questions.rerun import ReplaySource, check_traces
from aipo.replay.recordings import Recordings
from aipo.replay.restore import recorded_experiment, restore
from aipo.run import RunFolder
from aipo.trace.filters import Filter
from aipo.trace.index import TraceIndex
from aipo.trace.store import TraceStore
from aipo.train.resume import differences, same_run, take_up
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.links import Links
from aipo.viewer.pages.trace import trace_page

RECORDED = Path(__file__).parent / "kit" / "run_before"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A copy of it: two steps of 16 rollouts, an evaluation, and no model."""
    return RunFolder(Path(shutil.copytree(RECORDED, tmp_path / "before")))


def test_its_settings_have_the_present_names(run: RunFolder) -> None:
    experiment = load_experiment(str(run.config), of_run=True)
    method, rollout = experiment.method, experiment.rollout
    assert (method.suppress_share, method.distil_weight, method.distil_suppress) == (0.5, 1.0, True)
    assert (method.beta, method.importance_cap, method.coefficient_clip_low) == (0.0, None, None)
    assert (rollout.failure_limit, rollout.cost_limit) == (0.5, None)
    assert experiment.evaluation.settings == ("solo", "suppressed", "assisted")
    assert experiment.train.token_stats


@pytest.mark.parametrize(
    ("manifest", "preset"),
    [
        ({"preset": "aipo"}, "aipo_distil"),
        ({"preset": "aipo", "command": "train"}, "aipo"),
        ({"preset": "grpo"}, "grpo"),
        ({}, None),
    ],
)
def test_its_preset_has_the_present_name(
    run: RunFolder, manifest: dict[str, str], preset: str | None
) -> None:
    run.manifest.write_text(json.dumps(manifest))
    library = RunLibrary(run.path)
    read = [run.read_manifest(), library.runs()[0].manifest()]
    assert [one.get("preset") for one in read] == [preset, preset]


def test_it_can_be_gone_on_with(run: RunFolder) -> None:
    experiment = load_experiment(str(run.config), of_run=True)
    take_up(run, experiment)
    same_run(run, experiment)
    assert differences(run.config, load_experiment(str(run.config), of_run=True), ()) == []
    other = load_experiment(str(run.config), ["method.distil_weight=0.5"], of_run=True)
    with pytest.raises(ConfigError, match=r"method\.distil_weight: 0\.5, was 1\.0"):
        same_run(run, other)


def test_a_configuration_of_somebodys_own_has_to_have_the_present_names(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"method\.kl: unknown key"):
        load_experiment(str(run.config))
    with pytest.raises(ConfigError, match=r"method\.kl: unknown key"):
        load_experiment("aipo_distil", ["method.kl=0.1"])


def test_a_number_that_is_not_finite_is_read(run: RunFolder) -> None:
    settings = yaml.safe_load(run.config.read_text())
    settings["env"]["options"]["size"] = math.inf
    settings["rollout"]["reward_weights"] = {"correct": 1.0, "length": -math.inf}
    run.config.write_text(yaml.safe_dump(settings))
    experiment = load_experiment(str(run.config), of_run=True)
    assert experiment.with_settings({"run.seed": 5}).rollout.reward_weights["length"] == -math.inf
    with pytest.raises(ConfigError, match=r"size: got inf, allowed finite numbers, and null where"):
        load_experiment(str(run.config))
    with pytest.raises(ConfigError, match=r"env\.options\.size: got inf"):
        experiment.with_settings({"env.options.size": math.inf})


def test_what_looks_like_a_secret_is_read_and_refused_where_it_is_new(run: RunFolder) -> None:
    settings = yaml.safe_load(run.config.read_text())
    options = {"default_headers": {"X-Auth": "team-a"}, "servers": ["http://me:x@h"]}
    settings["agents"]["verify"] |= {"options": options, "secrets": {"api_key": "JUDGE KEY"}}
    settings["policy"]["vllm"]["secret"] = "9KEY"
    run.config.write_text(yaml.safe_dump(settings))
    experiment = load_experiment(str(run.config), ["agents.verify.options.seed=5"], of_run=True)
    for one in (experiment, experiment.with_settings({"run.seed": 5})):
        assert one.agents["verify"].options == {**options, "seed": 5}
        assert (one.agents["verify"].secrets, one.policy.vllm.secret) == ({"api_key": "JUDGE KEY"}, "9KEY")
    assert recorded_experiment(Recordings(path=run.path), []).agents["verify"].options == options
    for override in ("agents.verify.options.api_key=k1", "agents.verify.options.default_headers.X-Auth=k1"):
        with pytest.raises(
            ConfigError, match=r"agents\.verify\.options: got \['(api_key|default_headers\.X-Auth)'\] in"
        ):
            load_experiment(str(run.config), [override], of_run=True)
    with pytest.raises(ConfigError, match=r"policy\.vllm\.secret: got no NAME of an environment variable"):
        load_experiment(str(run.config), ["policy.vllm.secret=sk-0123456789"], of_run=True)


def test_an_agent_that_is_the_policy_as_it_began() -> None:
    agents = {"verify": {"model": "aipo.frozen:frozen"}, "other": {"model": "mine:model"}, "none": {}}
    named = recorded.settings({"agents": agents, "method": {"coefficient_clip": [None, 2.0]}})
    as_it_spoke = {"thinking": {}}  # thinking was a part of what an agent said
    assert named["agents"]["verify"] == {"model": "aipo.rollout.reference_chat:reference", **as_it_spoke}
    assert named["agents"]["other"] == {**agents["other"], **as_it_spoke}
    assert named["agents"]["none"] == as_it_spoke
    assert named["method"] == {"coefficient_clip_low": None, "coefficient_clip_high": 2.0}


def test_what_it_imports_is_where_it_is_now(run: RunFolder) -> None:
    experiment = load_experiment(str(run.config), of_run=True)
    assert experiment.policy.model == "envs.miniature.model:cold_start"
    assert experiment.agents["verify"].model == "envs.miniature.agents:verify"
    assert recorded.imported("envs.math_verdict:matches") == "envs.math.verdict:matches"
    assert [recorded.imported(name) for name in ("gpt-5", "envs.math:Math")] == ["gpt-5", "envs.math:Math"]
    assert recorded.chat_settings({"class": "envs.miniature_agents:verify", "seed": 1}) == {
        "class": "envs.miniature.agents:verify",
        "seed": 1,
    }
    for module in recorded._MODULES.values():
        assert importlib.util.find_spec(module) is not None


def test_options_of_the_miniature_have_the_present_names() -> None:
    knowledge = {
        "model": "envs.miniature_agents:knowledge",
        "options": {"asides": 2, "aside_error_rate": 0.5},
    }
    policy = {"model": "envs.miniature_model:cold_start", "options": {"course": "asides", "steps": 9}}
    named = recorded.settings({"agents": {"knowledge": knowledge}, "policy": policy})
    assert named["agents"]["knowledge"]["options"] == {"distractors": 2, "distractor_error_rate": 0.5}
    assert named["policy"]["options"] == {"course": "distractors", "steps": 9}
    other = {"model": "mine:model", "options": {"asides": 2}}
    assert recorded.settings({"policy": other})["policy"] == other


def test_its_consult_tags_are_known_to_an_export(run: RunFolder) -> None:
    assert "<consult:verify>" in consult_tags(run) and len(consult_tags(run)) == 6


def test_code_that_only_it_names_is_not_run(run: RunFolder, tmp_path: Path) -> None:
    """A run folder may be anybody's: its coefficient `file.py:function` is imported only if you name it."""
    file = tmp_path / "theirs.py"
    file.write_text("raise SystemExit('it was run')\n")
    text = run.config.read_text(encoding="utf-8")
    run.config.write_text(text.replace("coefficient: mask", f"coefficient: {file}:half"), encoding="utf-8")
    recordings = Recordings(path=run.path)
    experiment = recorded_experiment(recordings, [], live=True)
    assert restore(recordings, experiment, run_id="live", live=True).built.method.coefficient == "mask"
    assert check_traces(ReplaySource(path=run.path), Console(file=io.StringIO())) == 0
    with pytest.raises(ConfigError, match=r"method\.coefficient: got .*theirs\.py:half' from the recorded"):
        settings(str(run.config))


def test_its_metrics_have_the_present_names(run: RunFolder) -> None:
    rows = run.read_metrics()
    assert len(rows) == 2
    for row in rows:
        check_declared(row.keys() - {"step"})
        assert row["rollouts/suppressed"] > 0 and "solo/easy_train" in row and "mismatch/mean" in row


def test_its_evaluation_has_the_present_names(run: RunFolder) -> None:
    assert [*run.read_evaluation("after")["easy"]] == ["solo", "suppressed", "assisted"]


def test_it_is_listed(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    index, where = TraceIndex(run.traces, resident=False), Filter(kind="suppressed")
    terminal.print_list(index, where, groups=False, order=None, limit=50, as_json=True, console=Console())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines and {line["kind"] for line in lines} == {"suppressed"}
    for resident in (False, True):
        kinds = TraceIndex(run.traces, resident=resident).sql("SELECT DISTINCT kind FROM traces")[1]
        assert {kind for (kind,) in kinds} == {"assisted", "solo", "suppressed"}


@pytest.mark.parametrize("resident", [True, False])
def test_it_is_listed_beside_traces_that_have_reasons(run: RunFolder, resident: bool) -> None:
    [before, *_] = TraceStore(run.traces).read()
    assert before.reason is None
    with TraceStore(run.traces, decode=lambda ids: "") as store:
        store.seal(2, [replace(before, step=2, trace_id="new", reason="no box")])
    index = TraceIndex(run.traces, resident=resident)
    (new,) = index.traces(Filter(reason="No Box"))
    assert (new.trace_id, new.reason) == ("new", "no box")
    assert index.sql("SELECT count(*), count(reason) FROM traces")[1] == [(33, 1)]
    assert index.stored("new").trace.reason == "no box"


def test_it_is_viewed(run: RunFolder) -> None:
    (view, evaluation) = sorted(RunLibrary(run.path.parent).runs(), key=lambda one: one.name)
    assert view.config()["method"]["distil_weight"] == 1.0
    assert view.metrics().rows[0]["mismatch/mean"] is not None and view.problems() == []
    assert [*view.evaluations()["after"]["easy"]] == ["solo", "suppressed", "assisted"]
    assert evaluation.index.refresh() >= 0
    for trace in TraceStore(run.traces).read():
        page = trace_page(view, trace.trace_id, Links(2))
        assert trace.trace_id in page
    assert any(view.token_stats(t.trace_id, t.step) for t in TraceStore(run.traces).read())


@pytest.mark.parametrize("format", ["jsonl", "sft"])
def test_it_is_exported(run: RunFolder, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out.jsonl"
    export_run(run.path, ExportOptions(format=format, out=out), Console(file=io.StringIO()))
    assert out.read_text().count("\n") > 2


@pytest.mark.parametrize("folder", ["", "evaluations/after"])
def test_a_replay_of_it_finds_all_identical(run: RunFolder, folder: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    assert check_traces(ReplaySource(path=run.path / folder), console) == 0
    count = 6 if folder else 32
    assert f"{count} traces: {count} identical, 0 diverged" in console.file.getvalue()  # type: ignore[attr-defined]
