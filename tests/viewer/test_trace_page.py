"""The page of a trace as HTML: what it says, what it links to, and that hostile text does no harm."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from aipo.errors import TraceError
from aipo.trace import Role, StopReason, Trace
from aipo.trace.arrow import Stored
from aipo.trace.filters import Filter
from aipo.trace.token_stats import TokenStats
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.links import Links
from aipo.viewer.pages.trace import comparisons, details, facts, trace_page
from kit.viewing import BAD, TRACE, said


class _Page(HTMLParser):
    """What there is in a page that could run or load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.handlers: set[str] = set()
        self.images = 0
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "script" and values.get("type") != "application/json":
            self.scripts.append(values.get("src"))
        self.images += tag in ("img", "iframe", "object", "style")
        self.handlers |= {name for name in values if name.startswith("on") or name == "style"}
        if values.get("id"):
            self.ids.append(str(values["id"]))


class _Catalogue:
    """Holds one trace."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def stored(self, _: str) -> Stored:
        return self._stored

    def traces(self, *_: object, **__: object) -> list[Any]:
        return []

    def neighbours(self, _: str) -> tuple[None, None]:
        return None, None

    def summary(self, _: str) -> None:
        return None

    def agents(self) -> tuple[str, ...]:
        return ()


class _Run:
    """As much of a `RunView` as the page needs."""

    name = "r"

    def __init__(self, stored: Stored, parts: Any = None) -> None:
        self.index = _Catalogue(stored)
        self._parts = parts

    def config(self) -> dict[str, Any]:
        return {}

    def drawing(self) -> None:
        return None

    def token_texts(self, ids: list[int]) -> Any:
        return self._parts(ids) if self._parts else None

    def token_stats(self, *_: object) -> list[TokenStats]:
        raise TraceError("torn")


def page_of(trace: Trace, texts: tuple[str, ...] | None, parts: Any = None) -> str:
    run: Any = _Run(Stored(trace, texts), parts)
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
    failed = replace(
        TRACE,
        reward=None,
        advantage=None,
        reward_parts={},
        stop_reason=StopReason.ERROR,
        segments=TRACE.segments[:1],
    )
    assert dict(facts(failed))["reward"] == "never scored"
    assert dict(facts(failed))["advantage"] == "none"
    assert dict(facts(failed))["policy version"] == "not recorded"


def test_details_are_enough_to_do_it_again() -> None:
    rest = {title: dict(values) for title, values in details(TRACE).items()}
    assert rest["Sampling"] == {"seed": "11", "temperature": "0.7", "forbidden ids": "3 4"}
    assert rest["Task"] == {"split": "easy"}
    assert rest["Fingerprints"] == {"graph": "b9bb908b"}
    assert rest["Identity"]["began"] == "1970-01-01 00:00:00 UTC"
    replay = replace(TRACE, parent_id="r/1/9", fork_token=6)
    assert dict(details(replay)["Identity"])["parent"] == "r/1/9, from token 6"


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
    assert [(c.name, c.href) for c in comparisons(run, replay, [], links)] == [
        ("its parent", links.compare("aipo", parent.trace_id, "aipo", "r/1/0"))
    ]
    assert comparisons(run, replace(TRACE, parent_id="gone"), [], links) == []


def test_every_anchor_is_there_once_and_consults_are_cards(run: RunView) -> None:
    helped = run.index.traces(Filter(agent="knowledge"), limit=1)[0]
    trace = run.index.stored(helped.trace_id).trace
    html = trace_page(run, helped.trace_id, Links(3))
    ids = _Page(html).ids
    assert len(ids) == len(set(ids))
    assert [i for i in ids if re.fullmatch(r"s\d+", i)] == [f"s{i}" for i in range(len(trace.segments))]
    assert "consult-0" in ids and "unasked" not in ids
    data = tokens_of(html)
    assert [s["ids"] for s in data["segments"]] == [s.token_ids.tolist() for s in trace.segments]
    assert [row["name"] for row in data["rows"]] == ["sampled, update 1"]


def test_an_unknown_trace_is_an_error_that_names_it(run: RunView) -> None:
    with pytest.raises(TraceError, match="nowhere"):
        trace_page(run, "nowhere", Links(3))


def test_text_of_anybody_makes_no_markup() -> None:
    hostile = replace(
        TRACE,
        trace_id=BAD,
        group_id=BAD,
        task_id=BAD,
        task={"prompt": BAD, "answer": BAD, BAD: BAD},
        sampling={BAD: BAD},
        fingerprints={BAD: BAD},
        reward_parts={BAD: 1.0},
        parent_id=BAD,
        error=BAD,
        segments=(said(Role.PROMPT, BAD, BAD), said(Role.AGENT, BAD, BAD)),
    )
    html = page_of(hostile, (BAD, BAD + "\ud800"))
    page, plain = _Page(html), _Page(page_of(TRACE, ("7*8=?", "#5", "6")))
    assert page.scripts == plain.scripts and None not in page.scripts
    assert (page.images, page.handlers) == (0, set())
    assert not re.search("[\u202e\u2028\x1b\ud800]", html)
    assert "What the trainer did with this trace cannot be read: torn" in html


def test_the_raw_context_is_exact() -> None:
    plain = tokens_of(page_of(TRACE, ("7*8=?", "#5", "6")))
    assert plain["exact"] is None  # the page's own text is
    html = page_of(TRACE, ("a\u202eb", "\ud800", "6"))
    assert tokens_of(html)["exact"] == "a\u202eb\ud8006"
    assert ">\na⟨U+202E⟩b⟨U+D800⟩6</pre>" in html


def test_without_texts_the_tokenizer_tells_them_and_else_ids_are_shown() -> None:
    told = page_of(TRACE, None, parts=lambda ids: [chr(i) for i in ids])
    assert ">7*8=?</span>" in told
    unknown = page_of(TRACE, None)
    assert "⟨55 42 56 61 63⟩" in unknown and "These are its token ids" in unknown
    assert tokens_of(unknown)["segments"][0]["texts"] is None


def test_a_task_that_was_lost_is_said_to_be() -> None:
    html = page_of(replace(TRACE, task={}), ("a", "b", "c"))
    assert '<span class="soft">not recorded</span>' in html
