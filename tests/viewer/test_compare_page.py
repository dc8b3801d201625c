"""The pages that compare: what is paired with what, and that a diff loses nothing."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import TraceError
from aipo.render.spans import TextSpan, text_spans
from aipo.trace import StopReason, Trace
from aipo.trace.index import TraceIndex
from aipo.trace.store import TraceStore
from aipo.util.files import write_json
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.links import Links
from aipo.viewer.pages.compare.diff import DiffKind
from aipo.viewer.pages.compare.runs import changes, compare_runs, fingerprints
from aipo.viewer.pages.compare.settings import Difference, differences, flat, settings_diff
from aipo.viewer.pages.compare.traces import DiffText, compare_traces, rows
from kit.handmade import agent, asking, consult, decode, policy, prompt, stored, trace
from viewer.conftest import Pair

# settings


def test_settings_that_differ_by_their_whole_name() -> None:
    left = flat({"train": {"steps": 2, "kl": None}, "agents": {}, "ks": [1, 2]})
    right = flat({"train": {"steps": 3, "kl": None}, "agents": {"verify": {"budget": 1}}, "ks": [1, 2]})
    assert differences(left, right) == [
        Difference("train.steps", "2", "3"),
        Difference("agents", "{}", None),
        Difference("agents.verify.budget", None, "1"),
    ]


def edited(run: Path, **values: object) -> Path:
    """A run with other settings: `train__steps=9` is `train.steps`; "gone" takes one away."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    for name, value in values.items():
        *above, key = name.split("__")
        part = config
        for place in above:
            part = part[place]
        if value == "gone":
            del part[key]
        else:
            part[key] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.mark.parametrize(
    ("changed", "chosen", "rest"),
    [
        ({"train__learning_rate": 0.25}, ["train.learning_rate"], []),
        ({"run__threads": 7, "train__steps": 9}, ["train.steps"], ["run.threads"]),
        ({"agents__verify": "gone"}, ["agents.verify"], []),
        ({"train__token_stats": "gone"}, [], ["train.token_stats"]),  # an older version had no such setting
        ({"run__seed": 1}, ["run.seed"], []),
        ({}, [], []),
    ],
)
def test_of_two_runs_of_a_preset_those_settings_are_shown_that_somebody_chose(
    own_runs: Path, changed: dict[str, object], chosen: list[str], rest: list[str]
) -> None:
    shutil.copytree(own_runs / "aipo", own_runs / "other")
    edited(own_runs / "other", **changed)
    library = RunLibrary(own_runs)
    found = settings_diff(library.run("aipo"), library.run("other"))
    assert ([d.name for d in found.chosen], [d.name for d in found.rest]) == (chosen, rest)


def test_what_comes_with_two_presets_is_folded(little_runs: Path) -> None:
    library = RunLibrary(little_runs)
    found = settings_diff(library.run("aipo"), library.run("grpo"))
    assert found.chosen[0] == Difference("preset", "aipo_distil", "grpo")
    names = [d.name for d in found.chosen]
    assert (
        "train.steps" in names and "method.coefficient" in names
    )  # this run `aipo` has a coefficient of its own
    assert {"method.distil_weight", "run.out"} <= {d.name for d in found.rest}


def test_without_a_preset_what_training_has_by_default_is_usual(own_runs: Path) -> None:
    for name, preset, coefficient in (("left", "aipo", "power"), ("right", None, "mask")):
        shutil.copytree(own_runs / "grpo", own_runs / name)
        edited(own_runs / name, method__coefficient=coefficient)
        manifest = json.loads((own_runs / name / "manifest.json").read_text())
        write_json(own_runs / name / "manifest.json", manifest | {"preset": preset, "command": "train"})
    library = RunLibrary(own_runs)
    found = settings_diff(library.run("left"), library.run("right"))
    assert [d.name for d in found.rest] == ["method.coefficient"]


def test_a_side_without_recorded_settings_has_none_that_differ(own_runs: Path) -> None:
    shutil.copytree(own_runs / "aipo" / "evaluations", own_runs / "start" / "evaluations")
    library = RunLibrary(own_runs)
    html = compare_runs(library.run("start/evaluations/after"), library.run("aipo"), Links(2))
    assert "start/evaluations/after: no settings were recorded" in html
    assert "Not recorded for both sides." in html and '<th scope="col">what</th>' not in html


def test_what_a_run_was_made_of() -> None:
    files = {"graph": {"file": "/x.py", "fingerprint": "abc"}, "odd": 3}
    manifest = {"model": "m", "packages": {"torch": "2.13"}, "files": files}
    assert fingerprints(manifest) == {"model": "m", "graph": "abc", "package torch": '"2.13"'}
    assert fingerprints({}) == {}
    assert fingerprints(manifest, versions=False) == {"model": "m", "graph": "abc"}


def test_versions_that_a_replay_did_not_record_do_not_differ(own_runs: Path) -> None:
    shutil.copytree(own_runs / "aipo", own_runs / "other")
    manifest = json.loads((own_runs / "aipo" / "manifest.json").read_text())
    write_json(own_runs / "other" / "manifest.json", {k: v for k, v in manifest.items() if k == "model"})
    library = RunLibrary(own_runs)
    html = compare_runs(library.run("aipo"), library.run("other"), Links(2))
    assert "Versions of packages were not recorded for both sides." in html
    assert "package torch" not in html


# rewards


def rollout(place: str, reward: float | None, run: str = "a", **changes: object) -> Trace:
    """`place` is 'step/group/index/task'."""
    step, group, index, task = place.split("/")
    place_of = {"group_id": group, "task_id": task, "step": int(step), "index": int(index)}
    stop = StopReason.EOS if reward is not None else StopReason.ERROR
    given = {"trace_id": f"{run}/{place}", **place_of, "reward": reward, "stop_reason": stop, **changes}
    return trace(prompt(), policy("x"), **given)


def index(folder: Path, traces: Sequence[Trace]) -> TraceIndex:
    with TraceStore(folder, decode=decode) as store:
        for one in traces:
            store.append(one)
    return TraceIndex(folder)


SAME_STEP, ANY_STEP = "the same task in the same step", "the same task, whatever the step"
REPLAY, NOTHING = "a rollout and its replay", "nothing: they have no task in common"


@pytest.mark.parametrize(
    ("left", "right", "how", "flips"),
    [
        pytest.param(
            [("0/g/0/q", 1.0), ("0/g/1/q", 0.0), ("1/h/0/p", 1.0), ("1/h/1/p", None)],
            [("0/g/0/q", 1.0), ("0/g/1/q", 1.0), ("1/h/0/p", 0.0)],
            SAME_STEP, [("p", 1, 1.0, 0.0), ("q", 0, 0.5, 1.0)], id="a task of both in one step",
        ),
        pytest.param(
            [("0/g/0/q", 1.0), ("1/h/0/p", 0.0), ("2/i/0/o", 0.0), ("3/j/0/n", 1.0)],
            [("0/g/0/q", 1.0), ("2/h/0/p", 1.0), ("1/i/0/o", 0.0), ("4/j/0/n", 1.0)],
            ANY_STEP, [("p", None, 0.0, 1.0)], id="tasks in another order, but for a chance match",
        ),
        pytest.param(
            [("0/g/0/q", 1.0), ("0/g/1/q", 1.0)], [("7/z/5/q", 0.0, {"parent_id": "a/0/g/1/q"})],
            REPLAY, [("q", None, 1.0, 0.0)], id="a replay, whatever its place",
        ),
        pytest.param(
            [("0/g/0/q", 0.0, {"parent_id": "b/0/g/0/q"})], [("0/g/0/q", 1.0)],
            REPLAY, [("q", 0, 0.0, 1.0)], id="the source is on the right",
        ),
        pytest.param(
            [("0/g/0/q", 1.0)], [("0/g/0/q", 0.0, {"forbidden_ids": (1,)})], NOTHING, [], id="another kind",
        ),
    ],
)  # fmt: skip
def test_rewards_are_compared_with_what_is_closest(
    tmp_path: Path, left: list[tuple], right: list[tuple], how: str, flips: list[tuple]
) -> None:
    sides = [
        index(tmp_path / run, [rollout(place, reward, run, **(rest[0] if rest else {})) for place, reward, *rest in side])
        for run, side in (("a", left), ("b", right))
    ]  # fmt: skip
    found = changes(*sides)
    changed = [(c.left[0].task_id, c.step, c.before, c.after) for c in (*found.worse, *found.better)]
    assert (found.how, changed) == (how, flips)


# traces


def context(of: Trace) -> list[TextSpan]:
    return text_spans(of, stored(of).texts)


def shown(parts: Sequence[DiffText]) -> list[tuple[bool, str]]:
    return [(p.same, p.text) for p in parts]


def test_a_trace_and_its_replay_differ_where_the_reply_does() -> None:
    replay = asking(segments=(prompt(), policy("1+1?"), agent("3"), policy("so #3")))
    found = rows(context(asking(segments=(*asking().segments[:3], policy("so #2")))), context(replay))
    assert [str(row.kind) for row in found] == ["same", "same", "changed", "changed"]
    left, right = found[3].left, found[3].right
    assert left and shown(left.parts) == [(True, "so #"), (False, "2")]
    assert right and shown(right.parts) == [(True, "so #"), (False, "3")]


def test_a_tag_changes_as_a_whole() -> None:
    (row,) = rows(context(trace(policy("1+1=2 <consult:verify>"))), context(trace(policy("1+1=2 <eos>"))))
    assert row.left and shown(row.left.parts) == [(True, "1+1=2 "), (False, "<consult:verify>")]
    assert row.right and shown(row.right.parts) == [(True, "1+1=2 "), (False, "<eos>")]


def test_a_long_stretch_that_did_not_change_is_folded() -> None:
    same = "x " * 2500
    (row,) = rows(context(trace(policy(same + "a"))), context(trace(policy(same + "b"))))
    assert row.left is not None
    folded, changed = row.left.parts
    assert (len(folded.text), len(folded.folded), len(folded.rest)) == (300, 4400, 300)
    assert changed == DiffText(False, "a")


segments = st.lists(
    st.tuples(st.sampled_from([policy, agent]), st.text("ab \n", min_size=1, max_size=6)), max_size=5
).map(lambda pieces: trace(*(make(text) for make, text in pieces)))


@given(segments, segments)
def test_each_side_of_the_rows_is_its_context(left: Trace, right: Trace) -> None:
    found = rows(context(left), context(right))
    for side, of in (("left", left), ("right", right)):
        segments = [segment for row in found if (segment := getattr(row, side))]
        assert [segment.number for segment in segments] == list(range(len(of.segments)))
        text = "".join(p.text + p.folded + p.rest for segment in segments for p in segment.parts)
        assert text == "".join(stored(of).texts or ())
    assert all(row.span.text for row in found if row.kind is DiffKind.SAME)


# pages


def test_the_page_of_two_traces(little_runs: Path, pair: Pair) -> None:
    run = RunLibrary(little_runs).run("aipo")
    left, right = (one.trace_id for one in pair)
    html = compare_traces(run, left, run, right, Links(4))
    assert "Two rollouts of one group." in html and "only in A" in html
    consults = r'<th scope="row">consults</th><td class="wrap">\w+</td><td class="wrap">none</td>'
    assert re.search(consults, html)
    assert f'href="{Links(4).compare("aipo", right, "aipo", left)}"' in html
    assert "<img" not in html and "\u202e" not in html and "style=" not in html
    swapped = compare_traces(run, right, run, left, Links(4))
    assert swapped.count('<li class="added"') == html.count('<li class="removed"') > 0
    same = compare_traces(run, left, run, left, Links(4))
    assert '<li class="changed"' not in same and "differs" not in same.partition("<tbody>")[2]
    assert "compare/" not in compare_traces(run, left, run, right, Links(4, live=False))
    with pytest.raises(TraceError, match="gone"):
        compare_traces(run, "gone", run, "gone", Links(4))


def test_the_page_of_two_runs(little_runs: Path) -> None:
    library = RunLibrary(little_runs)
    html = compare_runs(library.run("aipo"), library.run("grpo"), Links(2))
    assert re.search(r"method\.coefficient</th><td[^>]*><code>&#34;\w+&#34;</code></td>", html)
    assert f"Paired: {SAME_STEP}" in html
    assert "<img" not in html and "style=" not in html
    assert "compare/" not in compare_runs(library.run("aipo"), library.run("grpo"), Links(2, live=False))


def test_a_run_and_its_evaluation_have_one_configuration_and_bad_scores_are_named(own_runs: Path) -> None:
    path = own_runs / "aipo" / "evaluations" / "after.json"
    path.write_text(path.read_text().replace("{", '{"summary": "hello",', 1))
    library = RunLibrary(own_runs)
    html = compare_runs(library.run("aipo"), library.run("aipo/evaluations/after"), Links(2))
    assert "Every setting is the same." in html
    assert html.count("after.json: summary: got &#39;hello&#39;: Input should be") == 2


def test_consults_that_failed_are_named_so(tmp_path: Path) -> None:
    failed = asking(trace_id="x", consults=(consult(1, 0, 2, reply=None, error="boom"),))
    index(tmp_path / "other" / "traces", [failed, asking(trace_id="y", parent_id="x")])
    run = RunLibrary(tmp_path).run("other")
    html = compare_traces(run, "x", run, "y", Links(4))
    assert "knowledge (failed)" in html and "B comes from A" in html
