"""The default method, trained very small: what was right is learned, helped or alone, and agents leave."""

from collections import defaultdict

import pytest

from aipo.method.rows import Code
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.store import TraceStore
from aipo.trace.token_stats import TokenStatsStore
from kit import tiny_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Three generations of 8 groups of 2: half with agents at first, nobody at the end."""
    words = ("train.tasks_per_step=8", "train.group_size=2")
    return RunFolder(
        tiny_run.train(tiny_run.config(tmp_path_factory.mktemp("tiny"), *words, preset="aipo_distil"))
    )


def test_what_was_right_has_an_advantage_of_one_whatever_its_group_did(trained: RunFolder) -> None:
    groups = defaultdict[str, list[Trace]](list)
    for trace in TraceStore(trained.traces).read():
        groups[trace.group_id].append(trace)
    assert any(all(trace.reward == 1 for trace in group) for group in groups.values())
    assert {(t.reward, t.advantage) for group in groups.values() for t in group} == {(0.0, 0.0), (1.0, 1.0)}


def test_distilled_rows_are_learned_and_no_token_of_an_agent(trained: RunFolder) -> None:
    traces, store = list(TraceStore(trained.traces).read()), TokenStatsStore(trained.token_stats)
    lessons = [lesson for trace in traces for lesson in store.of(trace.trace_id, trace.step)]
    told = [lesson.weights_T[lesson.codes_T == Code.AGENT] for lesson in lessons]
    distilled = [one.weights_T[one.codes_T == Code.DISTILLED] for one in lessons if one.kind == "distilled"]
    assert sum(map(len, told)) > 0
    assert not any(weights.any() for weights in told)
    assert distilled
    assert all((weights == 1).all() for weights in distilled)
    lines = trained.read_metrics()
    assert sum(line.get("rows/distilled", 0) for line in lines) == len(distilled)
    assert {line["weight/agent"] for line in lines if line["tokens/agent"]} == {0.0}


def test_nobody_can_ask_in_the_last_generation(trained: RunFolder) -> None:
    asked = [sum(len(t.consults) for t in TraceStore(trained.traces).read(step)) for step in range(3)]
    assert asked[0] > 0
    assert asked[-1] == 0
    generations = [line for line in trained.read_metrics() if "rollouts/solo" in line]
    for line in generations:
        assert ("consults/knowledge" in line) == (line["rollouts/assisted"] > 0)
    assert (generations[0]["rollouts/assisted"], generations[-1]["rollouts/assisted"]) == (8, 0)
