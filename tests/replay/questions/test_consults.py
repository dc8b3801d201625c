"""Was it worth asking? Against the group, and by live forks whose tokens can be read."""

import asyncio
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, RunError
from aipo.policies import Completion, SampleRequest
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy
from aipo.replay.questions.consult_worth import Tally, against_group, table
from aipo.replay.questions.consults import _worths, consults_against_forks, consults_against_group
from aipo.replay.questions.forks import ForkPolicy, Forks, _until
from aipo.replay.recordings import Recordings
from aipo.replay.restore import restore
from aipo.run import RunFolder
from aipo.trace import Mode, StopReason, Trace
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from aipo.util.console import number_table
from kit import handmade
from kit.recorded import contents, report, traces

AGENTS = ("verify", "knowledge")


def asked(index: int, reward: float | None, *agents: str, group: str = "g", **changes: Any) -> Trace:
    consult = {name: changes.pop(name) for name in ("reply", "error") if name in changes}
    return handmade.trace(
        *(handmade.prompt(2, 3), handmade.policy(4, 5, version=0), handmade.agent(6)),
        trace_id=f"{group}/{index}",
        group_id=group,
        task_id=f"task of {group}",
        index=index,
        reward=reward,
        advantage=None,
        consults=tuple(handmade.consult(1, 0, 2, agent=agent, **consult) for agent in agents),
        **changes,
    )


GROUP = [asked(0, 1.0, "knowledge"), asked(1, 0.0, "knowledge", "verify"), asked(2, 0.5), asked(3, 0.0)]


def test_a_consult_is_compared_with_those_of_its_group_and_mode_that_did_not_ask() -> None:
    others = [asked(4, 1.0, mode=Mode.ASSISTED), asked(0, 1.0, group="h")]
    worths = list(against_group([*GROUP, *others], AGENTS))
    assert [(w.trace_id, w.consult, w.agent, w.without, w.value) for w in worths] == [
        ("g/0", 0, "knowledge", (0.5, 0.0), 0.75),
        ("g/1", 0, "knowledge", (0.5, 0.0), -0.25),
        ("g/1", 1, "verify", (1.0, 0.5, 0.0), -0.5),
    ]


def test_the_table_fits_a_terminal() -> None:
    line = {"agent": "knowledge", "consults": 1000, "measured": 999, "comparisons": 12345}
    line |= {"reward": 0.5, "without": 0.25, "value": 0.25, "interval": (0.125, 0.5)}
    said = io.StringIO()
    Console(file=said, width=80).print(number_table(*table([line])[1:]))
    cells = ["knowledge", "1000", "999", "12345", "0.250", "0.500", "+0.250", "[+0.125,", "+0.500]"]
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
    tally = Tally(AGENTS)
    tally.add(traces, against_group(traces, AGENTS))
    names = ("agent", "consults", "measured", "unanswered", "value", "interval")
    assert [tuple(line[name] for name in names) for line in tally.agents(seed=0)] == [
        ("verify", 1, 0, 1, None, None),
        ("knowledge", 3, 0, 0, None, None),
        ("unknown", 1, 1, 0, 1.0, None),
    ]


def test_against_the_group_on_the_command_line(run: RunFolder, tmp_path: Path) -> None:
    """Four assisted rollouts of a group; in the recorded run every one had asked."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.config.write_text(run.config.read_text())
    with TraceStore(folder.traces) as store:
        for step in range(2):
            store.seal(step, [replace(t, step=step, trace_id=f"{step}/{t.trace_id}", task={}) for t in GROUP])
    before, quiet = contents(folder.path), Console(file=io.StringIO())
    out, few = tmp_path / "out", tmp_path / "few"
    assert consults_against_group(folder.path, where=Filter(), out=out, console=quiet) == 0
    told = report(out)
    names = ("agent", "consults", "measured", "comparisons", "reward", "without", "value", "helped", "hurt")
    assert [tuple(line[name] for name in names) for line in told["values"]] == [
        ("verify", 2, 2, 6, 0.0, 0.5, -0.5, 0, 2),
        ("knowledge", 4, 4, 8, 0.5, 0.25, 0.25, 2, 2),
    ]
    assert told["settings"]["comparisons"] == "14, of 6 consults"
    with (out / "consults.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["agent"], line["value"]) for line in lines[:2]] == [
        ("knowledge", "0.75"),
        ("knowledge", "-0.25"),
    ]
    consults_against_group(folder.path, where=Filter(step=(1, 1), agent="verify"), out=few, console=quiet)
    values = [(a["agent"], a["consults"], a["comparisons"]) for a in report(few)["values"]]
    assert values == [("verify", 1, 3), ("knowledge", 1, 2)]
    assert contents(folder.path) == before


def alone(context: str) -> str:
    """Adds if the fact is in sight, else answers 111."""
    known = re.search(r"\+(\d+)=\?.*<feedback:knowledge>\d@\d=(\d+)</feedback>", context, re.DOTALL)
    return f"\n#{int(known[1]) + int(known[2])}\n" if known else "\n#111\n"


def test_forks_keep_what_was_recorded_and_go_on_alone(run: RunFolder) -> None:
    experiment = load_experiment(str(run.config))
    restored = restore(Recordings(path=run.path), experiment, run_id="forks")
    tokenizer = restored.tokenizers["policy"]
    live = ScriptedPolicy(tokenizer, alone)
    tags = experiment.forbidden_ids(tokenizer)
    forks = Forks(replay=restored.replay, live=live, tag_ids=tags, samples=2)
    source = traces(run)[0]
    kept: list[Trace] = []
    found = forks.run([(source, 0), (source, 1)], kept.append)
    assert forks.failed == {}
    assert len(kept) == 4
    first, second = found[source.trace_id, 0], found[source.trace_id, 1]
    # The fact helps, to have it verified does not.
    assert [t.reward for t in (*first, *second)] == [0.0, 0.0, 1.0, 1.0]
    for trace, segments in ((first[0], 1), (second[0], 3)):
        assert trace.segments[:segments] == source.segments[:segments]
        assert trace.fork_token == sum(map(len, source.segments[:segments]))
        assert (trace.parent_id, trace.mode, trace.task) == (source.trace_id, source.mode, source.task)
    assert [[c.agent for c in trace.consults] for trace in (first[0], second[0])] == [[], ["knowledge"]]
    assert [t.trace_id for t in (*first, *second)] == [
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

    said = {"token_ids": np.array(words.encode("2+2"), np.int32), "logprobs": np.full(3, -0.5, np.float32)}
    head = Completion(**said, entropies=None, finish="length", policy_version=0)
    tag = words.token_id("<consult:verify>")
    policy = ForkPolicy(Live(words, ["=4"], logprob=-0.25), head, (tag,))
    prompt = np.array(words.encode("? "), np.int32)
    turn = asyncio.run(policy.sample(SampleRequest(prompt, max_tokens=10)))
    assert words.decode(turn.token_ids) == "2+2=4<eos>"
    assert turn.logprobs.tolist() == [-0.5] * 3 + [-0.25] * 3
    assert turn.entropies is None
    assert seen == [("? 2+2", 7, (tag,))]


def forked(run: Path, out: Path, *overrides: str, **changes: Any) -> str:
    console = Console(file=io.StringIO(), width=300)
    given = {"checkpoint": "model", "samples": 1, "limit": 1} | changes
    assert consults_against_forks(run, overrides, **given, out=out, console=console) == 0
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_live_forks_on_the_command_line(run: RunFolder, tmp_path: Path) -> None:
    before, out = contents(run.path), tmp_path / "out"
    forked(run.path, out, "run.threads=1", samples=2, limit=3)
    told = report(out)
    values = [(a["agent"], a["consults"], a["measured"], a["value"]) for a in told["values"]]
    assert values == [("verify", 4, 3, 1.0), ("knowledge", 4, 3, 1.0)]  # random weights are never right
    kept = list(TraceStore(out / "traces").read())
    assert len(kept) == 12
    assert {t.parent_id for t in kept} <= {t.trace_id for t in traces(run)}
    texts = [stored.texts for stored in TraceStore(out / "traces").stored()]
    after = ["".join(text[len(text) - 1 :]) for text in texts if text]
    assert not any(tag in text for tag in load_experiment(str(run.config)).consult_tags for text in after)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["replay_of"]["what"] == "consults"
    assert manifest["replay_of"]["trainable"] is False
    assert (manifest["model"], manifest["live"]) == ("a model", str(run.model))
    assert told["settings"]["weights"] == "model"
    assert told["notes"][-1].startswith("other weights: 6 of 6 consults had been asked by other weights")
    assert contents(run.path) == before


@pytest.mark.parametrize(
    ("word", "changes", "error", "says"),
    [
        ("rollout.suppress_tags=[]", {}, ConfigError, r"suppress_tags: got \[\].*the forks would ask again"),
        ("rollout.suppress_tags=['ask {agent}']", {}, ConfigError, r"suppress_tags: got \['ask verify'"),
        ("run.threads=1", {"where": Filter(agent="nobody")}, RunError, "consults to fork: got none"),
        ("run.threads=1", {"checkpoint": "nowhere"}, RunError, "--checkpoint: got 'nowhere'"),
    ],
)
def test_a_mistake_is_said_by_name_and_takes_no_folder(
    run: RunFolder, tmp_path: Path, word: str, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        forked(run.path, tmp_path / "out", word, **changes)
    assert not (tmp_path / "out").exists()


def test_nothing_of_a_recorded_file_is_run(copy: RunFolder, tmp_path: Path) -> None:
    copy.config.write_text(copy.config.read_text().replace("graphs.consult:consult", "evil.py:consult"))
    with pytest.raises(ConfigError, match=r"graph\.name: got 'evil\.py:consult' from the recorded"):
        forked(copy.path, tmp_path / "out", checkpoint="start")


def test_the_weights_that_sampled_go_on_without_a_warning(run: RunFolder, tmp_path: Path) -> None:
    words = ("run.threads=1", f"policy.model={run.model}")
    said = forked(run.path, tmp_path / "out", *words, checkpoint="nearest")
    assert "weights: start" in said and "other weights" not in said


def test_a_fork_that_fails_is_left_out_by_name(run: RunFolder) -> None:
    source = traces(run)[0]
    fork = replace(source, trace_id="forks/0", index=0, reward=0.5, advantage=None)
    failed = {"reward": None, "stop_reason": StopReason.ERROR, "error": "OSError: gone"}
    forks = [fork, replace(fork, trace_id="forks/1", index=1, **failed)]
    recordings, experiment = Recordings(path=run.path), load_experiment(str(run.config))
    (worth,) = _worths([source], {(source.trace_id, 0): forks}, experiment, recordings)
    assert worth.without == (0.5,)
    assert recordings.left_out == {"forks/1": "OSError: gone"}


def test_a_fork_is_told_nothing_that_came_after_its_request(run: RunFolder) -> None:
    """The rollout asked `knowledge`, then `verify`."""
    source = traces(run)[0]
    calls = [[call.agent for visit in _until(source, n).visits for call in visit.calls] for n in (0, 1)]
    assert calls == [[], ["knowledge"]]
