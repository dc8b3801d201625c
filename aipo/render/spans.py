"""A trace as spans of text: one for each segment, with its producer's colour."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aipo.render.colours import AGENT_COLOURS
from aipo.trace import Role, Segment, Trace
from aipo.trace.text import Decode, texts_of

TextSource = Decode | Sequence[str] | None
"""Source of the segments' text: a decoder, texts that are decoded already, or None."""


@dataclass(frozen=True, slots=True)
class TextSpan:
    """One segment as text. `colour` is `prompt`, `policy`, `teacher`, `env`, or `agent0`, `agent1`, ...; `history` numbers the
    contexts of the trace."""

    role: Role
    source: str
    colour: str
    text: str
    history: int = 0

    @property
    def label(self) -> str:
        if self.role is Role.TEACHER:
            return f"teacher {self.source}"
        if self.role is Role.PROMPT and self.history:
            return f"prompt of history {self.history + 1}"
        return self.source if self.role in (Role.AGENT, Role.POLICY) else str(self.role)


def agent_order(traces: Iterable[Trace]) -> tuple[str, ...]:
    """Every agent that spoke in `traces`, sorted: pages colour an agent by its place in this list."""
    return tuple(sorted({s.source for t in traces for s in t.segments if s.role is Role.AGENT}))


def text_spans(trace: Trace, words: TextSource, agents: Sequence[str] = ()) -> list[TextSpan]:
    """The context, segment by segment. `agents` fixes the colours; by default the trace's own.

    Raises:
        ValueError: `words` are texts, but not one for each segment.
    """
    order = [*agents, *(a for a in agent_order([trace]) if a not in agents)]
    texts = _texts(trace.segments, words)
    return [
        TextSpan(s.role, s.source, colour_of(s.role, s.source, order), text, s.history)
        for s, text in zip(trace.segments, texts, strict=True)
    ]


def colour_of(role: Role, source: str, agents: Sequence[str]) -> str:
    """Name of the producer's colour; agents start over when there are more of them than colours."""
    return f"agent{agents.index(source) % AGENT_COLOURS}" if role is Role.AGENT else str(role)


def _texts(segments: Sequence[Segment], words: TextSource) -> Sequence[str]:
    if words is None:
        # Nobody can tell the text: numbers that nobody takes for it.
        return [f"⟨{' '.join(map(str, s.token_ids.tolist()))}⟩" for s in segments]
    if callable(words):
        return texts_of([s.token_ids for s in segments], words)
    return words
