"""A trace as coloured text: HTML for pages and notebooks, `rich` text for the terminal.

The context is the text that the policy saw, coloured by the producer of each segment; in HTML a consult is a
card that opens. Nobody's text is trusted: it is escaped, and characters that steer a terminal or a reader's eye
(control codes, right-to-left marks, lone surrogates) are printed as their codes. Segments are decoded one by
one, as feedback was encoded. Nothing heavy is imported: the caller brings `decode`, or a trace with its texts.

    show(trace, tokenizer.decode)          # the last line of a notebook's cell
    show(stored)                           # as `TraceStore.stored` gives it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup
from rich.text import Text

from aipo.render.colours import STYLE
from aipo.render.spans import TextSource, TextSpan, text_spans
from aipo.render.trace_html import context_html, legend_html
from aipo.trace import Role, Trace
from aipo.trace.text import Decode
from aipo.util.text import visible

if TYPE_CHECKING:
    from aipo.trace.arrow import Stored

_TERMINAL = {Role.PROMPT: "dim", Role.POLICY: "", Role.TEACHER: "bright_blue", Role.ENV: "red italic"}
_TERMINAL_AGENTS = ("green", "magenta", "yellow", "cyan", "blue", "bright_red")


def headline(trace: Trace) -> str:
    """A trace in one line: task, kind, step, reward, how it ended, and the reason of the verdict."""
    parts = [trace.task_id, trace.kind, f"step {trace.step}"]
    parts.append("no reward" if trace.reward is None else f"reward {trace.reward:g}")
    if trace.advantage is not None:
        parts.append(f"advantage {trace.advantage:+.2f}")
    parts.append(f"ended by {trace.stop_reason}")
    parts += [said for said in (trace.error, trace.reason) if said is not None]
    return " · ".join(parts)


def trace_html(trace: Trace, texts: TextSource, agents: Sequence[str] = ()) -> str:
    """Headline, context and legend; needs `STYLE` on the page."""
    body = context_html(trace, texts, agents) + legend_html([trace], agents)
    figure = Markup('<figure class="aipo-trace"><figcaption>{}</figcaption>{}</figure>')
    return str(figure.format(visible(headline(trace)), body))


def trace_text(trace: Trace, texts: TextSource, agents: Sequence[str] = ()) -> Text:
    """The same for the terminal, in the terminal's own colours."""
    text = Text(visible(headline(trace)) + "\n", style="bold")
    for piece in text_spans(trace, texts, agents):
        text.append(visible(piece.text), style=_terminal_style(piece))
    return text


def _terminal_style(piece: TextSpan) -> str:
    if piece.role is not Role.AGENT:
        return f"not bold {_TERMINAL[piece.role]}".strip()
    return f"not bold {_TERMINAL_AGENTS[int(piece.colour.removeprefix('agent'))]}"


@dataclass(frozen=True, slots=True, repr=False)
class TraceDisplay:
    """A trace that a notebook draws in HTML and a `rich` console in colour."""

    trace: Trace
    texts: TextSource

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>{trace_html(self.trace, self.texts)}"

    def __rich__(self) -> Text:
        return trace_text(self.trace, self.texts)

    def __repr__(self) -> str:
        return trace_text(self.trace, self.texts).plain


def show(trace: "Trace | Stored", decode: Decode | None = None) -> TraceDisplay:
    """A trace to end a notebook's cell with.

    Args:
        trace: a trace, or a trace with its texts.
        decode: maps token ids to text; for a trace that comes without texts. Without either, the ids are printed.
    """
    if isinstance(trace, Trace):
        return TraceDisplay(trace, decode)
    return TraceDisplay(trace.trace, decode if trace.texts is None else trace.texts)
