"""A trace as a conversation: the user's question and the assistant's answer.

Consults can be treated in two ways. `cut` leaves requests and replies out, as distilled rows do; the question is then
the one that solo rollouts of the group were asked. `inline` keeps them in the assistant's text, tags and all.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from aipo.errors import ConfigError
from aipo.export.chat_template import TokenTexts
from aipo.trace import Mode, Role, StopReason, Trace
from aipo.trace.arrow import Stored

AGENTS = ("cut", "inline")
"""Ways to treat consults."""
_WITHOUT_AGENTS = (Mode.SOLO, Mode.EXPERT)
Message = dict[str, str]


class NotExportable(Exception):
    """A trace that has no place in an export; the text is the reason, for people."""


class Conversation(NamedTuple):
    """The text of the user, and that of the assistant."""

    question: str
    answer: str

    @property
    def prompt(self) -> list[Message]:
        """The question as messages."""
        return [{"role": "user", "content": self.question}]

    @property
    def completion(self) -> list[Message]:
        """The answer as messages."""
        return [{"role": "assistant", "content": self.answer}]


class Conversations:
    """Makes conversations of traces.

    Args:
        texts: of the run's tokens.
        agents: how consults are treated; a name in `AGENTS`.
        tags: consult tags. A text that still holds one after its consults were cut is not exported.

    Raises:
        ConfigError: an unknown name.
    """

    def __init__(self, texts: TokenTexts, agents: str, tags: Iterable[str] = ()) -> None:
        if agents not in AGENTS:
            raise ConfigError(f"--agents: got {agents!r}, allowed {', '.join(AGENTS)}")
        self._texts = texts
        self._cut = agents == "cut"
        self._tags = tuple(tags)

    def questions(self, traces: Iterable[Stored]) -> dict[str, str]:
        """The question of each group's solo rollouts; none of them when consults stay in."""
        questions: dict[str, str] = {}
        for stored in traces if self._cut else ():
            if stored.trace.mode in _WITHOUT_AGENTS and stored.trace.segments:
                with suppress(NotExportable):
                    questions[stored.trace.group_id] = self._question(self._texts.with_texts(stored))
        return questions

    def of(self, stored: Stored, questions: Mapping[str, str]) -> Conversation:
        """One trace as a conversation.

        Args:
            questions: see `questions`; without one for its group, the question is the trace's own.

        Raises:
            NotExportable: it is no conversation, or its consults cannot be cut.
            RunError: its text is not known.
        """
        stored = self._texts.with_texts(stored)
        question = questions.get(stored.trace.group_id)
        return Conversation(self._question(stored) if question is None else question, self._answer(stored))

    def _question(self, stored: Stored) -> str:
        prompts = {i: len(s) for i, s in enumerate(stored.trace.segments) if s.role is Role.PROMPT}
        question = self._texts.question(stored.trace, self._text(stored, prompts))
        if question is None:
            raise NotExportable("the prompt is not of the tokenizer's chat template")
        return question

    def _answer(self, stored: Stored) -> str:
        trace, segments = stored.trace, stored.trace.segments
        kept = {i: len(s) for i, s in enumerate(segments) if s.role is not Role.PROMPT}
        if kept and len(kept) < len(segments) - min(kept):
            raise NotExportable("it was asked more than once")
        last = len(segments) - 1
        if kept.get(last) and trace.stop_reason is StopReason.EOS and segments[last].role is trace.author:
            ends = segments[last].token_ids[-1] == self._texts.tokenizer_of(trace).eos_id
            kept[last] -= int(ends)
        if self._cut:
            _cut_consults(trace, kept)
        text = self._text(stored, kept)
        if not text:
            raise NotExportable("the policy wrote nothing")
        if self._cut and any(tag in text for tag in self._tags):
            raise NotExportable("a consult tag is left over")
        return text

    def _text(self, stored: Stored, kept: Mapping[int, int]) -> str:
        """The text of so many tokens of each segment. Where plain text spells a special token it is refused: it would
        become one where the export is encoded again."""
        segments, texts = stored.trace.segments, stored.texts
        assert texts is not None
        text = "".join(
            texts[i] if count == len(segments[i]) else self._texts.head(stored, i, count)
            for i, count in kept.items()
        )
        ids = [token_id for i, count in kept.items() for token_id in segments[i].token_ids[:count].tolist()]
        if self._texts.spells_control(stored.trace, text, ids):
            raise NotExportable("a text spells a special token")
        return text


def _cut_consults(trace: Trace, kept: dict[int, int]) -> None:
    """Takes consults out of the tokens that are kept of each segment; as in `aipo.method.rows.distil`."""
    for consult in trace.consults:
        if consult.request_start is None:
            raise NotExportable("a consult shares a token with other text")
        kept[consult.request_segment] = min(kept[consult.request_segment], consult.request_start)
        kept[consult.reply_segment] = 0
    if any(count and trace.segments[i].role is not trace.author for i, count in kept.items()):
        raise NotExportable("an agent's text belongs to no consult")
