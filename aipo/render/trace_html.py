"""The context of a trace as HTML: coloured text, and a card in place of every consult.

A card is closed to begin with and says what was asked and what came back; open, it has what ran in
between. Pages, reports and notebooks share it. It needs `aipo.render.colours.STYLE` and no script.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from aipo.render.consults import Consultation, consultations, unasked
from aipo.render.spans import TextSource, TextSpan, text_spans
from aipo.render.templating import fill
from aipo.trace import Call, Consult, Trace, Visit
from aipo.util.text import counted, duration, visible

_GLANCE = 72
"""Characters of request and reply that fit one line."""


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A segment as text, up to the request that was cut out of it.

    Args:
        segment: its number.
        fold: its text begins with the line end that the card before it stands for.
    """

    segment: int
    piece: TextSpan
    text: str
    fold: bool = False


@dataclass(frozen=True, slots=True)
class ConsultCard:
    """A consultation in place of its request and of the segment that answers.

    Args:
        of: what the card is about.
        request: the request with its tags, if it was cut out of the text before; else empty.
        piece: the segment that answers; None when there is none, or when an earlier card shows it.
    """

    of: Consultation
    request: str
    piece: TextSpan | None

    @property
    def reply(self) -> str:
        """The reply: the agent's text, else that of the notice."""
        return self.of.consult.reply or (bare(self.piece.text) if self.piece else "")

    @property
    def fault(self) -> str | None:
        """The error, without the part that `reply` repeats."""
        error = self.of.consult.error
        return error.removesuffix(f": {self.reply}") if error else None

    @property
    def colour(self) -> str:
        return self.piece.colour if self.piece else "env"

    @property
    def long(self) -> bool:
        glance = (self.of.consult.request or "") + self.reply
        return len(glance) > _GLANCE or "\n" in glance

    @property
    def cost(self) -> str:
        """Duration, calls, tokens, retries and cut replies, as far as they are recorded."""
        calls, seconds = self.of.calls, self.of.visit and self.of.visit.seconds
        retries = sum(call.attempts - 1 for call in calls)
        parts = [] if seconds is None else [duration(seconds)]
        parts += [counted(len(calls), "call")] if calls else []
        parts += _usage(calls)
        parts += [f"{retries} {'retries' if retries > 1 else 'retry'}"] if retries else []
        parts += [f"{count} cut"] if (count := sum(call.cut for call in calls)) else []
        return " · ".join([*parts, "cached"] if calls and all(call.cached for call in calls) else parts)

    @property
    def steps(self) -> tuple[Visit, ...]:
        """The visits to list. The answering node itself is left out if it only ran its sub-graph."""
        top = self.of.visit
        plain = top is not None and top.outcome == "ok" and not top.calls and bool(self.of.steps)
        return self.of.steps if plain else self.of.visits


def blocks(trace: Trace, parts: Sequence[TextSpan]) -> Iterator[TextBlock | ConsultCard]:
    """The context in order: every segment once, and a card for every consult."""
    answers: dict[int, list[Consultation]] = {}
    for consultation in consultations(trace):
        answers.setdefault(consultation.consult.reply_segment, []).append(consultation)
    request, after_card = "", False
    for i, piece in enumerate(parts):
        here = answers.pop(i, [])
        for k, consultation in enumerate(here):
            yield ConsultCard(consultation, request, None if k else piece)
        if here:
            request, after_card = "", True
            continue
        text, request, following = piece.text, "", answers.get(i + 1, [])
        if (
            len(following) == 1 and following[0].consult.request_segment == i
        ):  # else whose request, nobody can say
            text, request = cut(text, following[0].consult)
        yield TextBlock(i, piece, text, fold=after_card and text.startswith("\n"))
        after_card = False
    for consultation in (c for left in answers.values() for c in left):
        yield ConsultCard(consultation, "", None)


def cut(text: str, consult: Consult) -> tuple[str, str]:
    """`text` before a request that it ends with, and the request with its tags.

    A request is cut only where it can be told for certain: a tag with the agent's name, the request, and
    one more tag. Otherwise all of it is text, and the second part empty.
    """
    if consult.request is None or not consult.agent:
        return text, ""
    request = re.escape(consult.request.strip())
    match = re.search(rf"<([^<>]*)>\s*+{request}\s*+<[^<>]*>\s*\Z", text)
    if match is None or consult.agent not in match[1]:
        return text, ""
    return text[: match.start()], match[0]


def bare(text: str) -> str:
    """`text` without the one tag around it, if there is one."""
    inner = text.strip()
    match = re.fullmatch(r"<[^>]*>(.*)<[^<]*>", inner, re.DOTALL)
    return match[1].strip() if match else inner


def context_html(
    trace: Trace, words: TextSource, agents: Sequence[str] = (), *, anchors: bool = False
) -> Markup:
    """The context as one element.

    Args:
        words: where the text comes from; without it, token ids are shown.
        agents: fixes the colours; by default the trace's own agents do.
        anchors: give segments and consults the ids `s3` and `consult-2`; for the only trace of a page.
    """
    parts = text_spans(trace, words, agents)
    return fill(
        "aipo.render",
        "context.html.j2",
        blocks=list(blocks(trace, parts)),
        unasked=unasked(trace),
        anchors=anchors,
        ids=words is None,
        facts_of=call_facts,
        duration=duration,
    )


def legend_html(traces: Sequence[Trace], agents: Sequence[str] = ()) -> Markup:
    """Colours and their producers, those that occur in `traces` only."""
    keys = {p.colour: visible(p.label) for t in traces for p in text_spans(t, lambda _: "", agents)}
    item = Markup('<li><span class="{}">{}</span></li>')
    items = Markup("").join(item.format(*key) for key in keys.items())
    return Markup('<ul class="aipo-legend" aria-label="producers">{}</ul>').format(items)


def call_facts(call: Call) -> list[str]:
    """Model, settings, usage and duration of one call."""
    facts = [call.model, *(f"{k} {v}" for k, v in call.settings.items() if v != call.model)]
    facts += _usage([call])
    facts += [] if call.cost is None else [f"cost {call.cost:g}"]
    facts += [f"{call.attempts} attempts"] if call.attempts > 1 else []
    return [*facts, "cached" if call.cached else duration(call.seconds)]


def _usage(calls: Sequence[Call]) -> list[str]:
    """Tokens that the calls read and wrote, as far as any of them says."""
    read = [call.tokens_in for call in calls if call.tokens_in is not None]
    wrote = [call.tokens_out for call in calls if call.tokens_out is not None]
    return [f"{sum(read) if read else '?'} → {sum(wrote) if wrote else '?'} tokens"] if read or wrote else []
