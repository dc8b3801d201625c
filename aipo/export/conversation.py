"""A trace as a conversation: the user's question and the assistant's answer.

Consults can be treated in two ways. `cut` leaves requests and replies out, as distilled rows do; the question is then
the one that solo rollouts of the group were asked. `inline` keeps them in the assistant's text, tags and all.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

from aipo.errors import ConfigError
from aipo.export.chat_template import TokenTexts
from aipo.trace import Mode, Role, StopReason, concatenate
from aipo.trace.arrow import Stored
from aipo.util.text import to_json

AGENTS = ("cut", "inline")
"""Ways to treat consults."""
_WITHOUT_AGENTS = (Mode.SOLO, Mode.EXPERT)
Message = dict[str, str]


class NotExportable(Exception):
    """A trace that has no place in an export; the text is the reason, for people."""


class Conversation(NamedTuple):
    """The messages of the user, and those of the assistant."""

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


class Duplicates:
    """A filter of duplicate rows, used if rows must be unique."""

    def __init__(self, unique: bool) -> None:
        self._unique = unique
        self._hashes: set[bytes] = set()

    def is_repeat(self, *messages: list[Message]) -> bool:
        """Was this asked about before? From now on it was. False for everything unless rows are to be unique."""
        if not self._unique:
            return False
        digest = blake2b(to_json(messages), digest_size=16).digest()
        repeat = digest in self._hashes
        self._hashes.add(digest)
        return repeat


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
        question = questions.get(stored.trace.group_id) if self._cut else None
        question = self._question(stored) if question is None else question
        parts = list(self._answer(stored))
        answer = "".join(text for text, _ in parts)
        if not answer:
            raise NotExportable("the policy wrote nothing")
        self._check(answer, [token_id for _, ids in parts for token_id in ids])
        return Conversation(question, answer)

    def _question(self, stored: Stored) -> str:
        trace, texts = stored
        assert texts is not None
        numbers = [i for i, segment in enumerate(trace.segments) if segment.role is Role.PROMPT]
        text = "".join(texts[i] for i in numbers)
        self._check(text, concatenate(trace.segments[i] for i in numbers).tolist())
        question = self._texts.question(text)
        if question is None:
            raise NotExportable("the prompt is not of the tokenizer's chat template")
        return question

    def _check(self, text: str, token_ids: Iterable[int]) -> None:
        """Plain text that spells a special token would become one where the export is encoded again."""
        if self._texts.spells_control(text, token_ids):
            raise NotExportable("a text spells a special token")

    def _answer(self, stored: Stored) -> Iterator[tuple[str, list[int]]]:
        """Text and ids of each segment after the prompt, as far as they are kept."""
        trace, texts = stored
        assert texts is not None
        kept = self._kept(stored) if self._cut else dict[int, int]()
        prompt = True
        for i, (segment, text) in enumerate(zip(trace.segments, texts, strict=True)):
            if segment.role is Role.PROMPT:
                if not prompt:
                    raise NotExportable("it was asked more than once")
                continue
            prompt, ids = False, segment.token_ids.tolist()
            if segment.role is trace.author:
                if kept.get(i, len(segment)) < len(segment):
                    text, ids = self._texts.head(stored, i, kept[i]), ids[: kept[i]]
                elif i == len(texts) - 1 and trace.stop_reason is StopReason.EOS:
                    text, ids = self._without_end(stored, text, ids)
                if self._cut and any(tag in text for tag in self._tags):
                    raise NotExportable("a consult tag is left over")
                yield text, ids
            elif kept.get(i, 1):
                yield text, ids

    def _without_end(self, stored: Stored, text: str, ids: list[int]) -> tuple[str, list[int]]:
        end = self._texts.eos(stored)
        return (text.removesuffix(end), ids[:-1]) if text.endswith(end) else (text, ids)

    def _kept(self, stored: Stored) -> dict[int, int]:
        """How many tokens are kept of the segments that belong to a consult; as in `aipo.method.rows.distil`."""
        trace, segments = stored.trace, stored.trace.segments
        kept: dict[int, int] = {}
        for consult in trace.consults:
            if consult.request_start is None:
                raise NotExportable("a consult shares a token with other text")
            request = consult.request_segment
            kept[request] = min(kept.get(request, len(segments[request])), consult.request_start)
            kept[consult.reply_segment] = 0
        others = {i for i, s in enumerate(segments) if s.role not in (Role.PROMPT, trace.author)}
        if others - kept.keys():
            raise NotExportable("an agent's text belongs to no consult")
        return kept
