"""The page of a trace as HTML: what it says, what it links to, and that hostile text does no harm."""

import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aipo.errors import TraceError
from aipo.render.spans import text_spans
from aipo.trace import Role, StopReason, Trace
from aipo.trace.arrow import Stored
from aipo.trace.filters import Filter
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.links import Links
from aipo.viewer.pages.trace import comparisons, details, facts, trace_page
from kit.handmade import Elements, contrast
from kit.viewing import BAD, TRACE, said


def scripts_of(html: str) -> list[str | None]:
    scripts = [attributes for tag, attributes in Elements(html).all if tag == "script"]
    return [each.get("src") for each in scripts if each.get("type") != "application/json"]


def page_of(trace: Trace, texts: tuple[str, ...] | None, token_texts: Any = lambda ids: None) -> str:
    """Its page in a run that has nothing else, and whose token stats cannot be read."""

    def torn(*_: object) -> None:
        raise TraceError("torn")

    index = SimpleNamespace(
        stored=lambda _: Stored(trace, texts),
        traces=lambda *_, **__: [],
        neighbours=lambda _: (None, None),
        summary=lambda _: None,
        agents=lambda: (),
    )
    run: Any = SimpleNamespace(
        name="r",
        evaluation=None,
        index=index,
        config=dict,
        drawing=lambda: None,
        token_texts=lambda _: token_texts,
        token_stats=torn,
    )
    return trace_page(run, trace.trace_id, Links(3))


def tokens_of(html: str) -> Any:
    found = re.search(r'id="tokens-data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def run(little_runs: Path) -> RunView:
    return RunLibrary(little_runs).run("aipo")


def test_facts_are_said_as_they_are() -> None:
    assert dict(facts(TRACE)) == {
        "reward": "1.1 (correct 1 · format 0.1)",
        "advantage": "-0.25",
        "ended by": "eos",
        "step": "4",
        "policy version": "6 to 9",
        "tokens": "8 (prompt 5 · policy 3)",
        "took": "1.50 s",
    }
    nothing = {"reward": None, "advantage": None, "reward_parts": {}, "segments": TRACE.segments[:1]}
    failed = dict(facts(replace(TRACE, stop_reason=StopReason.ERROR, **nothing)))
    assert (failed["reward"], failed["advantage"]) == ("never scored", "none")
    assert failed["policy version"] == "not recorded"


def test_calls_of_a_chat_model_are_counted_with_what_differed() -> None:
    notes = {
        "chat_began": 2.0,
        "chat_clean": 1.0,
        "chat_realigned": 0.0,
        "chat_forked": 1.0,
        "chat_faults": 0.0,
    }
    second = tuple(replace(piece, history=1) for piece in TRACE.segments)
    sampling = {"notes": notes, "chat_forks": ["message 0 (human) differs"]}
    trace = replace(TRACE, segments=(*TRACE.segments, *second), sampling=sampling)
    said = "2 began · 1 clean · 1 forked · 2 histories (message 0 (human) differs)"
    assert dict(facts(trace))["calls"] == said
    assert text_spans(trace, None)[len(TRACE.segments)].label == "prompt of history 2"


def test_details_are_enough_to_do_it_again() -> None:
    rest = {title: dict(values) for title, values in details(TRACE).items()}
    assert rest["Sampling"] == {"seed": "11", "temperature": "0.7", "forbidden ids": "3 4"}
    assert rest["Task"] == {"split": "easy"}
    assert rest["Fingerprints"] == {"graph": "b9bb908b"}
    assert rest["Identity"]["began"] == "1970-01-01 00:00:00 UTC"
    for parent, says in (
        ("before/1/0", "before/1/0, from token 6"),
        ("r/1/9", "r/1/9, forked behind 6 tokens"),
    ):
        later = replace(TRACE, run_id="r", parent_id=parent, fork_token=6)
        assert dict(details(later)["Identity"])["parent"] == says


def test_the_page_links_to_its_neighbours_its_group_and_a_rival(run: RunView) -> None:
    group = run.index.groups(order="mixed", limit=1)[0]
    one, two, *_ = run.index.traces(Filter(group=group.group_id))
    html = trace_page(run, two.trace_id, links := Links(3))
    before, after = run.index.neighbours(two.trace_id)
    assert before == one.trace_id and after is not None
    assert f'rel="prev" href="{links.trace("aipo", before)}"' in html
    assert f'rel="next" href="{links.trace("aipo", after)}"' in html
    assert f'href="{links.group("aipo", group.group_id)}" data-go="g"' in html
    assert html.count('aria-current="page">1 ') == 1
    assert "Compare with rollout" in html
    assert "Compare with rollout" not in trace_page(run, two.trace_id, Links(3, live=False))


def test_a_replay_is_compared_with_its_parent(run: RunView) -> None:
    parent = run.index.traces(limit=1)[0]
    replay = replace(TRACE, parent_id=parent.trace_id)
    links = Links(3)
    href = links.compare("aipo", parent.trace_id, "aipo", "r/1/0")
    assert comparisons(run, replay, [], links) == [("its parent", href)]
    assert comparisons(run, replace(TRACE, parent_id="gone"), [], links) == []


def test_every_anchor_is_there_once_and_consults_are_cards(run: RunView) -> None:
    helped = run.index.traces(Filter(agent="knowledge"), limit=1)[0]
    trace = run.index.stored(helped.trace_id).trace
    html = trace_page(run, helped.trace_id, Links(3))
    ids = [each["id"] or "" for _, each in Elements(html).all if "id" in each]
    assert len(ids) == len(set(ids))
    assert [i for i in ids if re.fullmatch(r"s\d+", i)] == [f"s{i}" for i in range(len(trace.segments))]
    assert "consult-0" in ids and "unasked" not in ids
    data = tokens_of(html)
    assert [s["ids"] for s in data["segments"]] == [s.token_ids.tolist() for s in trace.segments]
    assert [row["name"] for row in data["rows"]] == ["sampled, update 1"]


def test_the_reason_of_a_verdict_stands_beside_the_answer() -> None:
    assert "Reason of the verdict" not in page_of(TRACE, None)
    html = page_of(replace(TRACE, reason="the last line says 56"), None)
    assert '<h2 class="label">Reason of the verdict</h2><p class="words">the last line says 56</p>' in html


def test_text_of_anybody_makes_no_markup() -> None:
    hostile = replace(
        TRACE,
        **dict.fromkeys(("trace_id", "group_id", "task_id", "parent_id", "error", "reason"), BAD),
        sampling={BAD: BAD},
        fingerprints={BAD: BAD},
        task={"prompt": BAD, "answer": BAD, BAD: BAD},
        reward_parts={BAD: 1.0},
        segments=(said(Role.PROMPT, BAD, BAD), said(Role.AGENT, BAD, BAD)),
    )
    html = page_of(hostile, (BAD, BAD + "\ud800"))
    plain = page_of(TRACE, ("7*8=?", "#5", "6"))
    assert scripts_of(html) == scripts_of(plain) and None not in scripts_of(html)
    elements = Elements(html).all
    assert {tag for tag, _ in elements}.isdisjoint({"img", "iframe", "object", "style"})
    assert [n for _, attributes in elements for n in attributes if n.startswith("on") or n == "style"] == []
    assert not re.search("[\u202e\u2028\x1b\ud800]", html)
    assert "What the trainer did with this trace cannot be read: torn" in html


def test_the_raw_context_is_exact() -> None:
    plain = tokens_of(page_of(TRACE, ("7*8=?", "#5", "6")))
    assert plain["exact"] is None  # the page's own text is
    html = page_of(TRACE, ("a\u202eb", "\ud800", "6"))
    assert tokens_of(html)["exact"] == "a\u202eb\ud8006"
    assert ">\na⟨U+202E⟩b⟨U+D800⟩6</pre>" in html


def test_without_texts_the_tokenizer_tells_them_and_else_ids_are_shown() -> None:
    assert ">7*8=?</span>" in page_of(TRACE, None, lambda ids: [chr(i) for i in ids])
    unknown = page_of(replace(TRACE, task={}), None)
    assert "⟨55 42 56 61 63⟩" in unknown and "These are its token ids" in unknown
    assert tokens_of(unknown)["segments"][0]["texts"] is None
    assert '<span class="soft">not recorded</span>' in unknown  # the question


# what the page loads

STATIC = files("aipo.viewer").joinpath("static")
CSS = STATIC.joinpath("trace.css").read_text(encoding="utf-8")
HEATS = re.findall(r"heat-\d \{ --heat: light-dark\((#\w{6}), (#\w{6})\)", CSS)
INKS = ("#1b2027", "#e4e8ee")


@pytest.mark.parametrize("theme", [0, 1])
def test_text_can_be_read_on_every_heat_of_two_scales(theme: int) -> None:
    assert len(HEATS) == 20
    assert [heat for heat in HEATS if contrast(INKS[theme], heat[theme]) < 4.5] == []


def test_katex_comes_with_its_licence() -> None:
    licence = STATIC.joinpath("KATEX-LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("The MIT License")
    assert licence.strip() in STATIC.joinpath("katex.min.js").read_text(encoding="utf-8")


def test_scripts_never_write_markup() -> None:
    for name in ("trace.js", "tokens.js", "heat.js", "formulas.js"):
        script = STATIC.joinpath(name).read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script), name
