"""Two policies of different sizes learn together: what they leave, how they go on, and what ends them."""

import json
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from aipo.config.build import Experiment
from aipo.errors import AipoError, ConfigError, RunError, TrainError
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.store import TraceStore
from aipo.train.checkpoints import last_checkpoints
from aipo.train.peers.abilities import ability
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.data.overview import overviews
from aipo.viewer.links import Links
from aipo.viewer.pages.trace import trace_page
from kit import tiny_peers
from kit.commands import invoke
from kit.servers import serving
from kit.tiny_vllm import Reloading

NAMES = ("left", "right")
MEASURED = ("method.abilities.split=easy", "method.abilities.steps=2", "method.abilities.tasks=8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of three rollout steps."""
    folder = tmp_path_factory.mktemp("peers")
    return RunFolder(tiny_peers.train(tiny_peers.config(folder, *MEASURED), evaluate_after=True))


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.model / "model.safetensors")


def traces(folder: RunFolder) -> list[Trace]:
    return [trace for step in range(3) for trace in TraceStore(folder.traces).read(step)]


def same(one: RunFolder, other: RunFolder) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_each_policy_has_a_run_folder_of_its_own(run: RunFolder):
    assert sorted(entry.name for entry in (run.path / "policies").iterdir()) == ["left", "right"]
    assert not any(entry.exists() for entry in (run.traces, run.model, run.metrics, run.checkpoints))
    widths = {name: weights(run.of_policy(name))["lm_head.weight"].shape[1] for name in NAMES}
    assert widths == {"left": 16, "right": 24}
    for name in NAMES:
        own = run.of_policy(name)
        assert [json.loads(run.ended.read_text()), json.loads(own.ended.read_text())] == [
            {"state": "finished", "reason": ""}
        ] * 2
        assert sorted(path.name for path in own.checkpoints.iterdir()) == [
            *("checkpoint-2", "checkpoint-4", "checkpoint-6")
        ]
        assert [line["step"] for line in own.read_metrics()] == [1, 2, 3, 4, 5, 6]
        assert set(own.read_evaluation("after")) == {"easy"}
    rates = {name: run.of_policy(name).read_metrics()[0]["learning_rate"] for name in NAMES}
    assert rates["right"] < rates["left"]


def test_one_run_of_the_graph_leaves_a_trace_for_each(run: RunFolder):
    left, right = (traces(run.of_policy(name)) for name in NAMES)
    assert len(left) == len(right) == 3 * 4 * 6
    for a, b in zip(left, right, strict=True):
        assert (a.policy, b.policy) == ("left", "right")
        assert (a.step, a.group_id, a.index, a.task_id) == (b.step, b.group_id, b.index, b.task_id)
        assert a.policy_version == b.policy_version == 2 * a.step
        assert (a.error, b.error) == (None, None) and a.visits == b.visits
    assert {segment.source for trace in left for segment in trace.segments if segment.role == "agent"} == {
        "right"
    }


def test_abilities_are_measured_when_they_are_due(run: RunFolder):
    lines = [json.loads(line) for line in run.abilities.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2]
    for line in lines:
        assert line["abilities"] == {name: ability(*line["solved"][name]) for name in NAMES}
    for trace in traces(run.of_policy("left")):
        assert trace.sampling["abilities"] == lines[trace.step // 2]["abilities"]


@pytest.mark.parametrize(
    ("solved", "tasks", "gamma"),
    [(1, 2, 0.0), (3, 4, 0.6462), (0, 2, -0.6462), (2, 2, 0.6462), (1, 4, -0.6462)],
)
def test_an_ability_is_the_logit_of_the_share_that_is_solved(solved: int, tasks: int, gamma: float):
    assert ability(solved, tasks) == pytest.approx(gamma, abs=1e-4)


@pytest.mark.parametrize(
    "lost",
    [
        [],
        # killed when left had saved step 2, and right had not
        [("left", 6), ("right", 6), ("right", 4)],
        # killed before right's first checkpoint
        [("left", 6), ("left", 4), ("right", 6), ("right", 4), ("right", 2)],
    ],
)
def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    run: RunFolder, tmp_path: Path, lost: list[tuple[str, int]]
):
    again = RunFolder(tmp_path / "run")
    shutil.copytree(run.path, again.path)
    shutil.rmtree(again.of_policy("left").model)
    again.ended.unlink()
    for name, version in lost:
        shutil.rmtree(again.of_policy(name).checkpoints / f"checkpoint-{version}")
    made = tiny_peers.config(run.path.parent, *MEASURED, f"run.out={again.path}")
    tiny_peers.train(made, resume=True)
    for name in NAMES:
        assert same(run.of_policy(name), again.of_policy(name))
        before, now = traces(run.of_policy(name)), traces(again.of_policy(name))
        assert [t.token_ids.tolist() for t in before] == [t.token_ids.tolist() for t in now]
        assert [t.advantage for t in before] == [t.advantage for t in now]


def test_policies_go_on_from_the_same_step(run: RunFolder, tmp_path: Path):
    folders = [RunFolder(tmp_path / name) for name in NAMES]
    for folder in folders:
        shutil.copytree(run.of_policy(folder.path.name).checkpoints, folder.checkpoints)
    assert [one.path and one.path.name for one in last_checkpoints(folders)] == ["checkpoint-6"] * 2
    (folders[1].checkpoints / "checkpoint-6" / "model.safetensors").write_bytes(b"torn")
    left, right = last_checkpoints(folders)
    assert [one.path and one.path.name for one in (left, right)] == ["checkpoint-4"] * 2
    shutil.rmtree(folders[1].checkpoints)
    assert [one.path for one in last_checkpoints(folders)] == [None, None]


# -- what ends a run -----------------------------------------------------------------------------------------


def test_a_policy_that_breaks_ends_the_run_and_nothing_finished_is_lost(tmp_path: Path):
    """The weights of `right` are too large after one optimizer step."""
    made = tiny_peers.config(tmp_path)
    made = made.with_settings({"policies.right.learning_rate": 1e30})
    with pytest.raises(TrainError, match="got NaN or infinity"):
        tiny_peers.train(made)
    run = RunFolder(made.out)
    assert {json.loads(run.of_policy(name).ended.read_text())["state"] for name in NAMES} == {"failed"}
    for name in NAMES:
        assert len(list(TraceStore(run.of_policy(name).traces).read(0))) == 24


def test_a_rollout_in_which_a_peer_fails_is_a_recorded_failure(tmp_path: Path):
    task = tiny_peers.config(tmp_path).tasks(0)[0].task_id
    made = tiny_peers.config(tmp_path, f"graph.options.fails={task}", "train.steps=1")
    run = RunFolder(tiny_peers.train(made))
    failed = [trace for trace in TraceStore(run.of_policy("left").traces).read(0) if trace.failed]
    assert {trace.error for trace in failed} == {"PolicyError: its server is gone (in node share)"}
    assert {trace.task_id for trace in failed} == {task} and {t.advantage for t in failed} == {None}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policies.right": None}, "policies: got ['left'], allowed two or more"),
        ({"train.gradient_accumulation": 2}, "train.gradient_accumulation: got 2, allowed 1 with policies"),
        (
            {"evaluate.settings": ["assisted"]},
            "evaluate.settings: got ['assisted'], allowed solo with policies",
        ),
        ({"agents": {"verify": {"graph": "graphs.verify:verify"}}}, "agents: got ['verify'], allowed none"),
        ({"policies": {"a/b": {}, "c": {}}}, "policies.a/b"),
        (
            {"policies": {n: {"engine": "vllm", "vllm": {"servers": ["http://one"]}} for n in NAMES}},
            "policies.*.vllm.servers: got ['http://one'], allowed servers of each policy's own",
        ),
        (
            {"policies": {}, "method.abilities.split": "easy"},
            "method.abilities.split: got 'easy' with one policy",
        ),
        ({"policies.right.engin": "vllm"}, "policies.right.engin: unknown key"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
):
    with pytest.raises(ConfigError) as caught:
        tiny_peers.config(tmp_path).with_settings(changes)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("override", "error", "reason"),
    [
        ("graph={name: 'graphs.solo:solo'}", ConfigError, "allowed a function with a parameter `policies`"),
        ("method.abilities.split=none", ConfigError, "method.abilities.split: got ['none'], allowed"),
        ("policies.right.model=nowhere", Exception, "nowhere"),
    ],
)
def test_a_failed_start_leaves_no_folder(tmp_path: Path, override: str, error: type[Exception], reason: str):
    made = tiny_peers.config(tmp_path, override)
    with pytest.raises(error) as caught:
        tiny_peers.train(made)
    assert reason in str(caught.value) and not made.out.exists()


def test_a_launcher_with_several_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="policies: got 2 processes of a launcher, allowed one"):
        tiny_peers.train(tiny_peers.config(tmp_path))


def test_a_run_is_not_begun_over_another(run: RunFolder):
    with pytest.raises(RunError, match="which is not empty"):
        tiny_peers.train(tiny_peers.config(run.path.parent))


def test_what_one_policy_leaves_out_is_as_for_all(tmp_path: Path):
    made = tiny_peers.config(tmp_path, "policy.max_batch=7", "policies.left.max_batch=3")
    assert [made.of_policy(name).policy.max_batch for name in NAMES] == [3, 7]
    left = made.of_policy("left")
    assert (left.peers, left.policy_names, left.out) == ((), ("policy",), made.out / "policies" / "left")


@pytest.mark.parametrize("command", ["eval", "warmup", "doctor"])
def test_commands_for_one_policy_refuse_several(run: RunFolder, command: str):
    with pytest.raises(
        ConfigError, match=r"policies: got \['left', 'right'\] with .*which is for one policy"
    ):
        invoke(command, "--config", run.config)


def test_each_policy_is_evaluated_and_looked_at_as_that_of_any_run(run: RunFolder):
    with pytest.raises(ConfigError, match=f"allowed the folder of one of them \\({run.path}/policies/left"):
        invoke("eval", "--run", run.path)
    left = run.of_policy("left")
    assert invoke("eval", "--run", left.path, "--name", "again", "evaluate.samples=1").exit_code == 0
    assert set(left.read_evaluation("again")) == {"easy"}
    assert "2 of 72 traces" in invoke("traces", left.path, "--limit", "2").output


def test_the_viewer_lists_each_policy(run: RunFolder):
    names = [line.name for line in overviews(RunLibrary(run.path.parent), now=0.0) if line.kind == "run"]
    assert names == ["run/policies/left", "run/policies/right"]
    assert [line.name for line in overviews(RunLibrary(run.path), now=0.0) if line.kind == "run"] == [
        *("policies/left", "policies/right")
    ]


def test_a_trace_links_to_what_the_other_policy_wrote_in_the_same_rollout(run: RunFolder):
    library = RunLibrary(run.path.parent)
    view, trace = library.run("run/policies/left"), traces(run.of_policy("left"))[0]
    page = trace_page(view, trace.trace_id, links := Links(3), library)
    other = links.trace("run/policies/right", f"{trace.trace_id.removesuffix('/left')}/right")
    assert f'<a href="{other}">right\'s trace</a>' in page.replace("&#39;", "'")
    evaluated = library.run("run/policies/left/evaluations/after")
    assert "right's trace" not in trace_page(evaluated, evaluated.index.traces()[0].trace_id, links, library)


# -- replays -------------------------------------------------------------------------------------------------


@pytest.fixture
def left(run: RunFolder, tmp_path: Path) -> Path:
    """The run's left policy, in a copy of the run."""
    shutil.copytree(run.path, tmp_path / "run")
    return RunFolder(tmp_path / "run").of_policy("left").path


def test_replayed_credit_is_that_of_the_run(left: Path):
    """Calibration needs the rewards of the other policies, which stand beside."""
    done = invoke("replay", "credit", left, columns=200)
    assert done.exit_code == 0
    [line] = [line for line in done.output.splitlines() if "as recorded" in line]
    assert line.split()[-2:] == ["0", "0"]  # changed and flipped


def test_the_replayed_loss_is_that_of_the_run(left: Path):
    done = invoke("replay", "loss", left, "--steps", "1", columns=200)
    assert "the same loss in 1 step, to within 0" in " ".join(done.output.split())


def test_offline_training_of_one_policy_takes_the_calibrated_advantages(left: Path, tmp_path: Path):
    out = tmp_path / "again"
    done = invoke("replay", "train", left, "--out", out, "--steps", "0")
    assert done.exit_code == 0
    before = {t.index: t.advantage for t in TraceStore(left / "traces").read(0) if t.group_id.endswith("000")}
    now = {t.index: t.advantage for t in TraceStore(out / "traces").read(0) if t.group_id.endswith("000")}
    assert before == now


@pytest.fixture
def code(run: RunFolder) -> list[str]:
    """The run's code stands in a file, which has to be named."""
    file = run.path.parent / "code.py"
    return [f"graph.name={file}:talk", f"env.name={file}:Parity"]


def test_a_discussion_runs_again_as_recorded(left: Path, code: list[str]):
    done = invoke("replay", "check", left, *code, columns=200)
    assert (done.exit_code, "72 traces: 72 identical, 0 diverged" in done.output) == (0, True)
    done = invoke("replay", "check", left, "step=1", "kind=assisted", *code, columns=200)
    assert "12 traces: 12 identical, 0 diverged" in done.output
    assert sorted(entry.name for entry in left.parent.iterdir()) == ["left", "right"]


def test_a_discussion_that_goes_another_way_goes_on_with_the_policies_of_both(left: Path, code: list[str]):
    """Three letters end a turn, where 52 did: the first turns are longer, and nothing behind them is as it was."""
    done = invoke(
        "replay", "graph", left, "step=0", *code, "graph.options.stops=3", "--policy", "start", columns=200
    )
    assert done.exit_code == 0, done.output
    out = RunFolder(left.parents[2] / "run-left-graph")
    assert f"run folder {out.of_policy('left').path}" in done.output
    for name in NAMES:
        new, old = (
            list(TraceStore(folder.traces).read(0))
            for folder in (out.of_policy(name), RunFolder(left.with_name(name)))
        )
        assert [trace.parent_id for trace in new] == [trace.trace_id for trace in old]
        assert {trace.policy for trace in new} == {name} and not any(trace.error for trace in new)
        assert [trace.policy_version for trace in new] == [0] * 24  # the weights of the start
        assert [t.seed for t in new] == [t.seed for t in old]
        longer = [
            a.segments[1].token_ids.size > b.segments[1].token_ids.size for a, b in zip(new, old, strict=True)
        ]
        assert sum(longer) > 12
    report = json.loads((out.of_policy("left").path / "replay.json").read_text())
    assert report["question"] == "graph"
    # What came out is a run of both policies, too.
    assert invoke("replay", "check", out.of_policy("right").path, *code).exit_code == 0
    assert (
        invoke("replay", "credit", out.of_policy("right").path, "--out", out.path.parent / "c").exit_code == 0
    )


def test_a_discussion_is_scored_again_for_each_policy(left: Path, code: list[str]):
    done = invoke("replay", "score", left, *code, "rollout.reward_weights.correct=0.5", columns=200)
    assert done.exit_code == 0, done.output
    for name in NAMES:
        folder = RunFolder(left.parents[2] / "run-left-score").of_policy(name)
        for new, old in zip(traces(folder), traces(RunFolder(left.with_name(name))), strict=True):
            assert new.reward is not None and old.reward is not None
            assert (new.reward, new.reward_parts) == (old.reward / 2, old.reward_parts)


def test_what_a_peer_is_worth_is_not_asked_by_forks(left: Path, code: list[str]):
    with pytest.raises(ConfigError, match="peers are heard without a request in the text"):
        invoke("replay", "consults", left, *code)


@pytest.mark.parametrize("question", ["credit", "check"])
def test_without_the_other_policies_it_is_refused(left: Path, code: list[str], question: str):
    shutil.rmtree(left.parent / "right")
    with pytest.raises(RunError, match="traces of the other policies: got none of right in"):
        invoke("replay", question, left, *(code if question == "check" else ()))


# -- servers -------------------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path) -> Generator[tuple[Experiment, dict[str, Reloading]]]:
    """An experiment in which each policy is sampled by a server of its own, and the servers."""
    tiny_peers.config(folder)  # makes the models
    with ExitStack() as stack:
        servers, settings = dict[str, Reloading](), list[str]()
        for name in NAMES:
            servers[name] = Reloading(AutoModelForCausalLM.from_pretrained(folder / name).eval())
            url = stack.enter_context(serving(servers[name].app))
            settings += [f"policies.{name}.engine=vllm", f"policies.{name}.vllm={{servers: ['{url}']}}"]
        # Servers that always write the same, 23 tokens of an even number of characters, are learned from without a baseline.
        learned = ["method.credit=reward", "method.scale_by_std=false", "method.negative_weight=1.0"]
        yield (
            tiny_peers.config(
                folder, *settings, *learned, "train.steps=2", "graph.options.stops=4", "rollout.max_tokens=23"
            ),
            servers,
        )


def test_each_policy_is_sampled_by_a_server_of_its_own(tmp_path: Path):
    """A policy whose weights went to the other's server, or to none, would fail the probe after the push."""
    with served(tmp_path) as (made, servers):
        run = RunFolder(tiny_peers.train(made))
    for name in NAMES:
        assert servers[name].loads[-1] != servers[name].loads[0]
        assert [t.policy_version for t in traces_of(run.of_policy(name), 1)] == [2] * 24
        assert all(line["mismatch/mean"] < 1e-4 for line in run.of_policy(name).read_metrics()[::2])
    first, last = (
        load_file(path / "model.safetensors") for path in (tmp_path / "left", run.of_policy("left").model)
    )
    assert not torch.equal(first["lm_head.weight"], last["lm_head.weight"])


def traces_of(folder: RunFolder, step: int) -> list[Trace]:
    return list(TraceStore(folder.traces).read(step))


def test_a_policy_whose_server_is_gone_ends_the_run(tmp_path: Path):
    with served(tmp_path) as (made, _):
        pass
    with pytest.raises(AipoError, match="http://127"):
        tiny_peers.train(
            made.with_settings({"policies.right.vllm.attempts": 1, "policies.left.vllm.attempts": 1})
        )
