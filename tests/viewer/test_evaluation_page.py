"""The pages of an evaluation: its scores, its tasks with the wrong answers one click away, and two of them paired by task."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from aipo.evaluate.samples import SampleResult
from aipo.trace import Mode, Role, StopReason
from aipo.trace.store import TraceStore
from aipo.util.files import write_json
from aipo.viewer.bundle import write_bundle
from aipo.viewer.data.evaluation import TaskKey, view_of
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.overview import state
from aipo.viewer.data.run_files import Scores
from aipo.viewer.links import Links
from aipo.viewer.pages.compare.runs import compare_runs
from aipo.viewer.pages.evaluation import by_label, evaluation_page, measures, pass_at_charts
from aipo.viewer.pages.task import find_task, task_page
from aipo.viewer.pages.task_list import listing, read_query
from aipo.viewer.pages.trace import trace_page
from aipo.viewer.site import Site
from kit.handmade import decode, said, text_of, trace
from kit.viewing import BAD

# Two samples of each task: of a one is wrong, of b both, of c one has no verdict.
SOLO = {"a": ("4", "5"), "b": ("7", "8"), "c": ("9", None)}
RIGHT = {"a": "4", "b": "6", "c": "9"}
LEVELS = {"a": "1", "b": "2", "c": "10"}


def sample(task_id: str, index: int, answer: str | None, **changes: Any) -> SampleResult:
    right = answer == RIGHT.get(task_id)
    given: dict[str, Any] = {
        "split": "maths",
        "setting": "solo",
        "task_id": task_id,
        "index": index,
        "correct": float(right),
        "reward": float(right),
        "answer": answer,
        "stop": StopReason.EOS,
        "error": None,
        "reason": f"the last box says {answer}",
        "trace_id": f"after/maths-{changes.get('setting', 'solo')}-{task_id}/{index}",
        "kept": index == 0,
        **dict.fromkeys(
            ("tokens", "agent_tokens", "consults", "calls", "call_tokens_in", "call_tokens_out"), 5
        ),
        "dollars": None,
        "seconds": 1.5,
    }
    failed = {"correct": None, "reward": None, "answer": None, "stop": StopReason.UNSCORED, "reason": None}
    return SampleResult(
        **{**given, **(failed | {"error": "ScoreError: too long"} if answer is None else {}), **changes}
    )


def samples_of(setting: str = "solo", **answers: Sequence[str | None]) -> list[SampleResult]:
    return [
        sample(task, index, answer, setting=setting)
        for task, given in answers.items()
        for index, answer in enumerate(given)
    ]


def result(samples: Sequence[SampleResult], **rest: Any) -> dict[str, Any]:
    """What the file of scores has, as far as the pages read it."""
    tasks = {one.task_id: [s for s in samples if s.task_id == one.task_id] for one in samples}
    per_task = [
        {
            "task_id": task,
            "cluster": task,
            "verdicts": sum(s.correct is not None for s in own),
            "correct": sum(s.passed for s in own),
            "failed": sum(s.correct is None for s in own),
            "labels": {"level": LEVELS[task]},
        }
        for task, own in tasks.items()
    ]
    counts = {
        "tasks": len(tasks),
        "rollouts": len(samples),
        "failed": sum(s.correct is None for s in samples),
    }
    scores = {"pass_at": {"1": 0.5, "2": 0.75}, "interval": {"1": [0.25, 0.75], "2": None}}
    return {**scores, "counts": counts, "cost": {"tokens": 60, "calls": 3}, "per_task": per_task, **rest}


def write(
    run: Path, samples: Sequence[SampleResult], results: Any = None, *, name: str = "after", log: bool = True
) -> Path:
    """An evaluation with the traces that its samples say are kept."""
    folder = run / "evaluations" / name
    folder.mkdir(parents=True)
    if log:
        (folder / "samples.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in samples))
    traces = [
        trace(
            said(Role.PROMPT, "prompt", "?"),
            said(Role.POLICY, "policy", one.answer or "?"),
            trace_id=one.trace_id,
            group_id=f"maths-{one.setting}-{one.task_id}",
            task_id=one.task_id,
            index=one.index,
            mode=Mode.ASSISTED if one.setting == "assisted" else Mode.SOLO,
            task={
                "prompt": f"What is {one.task_id}?",
                "answer": RIGHT.get(one.task_id, "1"),
                "split": one.split,
            },
            reward=one.reward,
            reward_parts={} if one.correct is None else {"correct": one.correct},
            reason=one.reason,
            error=one.error,
            stop_reason=one.stop,
        )
        for one in samples
        if one.kept
    ]
    with TraceStore(folder, decode=decode) as store:
        store.seal(0, traces)
    if results is not None:
        write_json(folder.with_suffix(".json"), results)
    return run


def opened(root: Path, name: str = "run/evaluations/after") -> RunView:
    return RunLibrary(root).run(name)


@pytest.fixture
def evaluation(tmp_path: Path) -> RunView:
    """Solo and with agents; with agents all is right."""
    solo = samples_of(**SOLO)
    assisted = samples_of("assisted", a=("4", "4"), b=("6", "6"), c=("9", "9"))
    results = {"maths": {"solo": result(solo), "assisted": result(assisted)}}
    write(tmp_path / "run", [*solo, *assisted], results)
    return opened(tmp_path)


def table_of(html: str, name: str) -> list[list[str]]:
    """The first table of a class, cell by cell."""
    found = re.search(rf'<table class="{name}">.*?</table>', html, re.DOTALL)
    assert found is not None
    rows = re.findall(r"<tr.*?</tr>", found[0], re.DOTALL)
    return [[*map(text_of, re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL))] for row in rows]


def page(run: RunView, **params: str) -> str:
    return evaluation_page(run, params, Links(2), RunLibrary(run.folder.parent))


# scores


def test_scores_stand_by_data_set_and_setting(evaluation: RunView) -> None:
    head, *rows = table_of(page(evaluation), "score-table")
    assert head == [
        "data set",
        "setting",
        "pass@1",
        "pass@2",
        "tasks",
        "no verdict",
        "tokens",
        "agents' calls",
    ]
    assert rows[0] == ["maths", "solo", "0.500 [0.25, 0.75]", "0.750", "3", "1", "10.0", "0.5"]
    assert rows[1][:2] == ["maths", "assisted"]


@pytest.mark.parametrize(
    ("scores", "names"),
    [
        ({"pass_at": {1: 0.5, 2: 0.6, 4: 0.7}}, ["pass@1", "pass@4"]),
        ({"pass_at": {1: 0.5}, "avg_at": {4: 0.5}}, ["pass@1 = avg@4"]),
        ({"pass_at": {1: 0.5}, "avg_at": {4: 0.6}}, ["pass@1", "avg@4"]),
        ({"pass_at": {1: 0.5}, "maj_at": {2: 0.5, 4: 0.6}}, ["pass@1", "maj@4"]),
    ],
)
def test_columns_are_those_that_were_measured(
    evaluation: RunView, scores: dict[str, Any], names: list[str]
) -> None:
    view = replace(view_of(evaluation), scores={"maths": {"solo": Scores(**scores)}})
    assert list(map(str, measures(view))) == names


def test_a_chart_has_pass_at_k_and_the_majority(evaluation: RunView) -> None:
    scores = Scores(
        pass_at={1: 0.5, 4: 0.7},
        interval={1: (0.4, 0.6), 4: (0.6, 0.8)},
        maj_at={4: 0.6},
        maj_interval={4: None},
    )
    view = replace(
        view_of(evaluation), scores={"maths": {"solo": scores}, "one": {"solo": Scores(pass_at={1: 1.0})}}
    )
    [chart] = pass_at_charts(view)
    assert (chart.title, [line.name for line in chart.lines]) == ("maths", ["solo", "solo, maj@k"])
    solo, majority = chart.lines
    assert (solo.x, solo.y, solo.band, solo.dashed) == ([1, 4], [0.5, 0.7], [(0.4, 0.6), (0.6, 0.8)], False)
    assert (majority.x, majority.y, majority.band, majority.dashed) == ([4], [0.6], (), True)


def test_levels_stand_in_their_order(evaluation: RunView) -> None:
    by = {"level": {level: {"tasks": 3, "pass_at": {1: int(level) / 10}} for level in ("10", "2", "1")}}
    one = {"subject": {"algebra": {"tasks": 3, "pass_at": {1: 0.5}}}}
    view = replace(
        view_of(evaluation), scores={"maths": {"solo": Scores.model_validate({"by": {**by, **one}})}}
    )
    [table] = by_label(view)  # a single subject says nothing
    assert (table.split, table.label, table.measure, table.settings) == ("maths", "level", "pass@1", ["solo"])
    assert [(value, tasks, cells[0].value) for value, tasks, cells in table.rows] == [
        ("1", 3, 0.1),
        ("2", 3, 0.2),
        ("10", 3, 1.0),
    ]


# tasks


@pytest.mark.parametrize(
    ("params", "tasks"),
    [
        ({}, ["b", "a", "c"]),  # the fewest right answers first
        ({"show": "wrong"}, ["b", "a"]),
        ({"show": "never"}, ["b"]),
        ({"show": "right"}, ["c"]),
        ({"show": "failed"}, ["c"]),
        ({"setting": "assisted", "show": "wrong"}, []),
        ({"setting": "assisted", "show": "right"}, ["a", "b", "c"]),
        ({"label": "level: 10"}, ["c"]),
        ({"task": "B"}, ["b"]),
        ({"split": "maths", "page": "2"}, []),
    ],
)
def test_tasks_can_be_chosen(evaluation: RunView, params: dict[str, str], tasks: list[str]) -> None:
    view = view_of(evaluation)
    query, problems = read_query(params, view)
    assert problems == []
    assert [row.key.task_id for row in listing(evaluation, view, query, Links(2)).rows] == tasks
    address = urlsplit(query.link(page=query.page))
    assert read_query(dict(parse_qsl(address.query)), view) == (query, [])


def test_values_that_make_no_sense_are_named(evaluation: RunView) -> None:
    query, problems = read_query({"show": "odd", "setting": "loud", "page": "x"}, view_of(evaluation))
    assert (query.show, query.setting, query.page) == ("all", "", 1)
    assert problems == [
        "setting: got 'loud', allowed ['solo', 'assisted'], in the address of this page",
        "show: got 'odd', allowed ['all', 'wrong', 'never', 'right', 'failed'], in the address of this page",
    ]


def test_a_line_says_question_samples_and_wrong_answers(evaluation: RunView) -> None:
    view = view_of(evaluation)
    query, _ = read_query({"setting": "solo"}, view)
    b, a, c = listing(evaluation, view, query, Links(2)).rows
    assert (b.question, b.answer, b.labels, b.wrong) == ("What is b?", "6", "level 2", ["7", "8"])
    [(score, marks)] = a.cells
    assert (score.score.correct, score.score.verdicts) == (1, 2)
    assert [(mark.css, mark.title) for mark in marks] == [
        ("mark solo q4", "0: right · 4 · the last box says 4"),
        ("mark solo q0", "1: wrong · 5 · the last box says 5"),
    ]
    assert marks[0].href is not None and marks[1].href is None
    assert c.cells[0][1][1].title == "1: no verdict · ScoreError: too long"
    assert b.href == "../../run/run_2Fevaluations_2Fafter/task/maths/b.html"


def test_where_nobody_named_answers_the_reason_stands(tmp_path: Path) -> None:
    given = [sample("a", 0, "5"), sample("a", 1, "5")]
    unnamed = [replace(one, answer=None) for one in given]
    run = opened(write(tmp_path / "run", unnamed).parent)
    view = view_of(run)
    [row] = listing(run, view, read_query({}, view)[0], Links(2)).rows
    assert row.wrong == ["the last box says 5"]
    named = opened(write(tmp_path / "named", given).parent, "named/evaluations/after")
    [row] = listing(named, view_of(named), read_query({}, view)[0], Links(2)).rows
    assert row.wrong == ["5 ×2"]


def test_the_page_of_a_task_has_each_sample_with_its_reason(evaluation: RunView) -> None:
    key = find_task(evaluation, "maths", "b")
    assert key == TaskKey("maths", "b") and find_task(evaluation, "maths", "z") is None
    html = task_page(evaluation, key, Links(4))
    assert "What is b?" in html and "solo: 0 of 2 verdicts right" in html and "level 2" in html
    _, first, second = table_of(html, "samples")
    assert first == ["trace 0", "7", "0", "the last box says 7", "eos", "5", "5", "1.5"]
    assert second[:4] == ["1, not kept", "8", "0", "the last box says 8"]
    assert 'href="../../../../run/run_2Fevaluations_2Fafter/trace/after_2Fmaths-solo-b_2F0.html"' in html
    assert 'rel="prev" href="../../../../run/run_2Fevaluations_2Fafter/task/maths/a.html"' in html
    unscored = task_page(evaluation, TaskKey("maths", "c"), Links(4))
    assert (
        "1 without a verdict" in unscored
        and "ScoreError: too long" in unscored
        and 'rel="next"' not in unscored
    )


def test_a_trace_leads_to_its_task(evaluation: RunView) -> None:
    html = trace_page(evaluation, "after/maths-solo-b/0", Links(3))
    assert '<a href="../../../run/run_2Fevaluations_2Fafter/task/maths/b.html">Its task</a>' in html


# evaluations that lack something


def test_an_unfinished_one_shows_what_is_there(tmp_path: Path) -> None:
    run = write(tmp_path / "run", samples_of(**SOLO))
    setup = {"suite": "mine", "policy": {"model": "tiny"}, "datasets": {"maths": {"tasks": {"count": 5}, "samples": 4, "settings": ["solo"], "temperature": 0.5}}}  # fmt: skip
    write_json(run / "evaluations" / "after" / "setup.json", setup)
    view = view_of(opened(tmp_path))
    assert (view.finished, view.done, view.planned) == (False, 6, 20)
    assert view.facts == {"suite": "mine", "model": "tiny", "samples": "4", "temperature": "0.5"}
    assert view.scores["maths"]["solo"].pass_at == {1: 0.5}  # 1/2, 0/2 and 1/1
    html = page(opened(tmp_path))
    assert "<b>6</b> of 20 samples" in html and "Not finished" in html
    assert state(opened(tmp_path), None).state == "stopped"


def test_of_one_of_before_samples_were_written_the_kept_ones_are_shown(tmp_path: Path) -> None:
    solo = samples_of(**SOLO)
    results = {"maths": {"solo": {"pass_at": {"1": 0.5}, "per_task": result(solo)["per_task"]}}}
    for one in results["maths"]["solo"]["per_task"]:
        del one["labels"]
    write(tmp_path / "run", solo, results, log=False)
    run = opened(tmp_path)
    view = view_of(run)
    assert (view.finished, view.done, view.planned) == (True, 3, None)
    [kept] = view.tasks[TaskKey("maths", "b")]["solo"].samples
    assert (kept.index, kept.correct, kept.reason, kept.answer) == (0, 0.0, "the last box says 7", None)
    html = task_page(run, TaskKey("maths", "b"), Links(4))
    assert "solo: 0 of 2 verdicts right" in html and "1 more sample: only counted" in html
    assert "3 samples kept" in text_of(page(run))


def test_text_of_anybody_makes_no_markup(tmp_path: Path) -> None:
    hostile = replace(sample("a", 0, BAD), reason=BAD, error=BAD, split=BAD, task_id=BAD)
    write(tmp_path / "run", [hostile])
    run = opened(tmp_path)
    for html in (page(run), page(run, split=BAD, task=BAD), task_page(run, TaskKey(BAD, BAD), Links(4))):
        assert "<script>alert" not in html and "<img" not in html


# the site


def test_every_page_of_an_evaluation_has_an_address(evaluation: RunView) -> None:
    site = Site(RunLibrary(evaluation.folder.parent), live=True)
    start = "run/run_2Fevaluations_2Fafter"
    for path in ("index.html", "traces.html", "task/maths/b.html"):
        assert site.answer(f"{start}/{path}").status == 200
    assert site.answer(f"{start}/task/maths/z.html").status == 404
    found = site.answer(f"{start}/index.html", {"show": "never"}).body.decode()
    assert re.findall(r'data-row="maths (\w)"', found) == ["b"]


def test_a_static_site_has_the_tasks_and_no_filters(evaluation: RunView, tmp_path: Path) -> None:
    bundle = write_bundle(RunLibrary(evaluation.folder.parent), tmp_path / "site")
    assert bundle.faulty == ()
    start = tmp_path / "site" / "run" / "run_2Fevaluations_2Fafter"
    assert sorted(file.name for file in (start / "task" / "maths").iterdir()) == [
        "a.html",
        "b.html",
        "c.html",
    ]
    html = (start / "index.html").read_text()
    assert "<form class" not in html and "traces.html" not in html and not (start / "traces.html").exists()


# two of them


def test_two_evaluations_are_paired_by_task(evaluation: RunView) -> None:
    other = samples_of(a=("5", "5"), b=("6", "6"), c=("9", "9"))
    write(evaluation.folder.parent / "other", other, {"maths": {"solo": result(other)}})
    library = RunLibrary(evaluation.folder.parent)
    assert "other/evaluations/after with this one" in page(evaluation)
    html = compare_runs(evaluation, library.run("other/evaluations/after"), Links(2))
    text = text_of(html)
    assert "Two evaluations" in text and "only A has maths, assisted" in text and "Paired: " not in text
    _, row, *_ = table_of(html, "score-table")
    assert (
        row[:5] == ["maths", "solo", "pass@1", "0.500 [0.00, 1.00]", "0.667 [0.00, 1.00]"] and row[-1] == "3"
    )
    assert "wrong in B, right in A 1" in text and "right in B, wrong in A 1" in text
    assert 'href="../../run/other_2Fevaluations_2Fafter/task/maths/b.html">2 of 2</a>' in html


def test_an_evaluation_and_a_run_are_compared_as_before(evaluation: RunView, little_runs: Path) -> None:
    html = compare_runs(evaluation, RunLibrary(little_runs).run("grpo"), Links(2))
    assert "Two runs" in html and "Paired: nothing" in html
    unlike = samples_of(d=("1",))
    write(evaluation.folder.parent / "unlike", [replace(one, split="d") for one in unlike], {})
    other = RunLibrary(evaluation.folder.parent).run("unlike/evaluations/after")
    assert "Paired: nothing" in compare_runs(evaluation, other, Links(2))
