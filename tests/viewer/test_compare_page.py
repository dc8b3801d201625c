"""The pages that compare: what is paired with what, and that a diff loses nothing."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import TraceError
from aipo.trace import Role, StopReason, Trace
from aipo.trace.index import TraceIndex
from aipo.trace.store import TraceStore
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.data.passages import Passage
from aipo.viewer.links import Links
from aipo.viewer.pages.compare.diff import DiffKind
from aipo.viewer.pages.compare.page import compare_runs, compare_traces
from aipo.viewer.pages.compare.runs import (
    RewardChange,
    SettingDifference,
    changes,
    differences,
    fingerprints,
    flat,
)
from aipo.viewer.pages.compare.traces import DiffRow, DiffText, counts, rows, way
from kit.handmade import agent, asking, consult, policy, prompt, stored, trace, visit

# settings


def test_settings_that_differ_by_their_whole_name() -> None:
    left = flat({"train": {"steps": 2, "kl": None}, "agents": {}, "ks": [1, 2]})
    right = flat({"train": {"steps": 3, "kl": None}, "agents": {"verify": {"budget": 1}}, "ks": [1, 2]})
    assert differences(left, right) == [
        SettingDifference("train.steps", "2", "3"),
        SettingDifference("agents", "{}", None),
        SettingDifference("agents.verify.budget", None, "1"),
    ]


def test_what_a_run_was_made_of() -> None:
    manifest = {
        "model": "m",
        "packages": {"torch": "2.13"},
        "files": {"graph": {"file": "/x.py", "fingerprint": "abc"}, "odd": 3},
    }
    assert fingerprints(manifest) == {"model": "m", "graph": "abc", "odd": "3", "package torch": '"2.13"'}
    assert fingerprints(None) == {}


# rewards


def rollout(place: str, reward: float | None, **changes: object) -> Trace:
    """`place` is 'step/group/index/task'."""
    step, group, index, task = place.split("/")
    made: dict[str, object] = {
        "trace_id": f"{changes.pop('run', 'a')}/{place}",
        "group_id": group,
        "task_id": task,
        "step": int(step),
        "index": int(index),
        "reward": reward,
        "stop_reason": StopReason.EOS if reward is not None else StopReason.ERROR,
    }
    return trace(prompt(), policy("x"), **(made | changes))


def index(folder: Path, traces: Sequence[Trace]) -> TraceIndex:
    with TraceStore(folder, decode=lambda ids: "".join(map(chr, ids))) as store:
        for one in traces:
            store.append(one)
    return TraceIndex(folder)


def compared(
    tmp_path: Path, left: Sequence[Trace], right: Sequence[Trace]
) -> tuple[str, list[tuple[object, ...]]]:
    found = changes(index(tmp_path / "a", left), index(tmp_path / "b", right))
    flips: list[RewardChange] = [*found.worse, *found.better]
    return found.how, [(c.task_id, c.step, c.before, c.after) for c in flips]


def test_rewards_of_a_group_that_both_runs_have_are_compared(tmp_path: Path) -> None:
    left = [
        rollout("0/g/0/q", 1.0),
        rollout("0/g/1/q", 0.0),
        rollout("1/h/0/p", 1.0),
        rollout("1/h/1/p", None),
    ]
    right = [
        rollout("0/g/0/q", 1.0, run="b"),
        rollout("0/g/1/q", 1.0, run="b"),
        rollout("1/h/0/p", 0.0, run="b"),
    ]
    how, flips = compared(tmp_path, left, right)
    assert how == "the same task in the same group and step"
    assert flips == [("p", 1, 1.0, 0.0), ("q", 0, 0.5, 1.0)]


def test_runs_that_drew_tasks_in_another_order_are_compared_task_by_task(tmp_path: Path) -> None:
    left = [
        rollout("0/g/0/q", 1.0),
        rollout("1/h/0/p", 0.0),
        rollout("2/i/0/o", 0.0),
        rollout("3/j/0/n", 1.0),
    ]
    right = [
        rollout("0/g/0/q", 1.0),
        rollout("2/h/0/p", 1.0),
        rollout("1/i/0/o", 0.0),
        rollout("4/j/0/n", 1.0),
    ]
    how, flips = compared(tmp_path, left, [replace(t, trace_id=f"b{t.trace_id}") for t in right])
    assert how == "the same task, whatever the step"
    assert flips == [("p", None, 0.0, 1.0)]


def test_a_replay_is_paired_with_its_source_whatever_its_place(tmp_path: Path) -> None:
    left = [rollout("0/g/0/q", 1.0), rollout("0/g/1/q", 1.0)]
    right = [rollout("7/z/5/q", 0.0, run="b", parent_id=left[1].trace_id)]
    assert compared(tmp_path, left, right) == ("a rollout and its replay", [("q", None, 1.0, 0.0)])


def test_a_source_on_the_right_is_the_right_side_still(tmp_path: Path) -> None:
    right = [rollout("0/g/0/q", 1.0)]
    left = [rollout("0/g/0/q", 0.0, run="b", parent_id=right[0].trace_id)]
    assert compared(tmp_path, left, right) == ("a rollout and its replay", [("q", 0, 0.0, 1.0)])


def test_kinds_are_not_mixed_and_nothing_in_common_is_said(tmp_path: Path) -> None:
    forbidden = rollout("0/g/0/q", 0.0, run="b", forbidden_ids=(1,))
    how, flips = compared(tmp_path, [rollout("0/g/0/q", 1.0)], [forbidden])
    assert how == "nothing: they have no task in common" and flips == []


# traces


def passages(made: Trace, *, parts: bool = True) -> list[Passage]:
    texts = stored(made).texts or ()
    return [
        Passage(
            role=s.role,
            source=s.source,
            label=s.source,
            colour=str(s.role),
            ids=tuple(s.token_ids.tolist()),
            text=text,
            parts=tuple(text) if parts else None,
        )
        for s, text in zip(made.segments, texts, strict=True)
    ]


def texts(found: Sequence[DiffText]) -> list[tuple[bool, str]]:
    return [(p.same, p.text) for p in found]


def test_a_trace_and_its_replay_differ_where_the_reply_does() -> None:
    replay = asking(segments=(prompt(), policy("1+1?"), agent("3"), policy("#3")))
    found = rows(passages(asking()), passages(replay), same_tokens=True)
    assert counts(found) == {"same": 2, "changed": 2}
    assert texts(found[3].left_parts) == [(True, "#"), (False, "2")]
    assert texts(found[3].right_parts) == [(True, "#"), (False, "3")]


def test_with_other_tokenizers_words_are_compared() -> None:
    left, right = passages(trace(policy("so 553 it is"))), passages(trace(policy("so 551 it is")))
    (row,) = rows(left, right, same_tokens=False)
    assert texts(row.left_parts) == [(True, "so "), (False, "553"), (True, " it is")]


def test_the_same_text_from_other_tokens_is_said() -> None:
    left = passages(trace(policy("ab")), parts=False)
    right = [replace(left[0], ids=(7,))]
    (row,) = rows(left, right, same_tokens=True)
    assert row.kind is DiffKind.CHANGED and row.silent


def test_a_long_stretch_that_did_not_change_is_folded() -> None:
    same = "x" * 5000
    (row,) = rows(passages(trace(policy(same + "a"))), passages(trace(policy(same + "b"))), same_tokens=True)
    folded, changed = row.left_parts
    assert (len(folded.text), len(folded.folded), len(folded.rest)) == (300, 4400, 300)
    assert changed == DiffText(False, "a")


def test_the_way_through_the_graph() -> None:
    alone = asking(visits=(visit("prompt", 0), visit("policy", 1), visit("score", 2)))
    assert [(step.node, str(step.kind)) for step in way(asking(), alone)] == [
        ("prompt", "same"),
        ("policy", "same"),
        ("knowledge", "removed"),
        ("knowledge/check", "removed"),
        ("policy", "removed"),
        ("score", "same"),
    ]


segments = st.lists(
    st.tuples(st.sampled_from([policy, agent]), st.text("ab \n", min_size=1, max_size=6)), max_size=5
).map(lambda made: trace(*(make(text) for make, text in made)))


@given(segments, segments, st.booleans(), st.booleans())
def test_each_side_of_the_rows_is_its_context(
    left: Trace, right: Trace, parts: bool, same_tokens: bool
) -> None:
    found = rows(passages(left, parts=parts), passages(right, parts=parts), same_tokens=same_tokens)

    def side(row: DiffRow, which: Sequence[DiffText]) -> str:
        shown = row.left_parts if row.kind is DiffKind.SAME else which
        return "".join(p.text + p.folded + p.rest for p in shown)

    for made, number in ((left, 0), (right, 1)):
        there = [r for r in found if (r.left, r.right)[number] is not None]
        whole = "".join(side(r, (r.left_parts, r.right_parts)[number]) for r in there)
        assert whole == "".join(stored(made).texts or ())


# pages


def two_traces(root: Path) -> tuple[str, str]:
    """One that asked, and one of its group that did not."""
    found = RunLibrary(root).run("aipo").index.traces()
    asked = next(t for t in found if t.agents)
    return asked.trace_id, next(t for t in found if t.group_id == asked.group_id and not t.agents).trace_id


def test_the_page_of_two_traces(little_runs: Path) -> None:
    run = RunLibrary(little_runs).run("aipo")
    left, right = two_traces(little_runs)
    html = compare_traces(run, left, run, right, Links(4))
    assert "Two rollouts of one group." in html and "only in A" in html
    assert re.search(
        r'<th scope="row">consults</th><td class="wrap">\w+</td><td class="wrap">none</td>', html
    )
    assert f'href="{Links(4).compare("aipo", right, "aipo", left)}"' in html
    assert "<img" not in html and "\u202e" not in html and "style=" not in html
    swapped = compare_traces(run, right, run, left, Links(4))
    assert swapped.count('<li class="added"') == html.count('<li class="removed"') > 0


def test_a_trace_compared_with_itself_is_the_same(little_runs: Path) -> None:
    run = RunLibrary(little_runs).run("aipo")
    html = compare_traces(run, two_traces(little_runs)[0], run, two_traces(little_runs)[0], Links(4))
    assert (
        '<li class="changed"' not in html
        and "differs" not in re.findall(r"<tbody>.*?</tbody>", html, re.DOTALL)[0]
    )


def test_a_trace_that_is_not_there_is_named(little_runs: Path) -> None:
    run = RunLibrary(little_runs).run("aipo")
    with pytest.raises(TraceError, match="gone"):
        compare_traces(run, "gone", run, "gone", Links(4))


def test_the_page_of_two_runs(little_runs: Path) -> None:
    library = RunLibrary(little_runs)
    html = compare_runs(library.run("aipo"), library.run("grpo"), Links(2))
    assert re.search(r"method\.coefficient</th><td[^>]*><code>&#34;\w+&#34;</code></td>", html)
    assert "Paired: the same task in the same group and step" in html
    assert "<img" not in html and "style=" not in html


def test_a_run_and_its_evaluation_have_one_configuration_and_bad_scores_are_named(own_runs: Path) -> None:
    path = own_runs / "aipo" / "evaluations" / "after.json"
    path.write_text(path.read_text().replace("{", '{"summary": "hello",', 1))
    library = RunLibrary(own_runs)
    html = compare_runs(library.run("aipo"), library.run("aipo/evaluations/after"), Links(2))
    assert "Every setting is the same." in html
    assert html.count("after.json: summary: got &#39;hello&#39;, allowed an object.") == 2


def test_only_a_server_has_every_pair(little_runs: Path) -> None:
    run = RunLibrary(little_runs).run("aipo")
    left, right = two_traces(little_runs)
    assert "compare/" not in compare_traces(run, left, run, right, Links(4, live=False))
    assert "compare/" not in compare_runs(run, run, Links(2, live=False))


def test_consults_that_failed_are_named_so(tmp_path: Path, own_runs: Path) -> None:
    failed = asking(
        trace_id="x", consults=(consult(1, 0, 2, reply=None, error="boom"),), segments=asking().segments
    )
    with TraceStore(own_runs / "other" / "traces", decode=lambda ids: "".join(map(chr, ids))) as store:
        store.append(failed)
        store.append(replace(asking(), trace_id="y", parent_id="x"))
    run = RunLibrary(own_runs).run("other")
    html = compare_traces(run, "x", run, "y", Links(4))
    assert "knowledge (failed)" in html and "B comes from A" in html
    assert failed.segments[0].role is Role.PROMPT
