"""The page of a trace in a real browser: reading, opening, pointing, colouring, and doing no harm."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aipo.trace import Role, Segment, StopReason, Trace, segment
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.links import trace_path
from kit.handmade import call, consult, visit
from kit.recorded import TOKENIZER, save_tokenizer
from kit.viewing import BAD, TRACE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MATHS = (
    "Let $\\frac{1}{2}$ be \\(x_1\\), so\n$$\\sum_{k=1}^n k$$ and \\[y^2\\] or \\boxed{45}. It costs $5 and $10. "
    "What $\\notacommand{x}$ is, and $ this, nobody knows: \\(never closed"
)


def said(role: Role, source: str, text: str) -> Segment:
    ids = TOKENIZER.encode(text)
    known = [-0.1] * len(ids) if role is Role.POLICY else None
    return segment(role, source, ids, logprobs=known, entropies=known and [0.5] * len(ids))


def made(index: int, *segments: Segment, **changes: object) -> Trace:
    return replace(TRACE, trace_id=f"r/1/{index}", index=index, segments=segments, **changes)  # type: ignore[arg-type]


def hostile() -> Trace:
    """Everything that a model, an agent or a task can say is meant to do harm, and one line is long."""
    bad = BAD.replace("\x1b", "")
    everywhere = dict.fromkeys(("agent", "model", "reply", "error"), bad)
    hostile_call = call(
        0.0, 0.1, **everywhere, messages=({"role": bad, "content": bad},), settings={bad: bad}
    )
    tail = f"{bad}$\\href{{javascript:alert(3)}}{{x}}$ ${'{' * 1500}$ <consult:verify>{bad}</consult>"
    return made(
        2,
        said(Role.PROMPT, bad, bad),
        said(Role.POLICY, bad, "x" * 100_000 + tail),
        said(Role.AGENT, bad, bad),
        consults=(consult(1, 3, 2, agent="verify", request=bad, reply=bad, error=bad),),
        visits=(visit("verify", 0.0, 0.2, bad, hostile_call),),
        task={"prompt": bad, "answer": bad},
        task_id=bad,
        error=bad,
        stop_reason=StopReason.ERROR,
        **{"reward": None, "advantage": None, "reward_parts": {}},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a trace full of formulas, one of 16 000 tokens, and one that is meant to do harm."""
    root = tmp_path_factory.mktemp("special")
    save_tokenizer(str(root / "r" / "tokenizer"))
    traces = [
        made(0, said(Role.PROMPT, "prompt", "Why?\n"), said(Role.POLICY, "policy", MATHS)),
        made(1, said(Role.PROMPT, "prompt", "Why?\n"), said(Role.POLICY, "policy", "Because. " * 1778)),
        hostile(),
    ]
    with TraceStore(root / "r" / "traces", decode=TOKENIZER.decode) as store:
        for trace in traces:
            store.append(trace)
        store.seal(TRACE.step, traces)
    return root


@pytest.fixture
def special(runs: Path, serve: Callable[..., str]) -> str:
    """Addresses of its traces, but for the index."""
    return f"{serve(runs)}/{trace_path('r', 'r/1/').removesuffix('.html')}"


@pytest.fixture
def helped(little_runs: Path, address: str) -> str:
    """Address of a rollout of the little run in which an agent answered."""
    index = RunLibrary(little_runs).run("aipo").index
    asked = index.traces(Filter(agent="knowledge"), order="-reward", limit=1)[0]
    return f"{address}/{trace_path('aipo', asked.trace_id)}"


@pytest.fixture
def tokens(page: "Page", helped: str) -> "Page":
    """Its tokens."""
    page.goto(helped)
    page.get_by_role("button", name="Tokens").click()
    return page


def facts_of(page: "Page") -> dict[str, str]:
    lines = page.locator("#inspector dl div").all_inner_texts()
    return dict(line.split("\n", 1) for line in lines)


def test_a_consultation_is_read_at_a_glance_and_opened(page: "Page", helped: str) -> None:
    page.goto(helped)
    card = page.locator("#consult-0")
    glance = card.locator("summary").inner_text()
    assert re.match(r"knowledge\s+\d@\d\s*→\s*\d@\d=\d+\s", glance), glance
    assert "1 call" in glance
    assert not card.locator(".aipo-steps").is_visible()
    card.locator("summary").click()
    inside = card.locator(".aipo-steps").inner_text()
    assert re.search(r"Request\n<consult:knowledge>\d@\d</consult>\nWhat ran\s+answer\s", inside), inside
    assert "human" in inside and "reply" in inside and "</feedback>" in inside
    page.get_by_role("button", name="close all consults").click()
    assert not card.locator(".aipo-steps").is_visible()


def test_links_lead_to_segments_consults_and_tokens(page: "Page", helped: str) -> None:
    page.goto(f"{helped}#consult-0")
    assert page.locator("#consult-0").evaluate("card => card.open")
    page.goto("about:blank")
    page.goto(f"{helped}#s2")  # the reply, in a closed card
    assert page.locator("#s2").is_visible() and "hit" in str(page.locator("#s2").get_attribute("class"))
    page.goto("about:blank")
    page.goto(f"{helped}#t7")
    page.wait_for_selector('[data-t="7"]:focus')
    assert facts_of(page)["position"].startswith("7 ")
    page.evaluate("location.hash = '#s1'")  # it is nothing but the request, which the card shows
    page.wait_for_selector("#consult-0.hit")
    assert not page.locator("#token-list").is_visible()
    page.evaluate("location.hash = '#t3'")
    page.wait_for_selector('[data-t="3"]:focus')
    page.goto(f"{helped}#t99999")
    page.goto(f"{helped}#%E0%A4%A")  # no anchor of ours, and no address of anybody's


def test_a_node_of_the_graph_leads_to_its_segments_in_any_view(tokens: "Page") -> None:
    for view in ("Tokens", "Raw"):
        tokens.get_by_role("button", name=view, exact=True).click()
        tokens.locator('#graph a[href="#s2"]').first.click()  # the second time it is the same address
        assert tokens.locator("#s2").is_visible()


def test_pointing_at_a_token_says_what_is_known_of_it(tokens: "Page") -> None:
    unknown, other = "not recorded", "only of policy tokens"
    for section, token, expected in (
        (0, 0, {"role": "prompt", "log-prob": unknown, "entropy": unknown}),
        (0, 0, {"coefficient": "not in this row", "clipped": "not in this row"}),
        (1, 0, {"role": "policy", "coefficient": "1", "ratio π/π_old": "1", "clipped": "no"}),
        (1, 0, {"correction π_old/μ": "1"}),
        (1, 1, {"coefficient": "0", "ratio π/π_old": "1", "clipped": "no"}),
        (1, 1, {"correction π_old/μ": "0, masked"}),
        (2, 0, {"segment": "2, knowledge", "role": "agent", "coefficient": "0.5"}),
        (2, 0, {"ratio π/π_old": other, "correction π_old/μ": other}),
    ):
        tokens.locator("#token-list section").nth(section).locator("b").nth(token).hover()
        facts = facts_of(tokens)
        assert {name: facts[name] for name in expected} == expected
        assert (facts["log-prob"] == unknown) == (section != 1)


def test_tokens_that_weigh_most_in_the_loss_are_listed_with_their_share(tokens: "Page") -> None:
    lines = [line.split("\t") for line in tokens.locator("#heaviest tbody tr").all_inner_texts()]
    assert len(lines) == 10
    assert {by for _, by, *_ in lines} == {"policy"}  # they have weight 1, the agent's 0.5
    data = tokens.evaluate("JSON.parse(document.getElementById('tokens-data').textContent)")
    row = data["rows"][0]
    share = 100 * abs(row["advantage"]) / row["of_rollout"]
    assert [float(of_rollout.removesuffix(" %")) for *_, of_rollout, _ in lines] == [
        pytest.approx(share, rel=0.01)
    ] * 10
    assert {of_step for *_, of_step in lines} == {"–"}
    assert "The share of the step was not recorded." in tokens.locator("#heaviest").inner_text()
    by = tokens.locator("#heaviest p").nth(1).inner_text()
    assert re.fullmatch(r"this rollout in update \d: policy [\d.]+ % · knowledge [\d.]+ %", by)
    assert sum(map(float, re.findall(r"([\d.]+) %", by))) == pytest.approx(100, abs=0.2)
    tokens.locator("#heaviest tbody a").first.click()
    facts = facts_of(tokens)
    assert facts["role"] == "policy" and facts["share of the rollout"] == lines[0][3]
    assert facts["share of the step"] == "not recorded"
    tokens.select_option("#heat", "push")
    first = tokens.locator("#token-list section").nth(1).locator("b").first
    assert "heat-9" in str(first.get_attribute("class"))


def test_the_keyboard_goes_from_token_to_token(page: "Page", helped: str) -> None:
    page.goto(f"{helped}#t2")
    page.wait_for_selector('[data-t="2"]:focus')
    for key, position in (("ArrowRight", 3), ("ArrowLeft", 2), ("Home", 0), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.t") == str(position)
    page.keyboard.press("End")
    last = page.locator("#token-list b").count() - 1
    assert page.evaluate("document.activeElement.dataset.t") == str(last)
    assert page.locator('#token-list [tabindex="0"]').count() == 1


def test_heat_colours_tokens_and_says_its_scale(tokens: "Page") -> None:
    agent, scale = tokens.locator("#token-list section").nth(2).locator("b").first, tokens.locator("#scale")
    tokens.select_option("#heat", "weight")
    assert "heat-4" in str(agent.get_attribute("class"))  # 0.5 of 1
    assert re.sub(r"\s+", " ", scale.inner_text()) == "0 1 no value in this row"
    tokens.select_option("#heat", "advantage")
    assert tokens.locator("#token-list").get_attribute("data-sides") == "2"
    tokens.select_option("#heat", "ratio")
    assert "heat-none" in str(agent.get_attribute("class"))
    tokens.select_option("#heat", "clipped")
    assert scale.inner_text().startswith("no")
    tokens.select_option("#heat", "")
    assert scale.inner_text() == ""


def test_formulas_are_rendered_when_asked_for_and_given_back(page: "Page", special: str) -> None:
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    page.goto(f"{special}0.html")
    text = page.locator("#s1").inner_text()
    assert not any("katex" in url for url in loaded)
    page.get_by_role("button", name="Mathematics").click()
    page.wait_for_selector('#reader[data-math="shown"]')
    sources = page.locator("#s1 .formula").evaluate_all("all => all.map(one => one.dataset.source)")
    assert sources == ["$\\frac{1}{2}$", "\\(x_1\\)", "$$\\sum_{k=1}^n k$$", "\\[y^2\\]", "\\boxed{45}"]
    assert page.locator("#s1 mfrac").count() == 1
    page.get_by_role("button", name="Mathematics").click()
    assert page.locator(".formula").count() == 0
    assert page.locator("#s1").inner_text() == text


def test_the_raw_text_is_the_context(page: "Page", helped: str, little_runs: Path) -> None:
    page.goto(helped)
    page.get_by_role("button", name="Raw", exact=True).click()
    raw = page.locator("#raw").evaluate("pre => pre.textContent")
    trace_id = page.locator("#more dd").first.evaluate("dd => dd.textContent")
    texts = RunLibrary(little_runs).run("aipo").index.stored(trace_id).texts
    assert texts is not None and raw == "".join(texts)
    page.get_by_role("button", name="copy the raw text").click()
    page.wait_for_selector("#said:not(:empty)")
    assert page.evaluate("getSelection().toString()").replace("\n", "") in ("", raw.replace("\n", ""))


def test_hostile_text_does_no_harm(page: "Page", special: str) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    page.goto(f"{special}2.html")
    title = page.title()
    assert title.startswith("<script>alert(1)</script>")
    page.get_by_role("button", name="open all consults").click()
    page.get_by_role("button", name="Mathematics").click()
    page.wait_for_selector('#reader[data-math="shown"]')
    page.get_by_role("button", name="Raw", exact=True).click()
    page.get_by_role("button", name="Tokens").click()
    page.select_option("#heat", "logprob")
    assert page.locator("main img, main a[href^=javascript]").count() == 0
    assert page.title() == title
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_sixteen_thousand_tokens_are_built_and_reached(page: "Page", special: str) -> None:
    page.goto(f"{special}1.html#t15999")
    page.wait_for_selector('[data-t="15999"]:focus')
    count = page.locator("#token-list b").count()
    assert count >= 16_000
    page.select_option("#heat", "entropy")
    assert page.locator("#token-list .heat-9").count() == count - len("Why?\n")


def test_without_scripts_the_context_can_be_read_and_opened(browser: "Browser", helped: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(helped)
    page.locator("#consult-0 summary").click()
    assert page.locator("#s2").is_visible()
    assert not page.get_by_role("button", name="Tokens").is_visible()
    context.close()
