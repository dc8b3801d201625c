"""The index: what is listed is what is on the disk, sealed or in flight."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aipo.errors import ConfigError, RunError, TraceError
from aipo.trace import Mode, StopReason, Trace
from aipo.trace.arrow import Stored, to_table
from aipo.trace.filters import Filter
from aipo.trace.index import GROUP_ORDERS, TRACE_ORDERS, TraceIndex
from aipo.trace.store import TraceStore, list_traces
from envs.miniature import Miniature
from kit.handmade import consult, policy, prompt
from kit.handmade import trace as handmade


def trace(step: int, group: str, index: int, reward: float | None, **changes: object) -> Trace:
    failed = {"stop_reason": StopReason.ERROR, "error": "ValueError: Boom"} if reward is None else {}
    given = {
        "trace_id": f"run/{group}/{index}",
        "group_id": group,
        "task_id": "t0",
        "step": step,
        "index": index,
        "mode": Mode.ASSISTED,
        "task": {"prompt": "6x7=", "answer": "42"},
        "reward": reward,
        "advantage": None,
    }
    return handmade(prompt(1, 2, 3, 4), policy(5, 6, 7), **(given | failed | changes))


VERIFY = consult(1, 0, 1, agent="verify")
KNOWLEDGE = consult(1, 0, 1, agent="knowledge", error="down")


# Two groups of step 0 and one of step 1; a solo rollout, one whose tags were masked, one that failed. Of b/1 nobody has
# judged the steps.
SEALED = [
    trace(0, "a", 0, 1.0, consults=(VERIFY, KNOWLEDGE), reward_parts={"correct": 1.0, "derivation": 1.0}),
    trace(0, "a", 1, 1.0, mode=Mode.SOLO, advantage=0.5, reward_parts={"correct": 1.0, "derivation": 0.0}),
    trace(
        0, "b", 0, 0.0, consults=(VERIFY,), reward_parts={"correct": 0.0, "derivation": 0.0}, reason="No Box"
    ),
    trace(0, "b", 1, 1.0, mode=Mode.SOLO, forbidden_ids=(3,), parent_id="run/a/0"),
]
FLYING = [trace(1, "c", 0, None), trace(1, "c", 1, 0.25, reward_parts={"derivation": 0.5})]
TEXTS = {"run/a/0": "Six times seven", "run/c/0": "it's 50% of SEVEN"}


class Store(TraceStore):
    """Stores texts that tell traces apart."""

    def _with_texts(self, trace: Trace) -> Stored:
        return Stored(trace, ("", TEXTS.get(trace.trace_id, "42")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path / "it's") as store:
        store.seal(0, SEALED)
        for each in FLYING:
            store.append(each)
    return tmp_path / "it's"


@pytest.fixture(params=[True, False], ids=["resident", "on disk"])
def opened(folder: Path, request: pytest.FixtureRequest) -> Callable[[], TraceIndex]:
    return lambda: TraceIndex(folder, resident=request.param)


@pytest.fixture
def index(opened: Callable[[], TraceIndex]) -> TraceIndex:
    return opened()


def ids(index: TraceIndex, **where: object) -> list[str]:
    return [s.trace_id.removeprefix("run/") for s in index.traces(Filter(**where))]


def test_summaries_say_what_traces_hold(index: TraceIndex):
    first, *_, last = index.traces()
    assert (first.trace_id, first.agents, first.consult_errors) == ("run/a/0", ["verify", "knowledge"], 1)
    assert (first.kind, first.question, first.answer, first.sealed) == ("assisted", "6x7=", "42", True)
    assert (first.reward, first.advantage, first.tokens, first.policy_tokens) == (1.0, None, 7, 3)
    assert (last.trace_id, last.sealed, last.reward) == ("run/c/1", False, 0.25)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"]),
        ({"step": (1, None)}, ["c/0", "c/1"]),
        ({"step": (None, 0), "agent": "verify"}, ["a/0", "b/0"]),
        ({"group": "b"}, ["b/0", "b/1"]),
        ({"task": "t"}, ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"]),
        ({"task": "%"}, []),
        ({"kind": "solo"}, ["a/1"]),
        ({"kind": "suppressed"}, ["b/1"]),
        ({"reward": (0.25, 0.5)}, ["c/1"]),
        ({"reward": (None, None)}, ["a/0", "a/1", "b/0", "b/1", "c/1"]),
        ({"stop": "error"}, ["c/0"]),
        ({"failed": True}, ["c/0"]),
        ({"failed": False, "step": (1, 1)}, ["c/1"]),
        ({"error": "boom"}, ["c/0"]),
        ({"reason": "no box"}, ["b/0"]),
        ({"flawed": True}, ["a/1", "c/1"]),
        ({"flawed": False}, ["a/0"]),
        ({"flawed": True, "kind": "solo"}, ["a/1"]),
        ({"text": "seven"}, ["a/0", "c/0"]),
        ({"text": "50% of"}, ["c/0"]),
        ({"text": "it's"}, ["c/0"]),
        ({"agent": "a'; DROP TABLE x"}, []),
    ],
)
def test_filters(index: TraceIndex, where: dict[str, object], expected: list[str]):
    assert ids(index, **where) == expected
    assert index.count(Filter(**where)) == len(expected)
    assert index.group_count(Filter(**where)) == len({each[0] for each in expected})


def test_a_rewarded_rollout_of_the_miniature_with_a_wrong_line_is_flawed(tmp_path: Path):
    env = Miniature()
    task = env.tasks("easy_train")[0]
    sound = str(env.demonstration(task))
    wrong = sound.replace("=", "=1", 1)  # the first line says another value, the last one the right answer
    with TraceStore(tmp_path) as store:
        for number, text in enumerate((sound, wrong)):
            parts = dict(env.score(task, text))
            store.append(trace(0, "m", number, parts["correct"], reward_parts=parts))
    assert ids(TraceIndex(tmp_path), flawed=True) == ["m/1"]
    assert ids(TraceIndex(tmp_path), flawed=False) == ["m/0"]


def test_what_matches_in_groups(index: TraceIndex):
    assert index.matching(Filter(reward=(1, None)), ["a", "b"]) == {"run/a/0", "run/a/1", "run/b/1"}
    assert index.matching(Filter(kind="solo"), ["b"]) == set()


def test_pages(index: TraceIndex):
    pages = [[s.trace_id for s in index.traces(limit=4, offset=at)] for at in (0, 4, 8)]
    assert [len(page) for page in pages] == [4, 2, 0]
    assert [*pages[0], *pages[1]] == [t.trace_id for t in (*SEALED, *FLYING)]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("step", ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"]),
        ("newest", ["c/0", "c/1", "a/0", "a/1", "b/0", "b/1"]),
        ("reward", ["c/0", "b/0", "c/1", "a/0", "a/1", "b/1"]),
        ("-reward", ["a/0", "a/1", "b/1", "c/1", "b/0", "c/0"]),
        ("consults", ["a/0", "b/0", "a/1", "b/1", "c/0", "c/1"]),
        ("tokens", ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"]),
    ],
)
def test_orders(index: TraceIndex, order: str, expected: list[str]):
    assert [s.trace_id.removeprefix("run/") for s in index.traces(order=order)] == expected


def test_groups_with_mixed_rewards_come_first_then_failures_then_consults(index: TraceIndex):
    assert [g.group_id for g in index.groups()] == ["b", "c", "a"]
    (b,) = index.groups(Filter(kind="suppressed"))  # one trace matches, all of the group's are counted
    assert (b.traces, b.scored, b.failed, b.assisted, b.consults) == (2, 2, 0, 1, 1)
    assert (b.reward_mean, b.reward_min, b.reward_max) == (0.5, 0.0, 1.0)
    for order in GROUP_ORDERS:
        assert {g.group_id for g in index.groups(order=order)} == {"a", "b", "c"}
    groups = index.of_groups(["c", "nobody", "a"])
    places = {name: [s.index for s in summaries] for name, summaries in groups.items()}
    assert places == {"c": [0, 1], "nobody": [], "a": [0, 1]}


def test_an_unknown_order_is_refused(index: TraceIndex):
    with pytest.raises(ConfigError, match=f"got 'size', allowed {', '.join(TRACE_ORDERS)}"):
        index.traces(order="size")
    with pytest.raises(ConfigError, match="got 'size', allowed interesting"):
        index.groups(order="size")


def test_what_there_is_to_choose_from(index: TraceIndex, tmp_path: Path):
    assert (index.steps(), index.agents()) == ((0, 1), ("knowledge", "verify"))
    assert index.stops() == ("eos", "error")
    empty = TraceIndex(tmp_path / "none")
    assert (empty.steps(), empty.agents(), empty.traces(), empty.groups()) == (None, (), [], [])


def test_one_trace_whole(index: TraceIndex):
    for each in (*SEALED, *FLYING):
        assert index.stored(each.trace_id) == Stored(each, ("", TEXTS.get(each.trace_id, "42")))
        summary = index.summary(each.trace_id)
        assert summary is not None and summary.trace_id == each.trace_id
    with pytest.raises(TraceError, match="trace: got 'nobody', allowed an id that `aipo traces` lists"):
        index.stored("nobody")
    assert index.summary("nobody") is None


def test_neighbours(index: TraceIndex):
    order = [t.trace_id for t in (*SEALED, *FLYING)]
    for before, own, after in zip([None, *order], order, [*order[1:], None], strict=False):
        assert index.neighbours(own) == (before, after)
    assert index.neighbours("nobody") == (None, None)


def test_a_refresh_sees_what_is_new_and_nothing_twice(index: TraceIndex):
    store = Store(index.folder)
    versions = [index.refresh(), index.refresh()]
    assert versions[0] == versions[1]
    store.append(trace(1, "c", 2, 1.0))
    store.close()
    versions.append(index.refresh())
    assert index.count() == 7 and ids(index, step=(1, 1)) == ["c/0", "c/1", "c/2"]
    store.seal(1, [replace(t, advantage=0.5) for t in store.read(1) if not t.failed])
    assert index.stored("run/c/1").trace.reward == 0.25  # its journal has gone meanwhile
    versions.append(index.refresh())
    assert [s.advantage for s in index.traces(Filter(step=(1, 1)))] == [0.5, 0.5]
    store.begin(0)
    versions.append(index.refresh())
    assert index.count() == 0
    store.seal(0, [trace(0, "z", 0, 1.0)])  # another attempt, under the same name
    versions.append(index.refresh())
    assert ids(index) == ["z/0"] and versions == sorted(versions) and len(set(versions)) == 5


def test_a_step_that_is_sealed_after_it_was_listed_does_not_vanish(
    index: TraceIndex, monkeypatch: pytest.MonkeyPatch
):
    listed = list_traces(index.folder)
    Store(index.folder).seal(1, FLYING)
    with monkeypatch.context() as patch:
        patch.setattr("aipo.trace.duckdb_views.list_traces", lambda folder: listed)
        index.refresh()
        assert ids(index, step=(1, 1)) == ["c/0", "c/1"]
    index.refresh()
    assert ids(index, step=(1, 1)) == ["c/0", "c/1"]


def test_another_attempt_at_a_step_in_flight_replaces_what_was_read(index: TraceIndex):
    store = Store(index.folder)
    store.begin(1)
    for place in (3, 4, 5):  # as long as what was read, and longer
        store.append(trace(1, "c", place, 0.25))
    store.close()
    assert index.stored("run/c/4").trace.index == 4
    assert ids(index, step=(1, 1)) == ["c/3", "c/4", "c/5"]
    with pytest.raises(TraceError, match="trace: got 'run/c/1'"):
        index.stored("run/c/1")


def test_another_attempt_at_a_sealed_step_is_never_taken_for_the_first(index: TraceIndex):
    store = Store(index.folder)
    assert index.count() == 6
    store.begin(0)
    store.seal(0, [trace(0, "z", place, 1.0) for place in range(3)])
    assert index.stored("run/z/1").trace.trace_id == "run/z/1"
    with pytest.raises(TraceError, match="trace: got 'run/a/1'"):
        index.stored("run/a/1")


@pytest.mark.parametrize("missing", [1, 10])
def test_a_half_line_is_left_out_until_it_is_whole(
    opened: Callable[[], TraceIndex], folder: Path, missing: int
):
    journal = folder / "__journal" / "step-00001-00000.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-missing])
    index = opened()
    assert ids(index, step=(1, 1)) == ["c/0"]
    with journal.open("ab") as file:
        file.write(whole[-missing:] + whole.splitlines(keepends=True)[0].replace(b"run/c/0", b"run/c/9"))
    index.refresh()
    assert ids(index, step=(1, 1)) == ["c/0", "c/9", "c/1"]


def test_sql_sees_all_columns_of_all_traces(index: TraceIndex):
    names, rows = index.sql(
        "SELECT step, count(*) AS n, sum(len(segments[2].token_ids)) AS sampled FROM traces GROUP BY 1 ORDER BY 1"
    )
    assert (names, rows) == (["step", "n", "sampled"], [(0, 4, 12), (1, 2, 6)])
    with pytest.raises(RunError, match=r"--sql: got 'SELECT nothing', .* allowed a query of DuckDB|Binder"):
        index.sql("SELECT nothing")


def test_a_torn_file_and_another_version_are_refused_by_name(opened: Callable[[], TraceIndex], folder: Path):
    file = folder / "step-00000-00000.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(TraceError, match=r"file of traces .*step-00000-00000\.parquet: got "):
        opened().traces()
    table = to_table([Stored(replace(t, schema_version=99), None) for t in SEALED])
    pq.write_table(table.replace_schema_metadata({"aipo.schema_version": "99"}), file)
    with pytest.raises(TraceError, match=r"version of .*step-00000-00000\.parquet: got 99, allowed 1"):
        opened().traces()
