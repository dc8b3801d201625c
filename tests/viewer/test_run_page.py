"""The page of a run: what it says of the run, which rows it chooses, and that it believes nobody."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from aipo.replay.questions.consult_worth import Tally, against_group, table
from aipo.trace import StopReason, Trace
from aipo.trace.store import TraceStore
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.data.run_summary import head
from aipo.viewer.links import Links, group_path, slug
from aipo.viewer.pages import run as module
from aipo.viewer.pages import run_table
from aipo.viewer.pages.run import run_page
from aipo.viewer.pages.trace import trace_page
from aipo.viewer.responses import thousands
from kit.handmade import rows_of, text_of
from kit.recorded import HOSTILE


def html_of(root: Path, name: str = "aipo", *, links: Links | None = None, **query: str) -> str:
    library = RunLibrary(root)
    return run_page(library.run(name), query, links or Links(2), library)


def static_html_of(root: Path, name: str = "aipo", **query: str) -> str:
    return html_of(root, name, links=Links(2, live=False), **query)


@pytest.fixture
def asking(little_runs: Path) -> Trace:
    """A trace with a consult."""
    return next(t for t in TraceStore(little_runs / "aipo" / "traces").read() if t.consults)


def write_traces(folder: Path, *traces: Trace) -> None:
    with TraceStore(folder / "traces") as store:
        store.seal(0, traces)


def begun(little_runs: Path, root: Path, name: str) -> Path:
    """A run folder without a trace."""
    (root / name).mkdir()
    for file in ("config.yaml", "manifest.json", "graph.json"):
        shutil.copy(little_runs / "aipo" / file, root / name)
    return root / name


# the head


def test_the_head_says_what_the_run_is(little_runs: Path) -> None:
    html = html_of(little_runs)
    text = text_of(html)
    assert "2 of 2 steps 32 rollouts 2 failed" in text
    assert "graph consult plan independent (50% assisted) credit group coefficient" in text
    assert "model scripted" in text and "4 tasks × 4 rollouts" in text
    assert "after easy 0.00 1.00" in text
    assert re.search(r"graphs/consult\.py</td><td class=\"mono\">[0-9a-f]{16}<", html)
    assert 'id="fold-graph"' in html and "aipo-graph" in html
    method = {"plan": "independent", "assist_share": 0.5, "assist_share_end": 0.0, "suppress_share": 0.25}
    assert "independent (50% assisted, 0% by the end, 25% suppressed)" in str(head({"method": method}, {}))


def test_the_head_has_what_moves_and_the_agents_with_coefficients_of_their_own() -> None:
    method = {
        **{"plan": "independent", "assist_share": 0.5, "suppress_share": 0.0, "suppress_share_end": 0.5},
        **{"grant_steps": 2.0, "coefficient": "power", "agents": {"verify": {"coefficient": "mask"}}},
    }
    said = dict(head({"method": method}, {}).method)
    assert said["plan"] == (
        "independent (50% assisted, 0% suppressed, 50% by the end, requests granted with 2/(2 + step))"
    )
    assert said["coefficient"] == "power, verify mask"


def test_of_one_thing_the_head_says_one() -> None:
    sizes = [(1, 4, "1 task × 4 rollouts"), (4, 1, "4 tasks × 1 rollout"), ("four", 4, None), (4, None, None)]
    for tasks, rollouts, said in sizes:
        facts = head({"train": {"tasks_per_step": tasks, "group_size": rollouts}}, {}).facts
        assert dict(facts).get("a step") == said


def test_a_run_that_has_just_begun(little_runs: Path, tmp_path: Path) -> None:
    begun(little_runs, tmp_path, "new")
    for html in (html_of(tmp_path, "new"), static_html_of(tmp_path, "new")):
        assert "No rollout has finished yet." in text_of(html)
        assert '<figure class="chart' not in html and "0 rollouts" in text_of(html)


@pytest.mark.parametrize(("silent", "asked", "said"), [(64, 0, True), (63, 0, False), (64, 1, False)])
def test_a_policy_that_never_asks_is_named(
    little_runs: Path, tmp_path: Path, asking: Trace, silent: int, asked: int, said: bool
) -> None:
    folder = begun(little_runs, tmp_path, "silent")
    quiet = [replace(asking, consults=(), trace_id=f"s/{n}", index=n) for n in range(silent)]
    write_traces(folder, *quiet, *[asking] * asked)
    warning = (
        f"no agent was asked in {silent} assisted rollouts; agents teach a policy only what it asks them"
    )
    assert (warning in text_of(html_of(tmp_path, "silent"))) == said
    # In the forks of `aipo replay consults` nobody can ask.
    (folder / "manifest.json").write_text('{"replay_of": {"what": "consults", "path": "/r", "run_id": "r"}}')
    assert warning not in text_of(html_of(tmp_path, "silent"))


def test_an_evaluation_leads_to_its_run_and_has_no_curves(little_runs: Path) -> None:
    html = html_of(little_runs, "aipo/evaluations/after")
    assert 'Evaluation of <a href="../../run/aipo/index.html">aipo</a>' in html
    assert '<figure class="chart' not in html and "after easy 0.00 1.00" in text_of(html)
    assert len(rows_of(html)) == 4
    assert "Evaluation of" not in html_of(little_runs / "aipo" / "evaluations" / "after", "after")


@pytest.mark.parametrize("root", ["", "aipo"])
def test_an_evaluation_has_a_link_to_its_own_page_where_there_is_one(own_runs: Path, root: str) -> None:
    name = "evaluations/after" if root else "aipo/evaluations/after"
    link = f'<th scope="row"><a href="../../run/{slug(name)}/index.html">after</a></th>'
    assert link in html_of(own_runs / root) and name in {r.name for r in RunLibrary(own_runs / root).runs()}
    shutil.rmtree(own_runs / "aipo" / "evaluations" / "after")
    assert '<th scope="row">after</th>' in html_of(own_runs / root)


def test_a_run_without_relatives_asks_for_no_other_run(
    little_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = RunLibrary(little_runs)
    run = library.run("grpo")
    monkeypatch.setattr(RunLibrary, "runs", lambda _: pytest.fail("all folders are looked through"))
    assert "16 rollouts" in text_of(run_page(run, {}, Links(2), library))


def test_scores_of_several_evaluations_are_one_table(own_runs: Path) -> None:
    path = own_runs / "aipo" / "evaluations" / "after.json"
    easy = json.loads(path.read_text())["easy"]
    easy["solo"] |= {"pass_at": {"1": 0.25, "4": 0.5, "8": None}, "interval": {"1": [0.125, 0.5], "4": None}}
    path.write_text(json.dumps({"hard": easy}))
    path.with_name("later.json").write_text(json.dumps({"hard": {"forbidden": {"pass_at": {"1": 0.75}}}}))
    text = text_of(html_of(own_runs))
    assert "pass@1 pass@4 pass@1 pass@1 after hard 0.25 [0.12, 0.50] 0.50 – 1.00" in text
    assert "later hard – – 0.75 –" in text


def test_curves_are_drawn_once_for_the_same_metrics(own_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = module.curves

    def counted(metrics: list[Mapping[str, object]], agents: list[str], *, leads: bool) -> object:
        drawn.append(len(metrics))
        return draw(metrics, agents, leads=leads)

    monkeypatch.setattr(module, "curves", counted)
    library = RunLibrary(own_runs)
    pages = [run_page(library.run("aipo"), {}, Links(2), library) for _ in range(2)]
    with (own_runs / "aipo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "reward/solo": 0.5}\n{"step": 4, "rew')
    assert "3 of 2 steps" in text_of(run_page(library.run("aipo"), {}, Links(2), library))
    assert drawn == [2, 3] and pages[0] == pages[1]


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("metrics.jsonl", "oops\n", "metrics.jsonl, line 1: got Expecting value"),
        ("metrics.jsonl", "[1,2]\n", "line 1: got [1, 2], allowed an object with a number called step"),
        ("metrics.jsonl", '{"loss": 1}\n', "line 1: got {'loss': 1}, allowed an object with a number"),
        ("metrics.jsonl", '{"step": 1, "loss": "high"}\n', "line 1: loss: got 'high', allowed a finite number"),
        ("metrics.jsonl", '{"step": 1, "loss": NaN, "kl": 1e999}\n', "loss: got nan, allowed a finite number"),
        ("metrics.jsonl", "[" * 100_000 + "\n", "metrics.jsonl, line 1: got maximum recursion"),
        ("evaluations/after.json", "[1,2]", "evaluations/after.json: the file: got [1, 2]: Input should be"),
        ("evaluations/after.json", "[" * 100_000, "evaluations/after.json: the file: got "),
        ("evaluations/after.json", '{"summary": "hello"}', "after.json: summary: got 'hello': Input should be"),
        ("evaluations/after.json", '{"easy": {"solo": {"pass_at": {"1": NaN}}}}',
         "after.json: easy.solo.pass_at.1: got nan: Input should be a finite number"),
        ("evaluations/after.json", '{"easy": {"solo": {"interval": {"1": [1]}}}}',
         "after.json: easy.solo.interval.1.1: got [1]: Field required"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_said(own_runs: Path, file: str, content: str, problem: str) -> None:
    (own_runs / "aipo" / file).write_text(content)
    for html in (html_of(own_runs), static_html_of(own_runs)):
        notes = {text_of(note) for note in re.findall(r'<p class="note warn wrap">.*?</p>', html)}
        (note,) = (note for note in notes if problem in note)
        assert note.endswith(".") and len(rows_of(html)) >= 8


def test_numbers_that_can_be_taken_are_shown_beside_a_note(own_runs: Path) -> None:
    with (own_runs / "aipo" / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 3, "reward/solo": Infinity}\n{"step": 4, "reward/solo": -Infinity, "loss": 2.5}\n'
        )
    html = html_of(own_runs)
    assert text_of(html).count("reward/solo: got inf, allowed a finite number.") == 1
    assert "4 of 2 steps" in text_of(html) and '"name":"loss"' in html


# the list


def test_groups_come_with_a_mark_for_each_rollout(little_runs: Path) -> None:
    html = html_of(little_runs)
    rows = rows_of(html)
    assert len(rows) == 8
    assert rows[0].startswith("1 808+1=? ") and rows[0].endswith("0.5 verify 2")
    assert rows[-1].startswith("0 536+40=? ") and rows[-1].endswith("1 verify 2 2")  # failed, but not mixed
    last = html[html.rindex("<tr data-row") :]
    marks = re.findall(r'class="mark ([^"]*)"', last)
    assert marks == ["assisted q4", "assisted q4", "solo none", "solo none"]
    assert 'href="../../run/aipo/trace/aipo_2F00000-001_2F2.html"' in last
    assert 'title="2: solo · no reward · ended by error · PolicyError: sampling failed' in last


def test_filters_choose_groups_and_traces(little_runs: Path) -> None:
    assert len(rows_of(html_of(little_runs, agent="verify"))) == 3
    traces = rows_of(html_of(little_runs, view="traces", agent="verify", step="1"))
    assert len(traces) == 4
    assert traces[0].startswith("1 assisted 0 808+1=? ") and "verify" in traces[0]
    html = html_of(little_runs, view="traces", failed="yes")
    (failed, other) = rows_of(html)
    assert "none" in failed and "PolicyError" in failed and other.endswith("error")
    assert html.count('<span class="bad">error</span>') == 2
    assert len(rows_of(html_of(little_runs, view="traces", text="808+"))) == 4
    text = text_of(html_of(little_runs, task="no such task"))
    assert "No rollout is like that. Remove all filters" in text and "0 groups match" in text


def test_a_filtered_group_shows_which_of_its_rollouts_match(little_runs: Path) -> None:
    group = next(
        g for g in RunLibrary(little_runs).run("aipo").index.groups() if g.reward_max != g.reward_min
    )
    html = html_of(little_runs, reward="1", group=group.group_id)
    titles = re.findall(r'title="\d+: \w+ · reward ([^" ]*)[^"]*"><span class="([^"]*)"', html)
    assert {reward for reward, _ in titles} == {"0", "1"}
    assert all((reward == "1") != css.endswith(" pale") for reward, css in titles)
    assert "1 group with a rollout that matches; pale ones do not" in text_of(html)
    assert " pale" not in html_of(little_runs, group=group.group_id)


def test_rewarded_rollouts_with_a_wrong_step_are_counted_found_and_marked(
    little_runs: Path, asking: Trace, tmp_path: Path
) -> None:
    scored = {"reward": 1.0, "advantage": 0.5}
    parts = [{"correct": 1.0, "derivation": right} for right in (1.0, 0.0, 0.0)]
    root = begun(little_runs, tmp_path, "run")
    traces = [
        replace(asking, trace_id=f"run/g/{i}", group_id="g", index=i, reward_parts=p, **scored)
        for i, p in enumerate(parts)
    ]
    write_traces(root, *traces)
    assert "2 rewarded with a wrong step" in text_of(html_of(tmp_path, "run"))
    rows = rows_of(html_of(tmp_path, "run", view="traces", flawed="yes"))
    assert [row.split()[1:3] for row in rows] == [["assisted", "1"], ["assisted", "2"]]
    marks = html_of(tmp_path, "run", flawed="no")
    assert re.findall(r'title="(\d)[^"]*"><span class="[^"]*pale"', marks) == ["1", "2"]
    assert "reward 1 · a step is wrong" in marks
    library = RunLibrary(tmp_path)
    pages = [trace_page(library.run("run"), t.trace_id, Links(3)) for t in traces]
    assert ["a step is wrong</span>" in page for page in pages] == [False, True, True]


def test_the_run_page_says_whether_asking_helps_as_replay_consults_does(
    little_runs: Path, asking: Trace, tmp_path: Path
) -> None:
    # In each of two groups one rollout asked knowledge and was right; of the two others that could, one was right.
    root = begun(little_runs, tmp_path, "run")
    rewards = {0: 1.0, 1: 1.0, 2: 0.0, 3: None}
    traces = [
        replace(
            asking,
            **{"trace_id": f"{group}/{i}", "group_id": group, "task_id": group, "task": {}, "index": i},
            **{"reward": reward, "advantage": None, "reward_parts": {}},
            **({} if reward is not None else {"stop_reason": StopReason.ERROR, "error": "it failed"}),
            consults=[replace(asking.consults[0], agent="knowledge")] if i == 0 else [],
        )
        for group in ("g", "h")
        for i, reward in rewards.items()
    ]
    write_traces(root, *traces)
    html = html_of(tmp_path, "run")
    (section,) = re.findall(r'<section class="replay" id="asking".*?</section>', html, re.DOTALL)
    assert [text_of(row) for row in re.findall(r"<tr>.*?</tr>", section, re.DOTALL)] == [
        "agent asked measured pairs without with change 95 %",
        "knowledge 2 2 4 0.500 1.000 +0.500 [+0.500, +0.500]",
    ]
    lines = Tally(("knowledge",))
    lines.add(traces, against_group(traces, ("knowledge",)))
    assert list(table(lines.agents(0)).rows[0]) == re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", section)[8:]


@pytest.mark.parametrize("alone", [False, True])
def test_a_run_in_which_nothing_can_be_compared_says_nothing_of_help(
    little_runs: Path, asking: Trace, tmp_path: Path, alone: bool
) -> None:
    # Nobody asked; or, as in an evaluation, there is no other rollout of the group.
    one = replace(asking, reward=1.0, advantage=0.5) if alone else replace(asking, consults=[])
    write_traces(begun(little_runs, tmp_path, "run"), one)
    assert 'id="asking"' not in html_of(tmp_path, "run")


def test_nothing_is_said_of_steps_that_nobody_judged(
    little_runs: Path, asking: Trace, tmp_path: Path
) -> None:
    root = begun(little_runs, tmp_path, "run")
    write_traces(root, replace(asking, reward_parts={"correct": 1.0}, reward=1.0, advantage=0.5))
    html = html_of(tmp_path, "run")
    assert "wrong step" not in html and "Wrong step" not in html
    assert "No rollout is like that" in html_of(tmp_path, "run", flawed="yes")


def test_what_is_chosen_is_said_and_can_be_taken_back(little_runs: Path) -> None:
    html = html_of(little_runs, view="traces", kind="solo", step="0..1", reward="0")
    assert "14 traces match of 32" in text_of(html)
    assert re.findall(r'href="([^"]*)" data-chip="(\w+)"', unescape(html)) == [
        ("?kind=solo&reward=0&view=traces#rollouts", "step"),
        ("?step=0..1&reward=0&view=traces#rollouts", "kind"),
        ("?step=0..1&kind=solo&view=traces#rollouts", "reward"),
    ]
    assert '<option value="solo" selected>' in html and 'name="step" value="0..1"' in html


def test_a_bad_address_is_a_message_and_a_whole_page(little_runs: Path) -> None:
    html = html_of(little_runs, step="<b>", page="x")
    assert "step: got '<b>', allowed a number, or a range" in text_of(html)
    assert "<b>" not in html.partition('role="alert"')[2].partition("</p>")[0]
    assert len(rows_of(html)) == 8


def test_a_filter_is_sent_back_as_it_came(little_runs: Path) -> None:
    html = html_of(little_runs, text="a\u202eb<", task="\x07")
    assert 'value="a\u202eb&lt;"' in html and 'name="task" value="\x07"' in html
    assert "⟨U+202E⟩" in html.split('id="chips"')[1]


def test_pages(little_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_table, "PER_PAGE", {"groups": 3, "traces": 100})
    first, last, beyond = (html_of(little_runs, page=page) for page in ("", "3", "9"))
    assert "1 to 3 of 8 next →" in text_of(first) and "← previous" not in text_of(first)
    assert "← previous 7 to 8 of 8" in text_of(last) and "next →" not in text_of(last)
    assert "there is no page 9; 8 groups match" in text_of(beyond)
    assert 'rel="next" href="?page=2#rollouts"' in first


def test_a_static_site_lists_groups_page_by_page(little_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    html = static_html_of(little_runs)
    assert "data-live" not in html and "<form" not in html.partition("<main")[2].partition("</main")[0]
    assert len(rows_of(html)) == 8 and "rollouts are here" not in html
    assert html.partition('id="groups"')[2].count('<span class="mark') == 32
    monkeypatch.setattr(run_table, "STATIC_GROUPS", 3)
    pages = [static_html_of(little_runs, page=page) for page in ("1", "2", "3")]
    assert [len(rows_of(page)) for page in pages] == [3, 3, 2]
    assert 'rel="next" href="../../run/aipo/page-2.html"' in pages[0]
    assert 'rel="prev" href="../../run/aipo/index.html"' in pages[1]
    assert "7 to 8 of 8" in text_of(pages[2]) and 'rel="next"' not in pages[2]


def test_a_static_page_lists_no_group_that_was_left_out(little_runs: Path) -> None:
    links = Links(2, live=False, missing={group_path("aipo", "00001-000")})
    html = html_of(little_runs, links=links)
    assert "808+1" not in html and "28 of 32 rollouts are here" in text_of(html)


def test_what_a_model_wrote_is_text(asking: Trace, tmp_path: Path) -> None:
    consults = (replace(asking.consults[0], agent=HOSTILE), replace(asking.consults[0], agent=""))
    task = {**asking.task, "prompt": HOSTILE, "task_id": HOSTILE, "answer": HOSTILE}
    hostile = replace(asking, task_id=HOSTILE, group_id=HOSTILE, task=task, consults=consults)
    write_traces(tmp_path / "odd", hostile)
    for query in ({}, {"view": "traces"}, {"agent": HOSTILE}, {"text": HOSTILE, "step": HOSTILE}):
        for html in (html_of(tmp_path, "odd", **query), static_html_of(tmp_path, "odd", **query)):
            assert "<script>" not in html and "<img" not in html and "</pre>" not in html
            assert "\u202e" not in re.sub(r'(data-\w+|value)="[^"]*"', "", html)
    assert "(no name) 1" in text_of(html_of(tmp_path, "odd"))


def test_names_that_nobody_has_get_no_agents_colour(little_runs: Path, asking: Trace, tmp_path: Path) -> None:
    stranger = replace(asking.consults[0], agent="oracle")
    trace = replace(asking, consults=(stranger, *asking.consults, stranger))
    write_traces(begun(little_runs, tmp_path, "aipo"), trace)
    chips = re.findall(r'class="chip (agent\d|stranger)">(\w+) (\d)', html_of(tmp_path))
    assert chips == [("agent0", "knowledge", "1"), ("stranger", "oracle", "2")]


@pytest.mark.parametrize(("reward", "filling"), [(-1.0, "q0"), (0.0, "q1"), (1.0, "q2"), (3.0, "q4")])
def test_rewards_beyond_one_still_differ(asking: Trace, tmp_path: Path, reward: float, filling: str) -> None:
    given = [replace(asking, trace_id=f"t{i}", index=i, reward=r) for i, r in enumerate((-1.0, 3.0, reward))]
    write_traces(tmp_path / "odd", *given)
    marks = re.findall(r'<span class="mark assisted (q\d)"></span></a>', html_of(tmp_path, "odd"))
    assert marks == ["q0", "q4", filling]


def test_thousands_are_told_apart() -> None:
    assert [thousands(n) for n in (7, 1234, 1234567)] == ["7", "1\u202f234", "1\u202f234\u202f567"]


def test_a_warm_up_says_who_taught_and_how_often_the_policy_asks_now() -> None:
    config = {"warmup": {"teacher": {"model": "env"}}, "method": {"plan": "independent", "assist_share": 0.8}}
    asking = {"before": {"asking": 0.0}, "after": {"asking": 0.625}}
    summary = head(config, {"command": "warmup"}, asking)
    assert ("plan", "warmup, taught by env (80% assisted)") in summary.method
    assert ("held-out tasks on which it asks", "0% → 62%") in summary.facts
    assert "asks" not in str(head(config, {"command": "warmup"}, {}).facts)
