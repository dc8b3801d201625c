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
        colour: class of its producer.
        ids: of its tokens.
        text: all of it.
        parts: text of each token, together `text`; None when they are unknown.
    """

    role: Role
    colour: str
    ids: tuple[int, ...]
    text: str
    parts: tuple[str, ...] | None

    def cut(self, start: int, end: int) -> str:
        """Text of tokens `start` to `end`; the whole text or nothing where the texts of tokens are unknown."""
        if self.parts is not None:
            return "".join(self.parts[start:end])
        return self.text if start == 0 and end > 0 else ""


def context_texts(run: RunView, stored: Stored) -> Sequence[str] | None:
    """Text of each segment, by the run's tokenizer if none was stored; None where nobody can tell."""
    of_tokens = run.token_texts(stored.trace)
    texts = stored.texts or [of_tokens(s.token_ids.tolist()) for s in stored.trace.segments]
    return None if None in texts else ["".join(text or ()) for text in texts]


def passages(run: RunView, stored: Stored, agents: Sequence[str]) -> list[Passage]:
    """The context of a trace; `agents` gives them their colours."""
    spans = text_spans(stored.trace, context_texts(run, stored), agents)
    of_tokens, result = run.token_texts(stored.trace), list[Passage]()
    for span, segment in zip(spans, stored.trace.segments, strict=True):
        ids = tuple(segment.token_ids.tolist())
        parts = tuple(after_seam(of_tokens(ids) or (), span.text))
        fits = len(parts) == len(ids) and "".join(parts) == span.text
        result.append(
            Passage(
                role=span.role, colour=span.colour, ids=ids, text=span.text, parts=parts if fits else None
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
