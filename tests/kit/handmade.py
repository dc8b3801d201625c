"""Traces made by hand, of ids or with a token for each character, for tests that a reader can check."""

import re
from collections.abc import Sequence
from html import unescape
from html.parser import HTMLParser
from typing import Any

from aipo.trace import Call, Consult, Mode, Role, Segment, StopReason, Trace, Visit, segment
from aipo.trace.arrow import Stored

CONSULT: dict[str, Any] = {
    "nodes": ["__start__", "prompt", "policy", "notice", "score", "__end__"]
    + [f"{agent}:{node}" for agent in ("verify", "knowledge") for node in ("__start__", "check", "__end__")],
    "edges": [
        {"from": a, "to": b, "conditional": a == "policy"}
        for a, b in [
            ("__start__", "prompt"), ("prompt", "policy"), ("policy", "verify:__start__"),
            ("policy", "knowledge:__start__"), ("policy", "notice"), ("policy", "score"),
            ("verify:__start__", "verify:check"), ("verify:check", "verify:__end__"), ("verify:__end__", "policy"),
            ("knowledge:__start__", "knowledge:check"), ("knowledge:check", "knowledge:__end__"),
            ("knowledge:__end__", "policy"), ("notice", "policy"), ("score", "__end__"),
        ]
    ],
}  # fmt: skip


def ids(*parts: int | str) -> list[int]:
    """Ids as they are, and one id for each character of a text."""
    return [i for part in parts for i in (map(ord, part) if isinstance(part, str) else [part])]


def prompt(*parts: int | str) -> Segment:
    return segment(Role.PROMPT, "prompt", ids(*parts or ["1+1=?"]))


def policy(*parts: int | str, logprobs: Sequence[float] | None = None, version: int | None = None) -> Segment:
    tokens = ids(*parts)
    logprobs = [-1.0] * len(tokens) if logprobs is None else logprobs
    return segment(Role.POLICY, "policy", tokens, logprobs=logprobs, policy_version=version)


def agent(*parts: int | str, source: str = "knowledge") -> Segment:
    return segment(Role.AGENT, source, ids(*parts))


def env(*parts: int | str) -> Segment:
    return segment(Role.ENV, "notice", ids(*parts))


def visit(path: str, started: float, seconds: float | None = 1.0, outcome: str = "ok", *calls: Call) -> Visit:
    return Visit(path=path, started=started, seconds=seconds, outcome=outcome, calls=calls)


def call(started: float, seconds: float, **rest: Any) -> Call:
    values: dict[str, Any] = {"agent": "a", "visit": "v", "model": "m", "messages": (), "reply": None}
    return Call(started=started, seconds=seconds, **(values | rest))


def consult(asked: int, start: int | None, told: int, **changes: Any) -> Consult:
    """A request in segment `asked` from token `start` on, and its reply in segment `told`."""
    made: dict[str, Any] = {"agent": "knowledge", "request": "1+1", "reply": "2"}
    return Consult(request_segment=asked, request_start=start, reply_segment=told, **(made | changes))


def trace(*segments: Segment, **changes: Any) -> Trace:
    made: dict[str, Any] = {
        **{"trace_id": "t", "run_id": "r", "group_id": "g", "task_id": "q", "step": 0, "index": 0},
        **{"mode": Mode.SOLO, "task": {}, "seed": 0, "sampling": {}},
        **{"segments": segments, "stop_reason": StopReason.EOS, "reward": 1.0},
        "advantage": None if changes.get("reward", 1.0) is None else 1.0,
        "seconds": 10.0,
    }
    return Trace(**(made | changes))


def stored(made: Trace) -> Stored:
    return Stored(made, tuple("".join(map(chr, s.token_ids.tolist())) for s in made.segments))


def asking(**changes: Any) -> Trace:
    """Asks `knowledge` once: prompt 0–1 s, policy 1–4, knowledge 4–6 (inside: check 4.5–5.5), policy 6–9, score 9–10."""
    made: dict[str, Any] = {
        "mode": Mode.ASSISTED,
        "advantage": None,
        "consults": (consult(1, 0, 2),),
        "visits": (
            visit("prompt", 0, 1),
            visit("policy", 1, 3),
            visit("knowledge", 4, 2),
            visit("knowledge/check", 4.5, 1, "ok", call(4.6, 0.5)),
            visit("policy", 6, 3),
            visit("score", 9, 1),
        ),
    }
    return trace(prompt(), policy("1+1?"), agent("2"), policy("#2"), **(made | changes))


def said(role: Role, source: str, text: str) -> Segment:
    return segment(role, source, ids(text), logprobs=[-0.1] * len(text) if role is Role.POLICY else None)


def decode(token_ids: Any) -> str:
    return "".join(map(chr, token_ids))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours by WCAG 2, 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def text_of(html: str) -> str:
    """What a reader of a page sees, in one line."""
    return " ".join(unescape(re.sub(r"<script.*?</script>|<[^>]*>", " ", html, flags=re.DOTALL)).split())


def rows_of(html: str) -> list[str]:
    """The rows of its tables as text."""
    return [text_of(row) for row in re.findall(r"<tr data-row.*?</tr>", html, re.DOTALL)]


class Elements(HTMLParser):
    """Every element of a page, with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))
