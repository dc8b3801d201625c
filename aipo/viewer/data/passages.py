"""A stored trace as passages: texts that a page can cut at any token."""

from collections.abc import Sequence
from dataclasses import dataclass

from aipo.render.spans import text_spans
from aipo.trace import Role
from aipo.trace.arrow import Stored
from aipo.viewer.data.run import RunView
from aipo.viewer.data.run_summary import agent_names
from aipo.viewer.data.tokens import after_seam


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One segment.

    Args:
        role, source: its producer.
        label: the producer's name for a reader.
        colour: class of the producer.
        ids: of its tokens.
        text: all of it.
        parts: text of each token, together `text`; None when they are unknown.
    """

    role: Role
    source: str
    label: str
    colour: str
    ids: tuple[int, ...]
    text: str
    parts: tuple[str, ...] | None

    def cut(self, start: int, end: int) -> str:
        """Text of tokens `start` to `end`; the whole text or nothing where the texts of tokens are unknown."""
        if self.parts is not None:
            return "".join(self.parts[start:end])
        return self.text if start == 0 and end > 0 else ""


def passages(run: RunView, stored: Stored, agents: Sequence[str]) -> list[Passage]:
    """The context of a trace; `agents` gives them their colours."""
    segments = stored.trace.segments
    known = [run.token_texts(segment.token_ids.tolist()) for segment in segments]
    texts = stored.texts or (None if None in known else ["".join(parts or ()) for parts in known])
    result: list[Passage] = []
    for span, segment, tokens in zip(text_spans(stored.trace, texts, agents), segments, known, strict=True):
        parts = None if tokens is None else tuple(after_seam(tokens, span.text))
        fits = parts is not None and len(parts) == len(segment) and "".join(parts) == span.text
        result.append(
            Passage(
                role=span.role,
                source=span.source,
                label=span.label,
                colour=span.colour,
                ids=tuple(segment.token_ids.tolist()),
                text=span.text,
                parts=parts if fits else None,
            )
        )
    return result


def agents_of(*runs: RunView) -> list[str]:
    """Agents of the runs in an order that gives them their colours; the first run's keep theirs."""
    names = [name for run in runs for name in agent_names(run.config(), run.index.agents())[0]]
    return list(dict.fromkeys(name for name in names if name))


def after_prompt(trace_passages: Sequence[Passage]) -> int:
    """Number of the first passage that is no prompt."""
    heads = (number for number, p in enumerate(trace_passages) if p.role is not Role.PROMPT)
    return next(heads, len(trace_passages))
