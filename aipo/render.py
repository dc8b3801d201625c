"""A trace as coloured text: HTML for pages and notebooks, `rich` text for the terminal.

The context is shown as the policy saw it, coloured by who produced each segment. What a model wrote is
never trusted: it is escaped, and characters that steer a terminal or a reader's eye (control codes,
right-to-left marks, lone surrogates) are shown as what they are. Segments are decoded one by one, since
that is how feedback was encoded. Nothing heavy is imported: the caller brings `decode`.

    show(trace, tokenizer.decode)          # the last line of a notebook's cell
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.text import Text

from aipo.trace import Role, Trace

Decode = Callable[[npt.NDArray[np.int32]], str]

_AGENT_COLOURS = 6
_TERMINAL = {Role.PROMPT: "dim", Role.POLICY: "", Role.ENV: "red italic"}
_TERMINAL_AGENTS = ("green", "magenta", "yellow", "cyan", "blue", "bright_red")
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One segment as text. `colour` is `prompt`, `policy`, `env`, or `agent0`, `agent1`, ..."""

    role: Role
    source: str
    colour: str
    text: str

    @property
    def label(self) -> str:
        return self.source if self.role in (Role.AGENT, Role.POLICY) else str(self.role)


def agent_order(traces: Iterable[Trace]) -> tuple[str, ...]:
    """Every agent that spoke in `traces`, sorted: pages colour an agent by its place in this list."""
    return tuple(sorted({s.source for t in traces for s in t.segments if s.role is Role.AGENT}))


def pieces(trace: Trace, decode: Decode, agents: Sequence[str] = ()) -> list[Piece]:
    """The context, segment by segment. `agents` fixes the colours; by default the trace's own."""
    order = [*agents, *(a for a in agent_order([trace]) if a not in agents)]

    def colour(role: Role, source: str) -> str:
        return f"agent{order.index(source) % _AGENT_COLOURS}" if role is Role.AGENT else str(role)

    return [Piece(s.role, s.source, colour(s.role, s.source), decode(s.token_ids)) for s in trace.segments]


def visible(text: str) -> str:
    """`text` with every character that would steer the reader's eye or terminal shown by its code."""
    return _UNPRINTABLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def headline(trace: Trace) -> str:
    """What a reader wants to know first, in one line."""
    parts = [trace.task_id, str(trace.mode), f"step {trace.step}"]
    parts.append("no reward" if trace.reward is None else f"reward {trace.reward:g}")
    if trace.advantage is not None:
        parts.append(f"advantage {trace.advantage:+.2f}")
    parts.append(f"ended by {trace.stop_reason}")
    if trace.error is not None:
        parts.append(trace.error)
    return " · ".join(parts)


def context_html(trace: Trace, decode: Decode, agents: Sequence[str] = ()) -> str:
    """The context as one `<pre>`; needs `STYLE` on the page."""
    spans = (
        f'<span class="{p.colour}" title="{escape(p.label)}">{escape(visible(p.text))}</span>'
        for p in pieces(trace, decode, agents)
    )
    return f'<pre class="aipo-context" tabindex="0">{"".join(spans)}</pre>'


def legend_html(traces: Sequence[Trace], agents: Sequence[str] = ()) -> str:
    """Colours and their producers, those that occur in `traces` only."""
    keys = {p.colour: p.label for t in traces for p in pieces(t, lambda _: "", agents)}
    items = "".join(f'<li><span class="{c}">{escape(visible(name))}</span></li>' for c, name in keys.items())
    return f'<ul class="aipo-legend" aria-label="producers">{items}</ul>'


def trace_html(trace: Trace, decode: Decode, agents: Sequence[str] = ()) -> str:
    """Headline, context and legend; needs `STYLE` on the page."""
    head = f"<figcaption>{escape(visible(headline(trace)))}</figcaption>"
    body = context_html(trace, decode, agents) + legend_html([trace], agents)
    return f'<figure class="aipo-trace">{head}{body}</figure>'


def trace_text(trace: Trace, decode: Decode, agents: Sequence[str] = ()) -> Text:
    """The same for the terminal, in the terminal's own colours."""
    text = Text(visible(headline(trace)) + "\n", style="bold")
    for piece in pieces(trace, decode, agents):
        text.append(visible(piece.text), style=_terminal_style(piece))
    return text


def _terminal_style(piece: Piece) -> str:
    if piece.role is not Role.AGENT:
        return f"not bold {_TERMINAL[piece.role]}".strip()
    return f"not bold {_TERMINAL_AGENTS[int(piece.colour.removeprefix('agent'))]}"


@dataclass(frozen=True, slots=True)
class Shown:
    """A trace that a notebook draws in HTML and a `rich` console in colour."""

    trace: Trace
    decode: Decode

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>{trace_html(self.trace, self.decode)}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": str(self)}

    def __rich__(self) -> Text:
        return trace_text(self.trace, self.decode)

    def __str__(self) -> str:
        return trace_text(self.trace, self.decode).plain


def show(trace: Trace, decode: Decode) -> Shown:
    """What to end a notebook's cell with. `decode` maps token ids to text."""
    return Shown(trace, decode)


# Text and background of each producer, light and dark; every pair has a contrast of 4.5 : 1 or more (WCAG AA).
COLOURS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "prompt": (("#5b6470", "#f6f7f9"), ("#98a2b0", "#161a20")),
    "policy": (("#1b2027", "#f6f7f9"), ("#e4e8ee", "#161a20")),
    "env": (("#8c1d18", "#fde4e1"), ("#ffb4ab", "#4a1613")),
    "agent0": (("#0b5138", "#d3f2e3"), ("#8fe3c0", "#0d3a2a")),
    "agent1": (("#5b2a86", "#eee0fb"), ("#d9b8fb", "#3b2059")),
    "agent2": (("#6f4400", "#ffe9c2"), ("#f7cf84", "#472f05")),
    "agent3": (("#0a4a6e", "#d5ecfb"), ("#9ad4f7", "#0c3550")),
    "agent4": (("#7d1f4e", "#fbdfec"), ("#f9b3d0", "#4f1532")),
    "agent5": (("#3e4a00", "#e9f0c2"), ("#cfdc86", "#2f3805")),
}


def _palette(theme: int) -> str:
    names = ((name, pair[theme]) for name, pair in COLOURS.items())
    return "".join(f"--{name}:{text};--{name}-bg:{back};" for name, (text, back) in names)


def _style() -> str:
    scope = ".aipo-trace,.aipo-context,.aipo-legend"
    dark = _palette(1)
    spans = "".join(
        f".aipo-context .{n},.aipo-legend .{n}{{color:var(--{n});background:var(--{n}-bg)}}" for n in COLOURS
    )
    # A page follows the system; JupyterLab and VS Code say themselves whether they are dark.
    return f"""
{scope}{{{_palette(0)}}}
@media (prefers-color-scheme:dark){{{scope}{{{dark}}}}}
[data-jp-theme-light=true] :is({scope}){{{_palette(0)}}}
:is([data-jp-theme-light=false],.vscode-dark) :is({scope}){{{dark}}}
.aipo-trace{{margin:0 0 1rem}}
.aipo-trace figcaption{{font:.8125rem/1.4 system-ui,sans-serif;margin:0 0 .4rem}}
.aipo-context{{margin:0;padding:.8rem 1rem;border-radius:8px;background:var(--policy-bg);color:var(--policy);
font:.8125rem/1.65 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
white-space:pre-wrap;overflow-wrap:anywhere;max-height:32rem;overflow:auto;tab-size:4}}
.aipo-context span{{padding:.1em 0;border-radius:3px;-webkit-box-decoration-break:clone;box-decoration-break:clone}}
.aipo-legend{{list-style:none;margin:.5rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.4rem;font:.75rem/1.4 system-ui,sans-serif}}
.aipo-legend li{{margin:0}}
.aipo-legend span{{padding:.15em .6em;border-radius:99px}}
{spans}
""".strip()


STYLE = _style()
