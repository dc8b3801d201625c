"""Was it worth asking? Against the group, and by live forks whose tokens can be read."""

import asyncio
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, RunError
from aipo.policies import Completion, SampleRequest
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy
from aipo.replay.questions.consult_worth import AgentWorth, Tally, against_group, table
from aipo.replay.questions.consults import LiveConsults, _worths, consults_against_group
from aipo.replay.questions.forks import ForkPolicy, Forks, _until
from aipo.replay.recordings import Recordings
from aipo.replay.restore import restore
from aipo.run import RunFolder
from aipo.trace import Mode, StopReason, Trace
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from aipo.util.console import number_table
from kit import handmade
from kit.recorded import contents, recorded_run, traces

QUIET = Console(file=io.StringIO())


def asked(index: int, reward: float | None, *agents: str, group: str = "g", **consult: object) -> Trace:
    return handmade.trace(
        handmade.prompt(2, 3),
        handmade.policy(4, 5),
        handmade.agent(6),
        trace_id=f"{group}/{index}",
        group_id=group,
        task_id=f"task of {group}",
        index=index,
        reward=reward,
        advantage=None,
        consults=tuple(handmade.consult(1, 0, 2, agent=agent, **consult) for agent in agents),
    )


def test_a_consult_is_compared_with_those_of_its_group_that_did_not_ask() -> None:
    group = [asked(0, 1.0, "knowledge"), asked(1, 0.0, "knowledge", "verify"), asked(2, 0.5), asked(3, 0.0)]
    worths = list(against_group(group, ["verify", "knowledge"]))
    assert [(w.trace_id, w.consult, w.agent, w.without, w.value) for w in worths] == [
        ("g/0", 0, "knowledge", (0.5, 0.0), 0.75),
        ("g/1", 0, "knowledge", (0.5, 0.0), -0.25),
        ("g/1", 1, "verify", (1.0, 0.5, 0.0), -0.5),
    ]


def test_rollouts_that_could_not_ask_are_no_comparison_unless_wanted() -> None:
    asking, silent = (
        replace(asked(i, 1.0 - i, *agents), mode=Mode.ASSISTED) for i, agents in ((0, ["verify"]), (1, []))
    )
    group = [asking, silent, asked(2, 0.5)]  # the last one is solo
    (same,), (every,) = (
        list(against_group(group, ["verify"], any_mode=any_mode)) for any_mode in (False, True)
    )
    assert (same.without, same.value) == ((0.0,), 1.0)
    assert (every.without, every.value) == ((0.0, 0.5), 0.75)
    tally = Tally(["verify"])
    tally.add(group, [every])
    assert [one.comparisons for one in tally.agents(seed=0)] == [2]


def test_the_table_fits_a_terminal() -> None:
    line = AgentWorth(
        agent="knowledge",
        consults=1000,
        measured=999,
        unanswered=1,
        comparisons=12345,
        reward=0.5,
        without=0.25,
        value=0.25,
        interval=(0.125, 0.5),
        helped=500,
        hurt=100,
    )
    said = io.StringIO()
    Console(file=said, width=80).print(number_table(*table([line])[1:]))
    cells = ["knowledge", "1000", "999", "12345", "0.500", "0.250", "+0.250", "[+0.12,", "+0.50]"]
    assert said.getvalue().split()[-9:] == cells


def test_what_cannot_be_compared_is_counted_and_not_guessed() -> None:
    traces = [
        asked(0, 1.0, "knowledge"),  # everybody asked
        asked(1, 1.0, "knowledge"),
        asked(0, 0.5, "verify", group="h", reply=None, error="no reply"),  # nobody answered
        asked(1, 0.5, group="h"),
        asked(0, None, "knowledge", group="i"),  # it has no reward
        asked(0, 1.0, "<b>nobody</b>", group="j"),  # none of ours
        asked(1, 0.0, group="j"),
    ]
    tally = Tally(["verify", "knowledge"])
    tally.add(traces, against_group(traces, ["verify", "knowledge"]))
    found = {one.agent: one for one in tally.agents(seed=0)}
    assert list(found) == ["verify", "knowledge", "unknown"]
    assert (found["knowledge"].consults, found["knowledge"].measured, found["knowledge"].value) == (
        3,
        0,
        None,
    )
    assert (found["verify"].unanswered, found["verify"].measured) == (1, 0)
    assert (found["unknown"].measured, found["unknown"].value, found["unknown"].interval) == (1, 1.0, None)


def test_against_the_group_on_the_command_line(run: RunFolder, tmp_path: Path) -> None:
    """Assisted rollouts ask both agents and are right; solo ones are wrong."""
    before = contents(run.path)
    out = tmp_path / "out"
    assert consults_against_group(run.path, where=Filter(), any_mode=True, out=out, console=QUIET) == 0
    found = json.loads((out / "replay.json").read_text())
    agents = found["values"]
    assert [(a["agent"], a["consults"], a["measured"]) for a in agents] == [
        ("verify", 4, 4),
        ("knowledge", 4, 4),
    ]
    assert [(a["reward"], a["without"], a["value"], a["interval"]) for a in agents] == [
        (1.0, 0.0, 1.0, [1.0, 1.0])
    ] * 2
    with (out / "consults.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["agent"], line["value"]) for line in lines[:2]] == [("knowledge", "1.0"), ("verify", "1.0")]
    assert contents(run.path) == before
    assert found["settings"]["comparisons"] == "8, of 8 consults"

    few = tmp_path / "few"
    consults_against_group(run.path, where=Filter(step=(1, 1), agent="verify"), out=few, console=QUIET)
    assert [a["consults"] for a in json.loads((few / "replay.json").read_text())["values"]] == [2, 2]


def alone(context: str) -> str:
    """Adds if the fact is in sight, else answers 111."""
    known = re.search(
        r"\+([0-9]+)=\?.*<feedback:knowledge>[0-9]@[0-9]=([0-9]+)</feedback>", context, re.DOTALL
    )
    return f"\n#{int(known[1]) + int(known[2])}\n" if known else "\n#111\n"


def test_forks_keep_what_was_recorded_and_go_on_alone(run: RunFolder) -> None:
    recordings = Recordings(path=run.path)
    config = load_experiment(str(run.config))
    restored = restore(recordings, config, run_id="forks")
    live = ScriptedPolicy(restored.tokenizer, alone)
    tags = tuple(restored.tokenizer.token_id(f"<consult:{name}>") or 0 for name in config.agents)
    forks = Forks(replay=restored.replay, live=live, tag_ids=tags, samples=2)
    source = traces(run)[0]
    kept: list[Trace] = []
    found = forks.run([(source, 0), (source, 1)], kept.append)
    assert forks.failed == {}
    assert len(kept) == 4
    first, second = found[source.trace_id, 0], found[source.trace_id, 1]
    assert [t.reward for t in (*first, *second)] == [
        0.0,
        0.0,
        1.0,
        1.0,
    ]  # the fact helps, to have it verified does not
    for trace, segments in ((first[0], 1), (second[0], 3)):
        assert trace.segments[:segments] == source.segments[:segments]
        assert trace.fork_token == sum(map(len, source.segments[:segments]))
        assert trace.parent_id == source.trace_id
        assert (trace.mode, trace.task) == (source.mode, source.task)
    assert [c.agent for c in first[0].consults] == []
    assert [c.agent for c in second[0].consults] == ["knowledge"]
    assert sorted(t.trace_id for t in kept) == [
        f"forks/{source.group_id}-0-consult-{number}/{sample}" for number in (0, 1) for sample in (0, 1)
    ]
    assert len({t.seed for t in kept}) == 4


def test_a_turn_begins_with_what_was_recorded_before_the_request() -> None:
    words = CharTokenizer(["<consult:verify>"])
    seen: list[tuple[str, int, tuple[int, ...]]] = []

    class Live(ScriptedPolicy):
        async def sample(self, request: SampleRequest) -> Completion:
            seen.append((words.decode(request.token_ids), request.max_tokens, request.forbidden_ids))
            return await super().sample(request)

    head = Completion(
        token_ids=np.array(words.encode("2+2"), np.int32),
        logprobs=np.full(3, -0.5, np.float32),
        entropies=None,
        finish="length",
        policy_version=0,
    )
    tag = words.token_id("<consult:verify>")
    policy = ForkPolicy(Live(words, ["=4"], logprob=-0.25), head, (tag,))
    prompt = np.array(words.encode("? "), np.int32)
    turn = asyncio.run(policy.sample(SampleRequest(prompt, max_tokens=10)))
    assert words.decode(turn.token_ids) == "2+2=4<eos>"
    assert turn.logprobs.tolist() == [-0.5] * 3 + [-0.25] * 3
    assert turn.entropies is None
    assert seen == [("? 2+2", 7, (tag,))]


def test_live_forks_on_the_command_line(run: RunFolder, tmp_path: Path) -> None:
    before = contents(run.path)
    out = tmp_path / "out"
    live = LiveConsults(source=run.path, checkpoint="model", samples=2, limit=3, overrides=["run.threads=1"])
    assert live.run(out, QUIET) == 0
    said = json.loads((out / "replay.json").read_text())
    assert [(a["agent"], a["consults"], a["measured"]) for a in said["values"]] == [
        ("verify", 4, 3),
        ("knowledge", 4, 3),
    ]
    assert [a["value"] for a in said["values"]] == [1.0, 1.0]  # random weights are never right
    kept = list(TraceStore(out / "traces").read())
    assert len(kept) == 12
    assert {t.parent_id for t in kept} <= {t.trace_id for t in traces(run)}
    tags = {f"<consult:{name}>" for name in load_experiment(str(run.config)).agents}
    texts = [stored.texts for stored in TraceStore(out / "traces").stored()]
    forked = ["".join(text[len(text) - 1 :]) for text in texts if text]
    assert not any(tag in text for tag in tags for text in forked)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["replay_of"]["what"] == "consults"
    assert manifest["replay_of"]["trainable"] is False
    assert (manifest["model"], manifest["live"]) == ("a model", str(run.model))
    assert said["settings"]["weights"] == "model"
    assert said["notes"][-1].startswith("other weights: 6 of 6 consults had been asked by other weights")
    assert contents(run.path) == before


def test_nothing_of_a_recorded_file_is_run(run: RunFolder, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    recorded_run(evil)
    text = (evil / "config.yaml").read_text().replace("graphs.consult:consult", "evil.py:consult")
    (evil / "config.yaml").write_text(text)
    live = LiveConsults(source=evil, checkpoint="start", samples=1, limit=None, overrides=[])
    with pytest.raises(
        ConfigError, match=r"graph\.name: got 'evil\.py:consult' from the recorded configuration"
    ):
        live.run(tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "got"),
    [("rollout.suppress_tags=[]", r"\[\]"), ("rollout.suppress_tags=['ask {agent}']", r"\['ask verify'")],
)
def test_a_policy_that_could_ask_again_is_not_alone(
    run: RunFolder, tmp_path: Path, word: str, got: str
) -> None:
    live = LiveConsults(source=run.path, checkpoint="model", samples=1, limit=1, overrides=[word])
    with pytest.raises(ConfigError, match=rf"rollout\.suppress_tags: got {got}.*the forks would ask again"):
        live.run(tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_nothing_to_fork_takes_no_folder(run: RunFolder, tmp_path: Path) -> None:
    nobody = Filter(agent="nobody")
    live = LiveConsults(source=run.path, where=nobody, checkpoint="model", samples=1, limit=1, overrides=[])
    with pytest.raises(RunError, match="consults to fork: got none"):
        live.run(tmp_path / "out", QUIET)
    live = LiveConsults(source=run.path, checkpoint="nowhere", samples=1, limit=1, overrides=[])
    with pytest.raises(RunError, match="--checkpoint: got 'nowhere'"):
        live.run(tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_the_weights_that_sampled_go_on_without_a_warning(run: RunFolder, tmp_path: Path) -> None:
    out, said = tmp_path / "out", io.StringIO()
    words = ["run.threads=1", f"policy.model={run.model}"]
    live = LiveConsults(source=run.path, checkpoint="nearest", samples=1, limit=1, overrides=words)
    assert live.run(out, Console(file=said, width=300)) == 0
    assert "weights: start" in said.getvalue()
    assert "other weights" not in said.getvalue()


def test_a_fork_that_fails_is_left_out_by_name(run: RunFolder) -> None:
    source = traces(run)[0]
    forks = [
        replace(source, trace_id="forks/0", index=0, reward=0.5, advantage=None),
        replace(
            source,
            trace_id="forks/1",
            index=1,
            reward=None,
            advantage=None,
            stop_reason=StopReason.ERROR,
            error="OSError: gone",
        ),
    ]
    recordings = Recordings(path=run.path)
    key = (source.trace_id, 0)
    (worth,) = _worths([source], {key: forks}, load_experiment(str(run.config)), recordings)
    assert worth.without == (0.5,)
    assert [(one.what, one.reason) for one in recordings.left_out] == [("forks/1", "OSError: gone")]


def test_a_fork_is_told_nothing_that_came_after_its_request(run: RunFolder) -> None:
    """The rollout asked `knowledge`, then `verify`."""
    source = traces(run)[0]
    calls = [
        [call.agent for visit in _until(source, number).visits for call in visit.calls] for number in (0, 1)
    ]
    assert calls == [[], ["knowledge"]]
