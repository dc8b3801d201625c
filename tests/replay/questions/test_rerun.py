"""`aipo replay check`, `score` and `graph` on a run folder, from the command line's words to the new run."""

import io
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import graphs
from aipo.errors import AipoError, ConfigError, RunError, TraceError
from aipo.replay.questions.rerun import ReplaySource, check_traces, replay_graph, score_traces
from aipo.run import RunFolder
from aipo.trace import StopReason, Trace
from aipo.trace.store import TraceStore
from kit.recorded import contents, report, traces

PROMPTS = Path(graphs.__file__).parent / "prompts"


def ask(question: Any, path: Path, overrides: Sequence[str], source: dict[str, Any], **options: Any) -> Any:
    console = Console(file=io.StringIO(), width=200)
    code = question(ReplaySource(path=path, overrides=overrides, **source), console=console, **options)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def checked(path: Path, *overrides: str, **source: Any) -> tuple[int, str]:
    return ask(check_traces, path, overrides, source)


def scored(run: RunFolder, out: Path, *overrides: str, **source: Any) -> tuple[int, str]:
    return ask(score_traces, run.path, overrides, source, out=out)


def replayed(
    run: RunFolder, out: Path, *overrides: str, frozen: bool = False, policy: str | None = None, **source: Any
) -> tuple[int, str]:
    return ask(replay_graph, run.path, overrides, source, policy=policy, frozen=frozen, out=out)


def put(folder: RunFolder, traces: Sequence[Trace]) -> None:
    """Replaces the traces of step 0."""
    (folder.traces / "step-00000-00000.parquet").unlink()
    with TraceStore(folder.traces) as store:
        store.seal(0, traces)


def test_a_check_finds_everything_as_it_was_and_writes_nothing(run: RunFolder) -> None:
    before = contents(run.path)
    code, said = checked(run.path)
    assert code == 0
    assert "8 traces: 8 identical, 0 diverged" in said
    assert contents(run.path) == before


def test_a_check_names_what_diverged_and_what_was_left_out(run: RunFolder, copy: RunFolder) -> None:
    first, second, *others = [t for t in traces(run) if t.step == 0]
    late = replace(second, stop_reason=StopReason.DEADLINE, reward=None)
    put(copy, [replace(first, reward=0.5), late, *others])
    code, said = checked(copy.path)
    assert code == 1
    assert "aipo/00000-000/0: reward: got 1.0, recorded 0.5" in said
    assert "left out: aipo/00000-000/1: stop reason: got deadline" in said
    assert "7 traces: 6 identical, 1 diverged" in said
    assert checked(copy.path, filters=["group=00000-000", "mode=solo"])[0] == 3


def test_a_trace_that_no_longer_comes_is_named(run: RunFolder, copy: RunFolder, tmp_path: Path) -> None:
    """As if a second policy had been there, which the graph does not have any more."""
    made = [t for t in traces(run) if t.step == 0]
    theirs = tuple(replace(s, policy="helper") for s in made[1].segments)
    helper = replace(made[1], trace_id="aipo/00000-000/1/helper", policy="helper", segments=theirs)
    put(copy, [*made, helper])
    code, said = checked(copy.path)
    assert code == 1
    assert "aipo/00000-000/1/helper: policy 'helper': no trace came out" in said
    assert "9 traces: 8 identical, 1 diverged" in said
    code, said = scored(copy, tmp_path / "out")
    assert code == 3
    assert "left out: aipo/00000-000/1/helper: no trace came out" in said


def test_scoring_again_changes_rewards_and_leaves_a_run(run: RunFolder, tmp_path: Path) -> None:
    before, out = contents(run.path), tmp_path / "scored"
    code, said = scored(run, out, "rollout.reward_weights.correct=0.5")
    assert code == 0
    assert "another reward" in said
    new = RunFolder.open(out)
    assert [t.reward for t in traces(new)] == [0.5, 0.0] * 4
    first = traces(new)[0]
    ids = (first.trace_id, first.parent_id, first.fork_token)
    assert ids == ("scored/00000-000/0", "aipo/00000-000/0", None)
    told = report(out)
    assert told["question"] == "score"
    assert told["tables"][-1]["rows"][0] == ["aipo/00000-000/0", "1", "0.5"]
    (everything, *_) = told["values"]["reward"]
    names = ("traces", "before", "after", "change", "rose", "fell")
    assert [everything[name] for name in names] == [8, 0.5, 0.25, -0.25, 0, 4]
    of = json.loads(new.manifest.read_text())["replay_of"]
    assert (of["what"], of["path"], of["run_id"]) == ("score", str(run.path), "aipo")
    assert of["fingerprints"] == traces(run)[0].fingerprints
    assert contents(run.path) == before
    assert checked(out)[0] == 0  # a replay can be replayed


def test_parts_without_a_weight_are_left_out_by_name(run: RunFolder, tmp_path: Path) -> None:
    code, said = scored(run, tmp_path / "out", "rollout.reward_weights={neatness: 1.0}")
    assert code == 3
    left_out = json.loads((tmp_path / "out" / "left_out.json").read_text())
    assert len(left_out) == 8
    assert left_out[0]["what"] == "aipo/00000-000/0"
    assert "reward part: got 'correct'" in left_out[0]["reason"]
    assert "left out: aipo/00000-000/0" in said


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A folder with the verifier's prompt, edited."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    text = (PROMPTS / "verify.md").read_text()
    (folder / "verify.md").write_text(text.replace("Task: check\n", "Task: check\nBe strict.\n"))
    return folder


def test_a_check_says_which_files_are_others_now(run: RunFolder, prompts: Path) -> None:
    code, said = checked(run.path, f"agents.verify.prompt={prompts / 'verify.md'}")
    assert code == 1
    assert "not the files that the traces were recorded with: prompts.verify" in said
    assert "aipo/00000-000/0: call of verify: a call of 'verify' in 'aipo/00000-000/0': messages: got" in said
    assert "8 traces: 4 identical, 4 diverged" in said


def test_an_edited_prompt_asks_live_from_where_it_is_used(
    run: RunFolder, tmp_path: Path, prompts: Path
) -> None:
    before = contents(run.path)
    (prompts / "verfy.md").write_text("## x\n")
    code, said = replayed(run, tmp_path / "out", prompts=prompts)
    assert code == 0
    # The verifier says the same to other words: the policy's turns are all reused.
    assert "8 traces: 4 as recorded, 4 left their recordings" in said
    assert "reused 16 turns of the policy and 4 calls of agents; live were 0 turns and 4 calls" in said
    assert "--prompts: nothing uses verfy.md\n" in said
    new = RunFolder.open(tmp_path / "out")
    assert [t.token_ids.tolist() for t in traces(new)] == [t.token_ids.tolist() for t in traces(run)]
    assert report(tmp_path / "out")["values"]["forks"] == {"call of verify": 4}
    assert str(prompts) in new.config.read_text()
    assert contents(run.path) == before


def test_what_an_agent_says_otherwise_lets_the_policy_go_on_live(run: RunFolder, tmp_path: Path) -> None:
    code, said = replayed(run, tmp_path / "out", "agents.verify.options.error_rate=1.0")
    assert code == 0
    assert "live were 4 turns and 4 calls" in said
    assert "4 of the traces with live turns had been sampled by other weights" in said
    for trace in traces(RunFolder.open(tmp_path / "out")):
        if trace.consults:
            source = next(t for t in traces(run) if t.trace_id == trace.parent_id)
            kept = sum(map(len, source.segments[:4]))
            assert trace.fork_token is not None
            assert kept < trace.fork_token <= kept + len(source.segments[4])
            assert trace.token_ids[:kept].tolist() == source.token_ids[:kept].tolist()
    assert checked(tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    ("word", "filters", "says"),
    [
        ("train.steps=3", (), "got 'train.steps', which changes nothing here"),
        ("method.beta=0.1", (), "got 'method.beta', which changes nothing here"),
        ("evaluate.settings=[solo]", (), "got 'evaluate.settings', which changes nothing here"),
        ("rollout.suppress_tags=['<x>']", (), "got 'rollout.suppress_tags', which changes nothing here"),
        ("graph.options.budgets=1", (), "budgets"),
        ("run.seed=0", ("step=0", "group=nowhere"), "got none in .* with step=0 group=nowhere, allowed one"),
        ("run.seed=0", ("step=9",), "traces: got none in .* with step=9, allowed one"),
    ],
)
def test_a_mistake_is_said_by_name_and_takes_no_folder(
    run: RunFolder, tmp_path: Path, word: str, filters: tuple[str, ...], says: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(AipoError, match=says):
        checked(run.path, word, filters=filters)
    for question, how in ((scored, {}), (replayed, {}), (replayed, {"frozen": True})):
        with pytest.raises(AipoError, match=says):
            question(run, out, word, filters=filters, **how)
    assert not out.exists()


def test_options_of_an_edited_graph_that_cannot_be_used(
    run: RunFolder, copy: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--policy: got 'nearest' with --frozen"):
        replayed(run, tmp_path / "out", policy="nearest", frozen=True)
    with pytest.raises(ConfigError, match=r"--prompts: got .*'verify.md'"):
        replayed(run, tmp_path / "out", prompts=tmp_path)
    (copy.path / "model" / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    with pytest.raises(TraceError, match=r"tokenizer of .*got"):
        replayed(copy, tmp_path / "out")


def test_a_graph_of_ones_own_is_replayed_when_it_is_named(run: RunFolder, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from graphs.consult import consult as theirs\n\n\n"
        "def consult(*, agents, prompt, budget):\n"
        "    return theirs(agents=agents, prompt=prompt, budget=budget)\n"
    )
    named = f"graph.name={mine}:consult"
    code, said = replayed(run, tmp_path / "out", named, "graph.options.budget=1")
    assert code == 0
    assert "8 traces: 4 as recorded, 4 left their recordings" in said
    assert "notice" not in said
    # The new run names the file; whoever is given that run has to name it, too.
    with pytest.raises(ConfigError, match=r"graph.name: got '.*mine.py:consult' from the recorded config"):
        checked(tmp_path / "out")
    assert checked(tmp_path / "out", named)[0] == 0


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("graph.name", "evil.py:consult"),
        ("graph.name", "subprocess:run"),
        ("graph.name", "aipo.util.files:write_text"),
        ("graph.name", "graphs.consult:Path"),
        ("env.name", "os:system"),
        ("agents.verify.graph", "./evil.py:verify"),
    ],
)
def test_what_only_a_recording_names_is_never_imported(
    copy: RunFolder, tmp_path: Path, key: str, name: str
) -> None:
    config = copy.config
    ours = {"graph.name": "graphs.consult:consult", "env.name": "envs.miniature:Miniature"}
    config.write_text(config.read_text().replace(ours.get(key, "graphs.verify:verify"), name))
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    with pytest.raises(ConfigError, match=f"{key}: got .*If you trust it, name it yourself: {key}="):
        checked(copy.path)


def test_chat_models_are_neither_imported_nor_built_where_nobody_may_be_asked(
    copy: RunFolder, tmp_path: Path
) -> None:
    config = copy.config
    config.write_text(config.read_text().replace("envs.miniature.agents:verify", "nobody.py:verify"))
    code, said = checked(copy.path)
    assert code == 1  # the recording says that another model was asked
    assert "model: got 'nobody.py:verify', recorded 'envs.miniature.agents:verify'" in said
    with pytest.raises(ConfigError, match=r"agents.verify.model: got 'nobody.py:verify'"):
        replayed(copy, tmp_path / "out")


def test_a_replay_never_goes_into_its_source(run: RunFolder) -> None:
    for out in (run.path, run.path / "replays" / "new"):
        with pytest.raises(RunError, match=r"which is only read|not empty"):
            scored(run, out)


def edited(folder: Path, name: str, old: str, new: str) -> Path:
    """The prompts that ship, with one edit."""
    prompts = shutil.copytree(PROMPTS, folder / "prompts")
    text = (prompts / name).read_text()
    assert old in text
    (prompts / name).write_text(text.replace(old, new))
    return prompts


RULES = "follows rules. Of its prompt it reads"


@pytest.mark.parametrize(
    ("old", "new", "reply"),
    [
        ("\nwrong: the corrected claim\n", "\nwrong\n", "wrong"),
        ("Someone is working on", "A student is working on", r"\d+\+\d+=\d+"),
    ],
)
def test_verify_heeds_an_edit_of_its_prompt(
    old: str, new: str, reply: str, run: RunFolder, tmp_path: Path
) -> None:
    """An agent that now finds every claim wrong corrects it, unless its prompt leaves the correction out."""
    prompts, out = edited(tmp_path, "verify.md", old, new), RunFolder(tmp_path / "out")
    errs = "agents.verify.options.error_rate=1.0"
    code, said = replayed(run, out.path, errs, prompts=prompts, filters=["agent=verify"])
    assert code == 0 and f"agents.verify {RULES} the lines `Task:` and `Claim:`, and whether" in said
    replies = [c.reply for t in traces(out) for c in t.consults if c.agent == "verify"]
    assert len(replies) == 4 and all(re.fullmatch(reply, text) for text in replies)


@pytest.mark.parametrize(
    ("name", "agent"), [("knowledge.md", "knowledge"), ("reasoning.md", "reasoning"), ("verify.md", "verify")]
)
def test_a_replay_says_what_rules_read_of_an_edited_prompt(
    name: str, agent: str, run: RunFolder, tmp_path: Path
) -> None:
    prompts = edited(tmp_path, name, "Someone is working on", "A student is working on")
    code, said = replayed(run, tmp_path / "out", prompts=prompts)
    assert code == 0 and re.findall(rf"agents\.(\w+) {RULES}", said) == [agent]


def test_a_replay_without_an_edit_says_nothing_of_rules(run: RunFolder, tmp_path: Path) -> None:
    _, said = replayed(run, tmp_path / "out", prompts=PROMPTS)
    assert RULES not in said
