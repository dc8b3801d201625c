"""A trace as a conversation: what the user asked, and what was said afterwards.

Agents' turns can be shown in three ways. `cut` leaves consults and feedback out, as distilled rows do; the
question is then the one that solo rollouts of the group were asked. `inline` keeps them in the assistant's
text, tags and all. `turns` makes each reply a message of role `user`, the one role besides `assistant` that
every chat template knows (many refuse `tool` without a tool call before it); its tags say who speaks.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

from aipo.errors import ConfigError
from aipo.export.chat_template import Words
from aipo.trace import Mode, Role, StopReason, concatenate
from aipo.trace.arrow import Stored
from aipo.util.text import to_json

AGENTS = ("cut", "inline", "turns")
ALONE = (Mode.SOLO, Mode.EXPERT)
"""Rollouts that are asked what the policy is asked when nobody can help."""
Message = dict[str, str]


class LeftOut(Exception):
    """A trace that has no place in an export; the text is the reason, for people."""


class Chat(NamedTuple):
    """The question, and the messages after it; the last one is the assistant's."""

    prompt: str
    answer: tuple[Message, ...]

    @property
    def asked(self) -> list[Message]:
        return [{"role": "user", "content": self.prompt}]


class Seen:
    """What was exported before; forgets all of it unless rows are to be unique."""

    def __init__(self, unique: bool) -> None:
        self._unique = unique
        self._marks: set[bytes] = set()

    def before(self, *said: list[Message]) -> bool:
        """Was this exported before? From now on it was."""
        if not self._unique:
            return False
        mark = blake2b(to_json(said), digest_size=16).digest()
        known = mark in self._marks
        self._marks.add(mark)
        return known


class _Turn(NamedTuple):
    """Text that one side says, and the tokens that it is the text of."""

    role: str
    text: str
    token_ids: list[int]


class Chats:
    """Makes conversations of traces.

    Args:
        words: of the run.
        agents: how agents' turns are shown; a name in `AGENTS`.
        tags: consult tags. What still holds one after its consults were cut is left out.

    Raises:
        ConfigError: an unknown name.
    """

    def __init__(self, words: Words, agents: str, tags: Iterable[str] = ()) -> None:
        if agents not in AGENTS:
            raise ConfigError(f"--agents: got {agents!r}, allowed {', '.join(AGENTS)}")
        self._words = words
        self._agents = agents
        self._tags = tuple(tags)

    def prompts(self, traces: Iterable[Stored]) -> dict[str, str]:
        """Question of each group's solo rollouts; none of them when consults stay in."""
        if self._agents != "cut":
            return {}
        solo = (self._words.with_texts(s) for s in traces if s.trace.mode in ALONE and s.trace.segments)
        found: dict[str, str] = {}
        for stored in solo:
            with suppress(LeftOut):
                found[stored.trace.group_id] = self._question(stored)
        return found

    def of(self, stored: Stored, prompts: Mapping[str, str]) -> Chat:
        """One trace as a conversation.

        Args:
            prompts: see `prompts`; without one for its group, the question is the trace's own.

        Raises:
            LeftOut: it is none, or cannot be cut.
            RunError: its text is not known.
        """
        stored = self._words.with_texts(stored)
        prompt = prompts.get(stored.trace.group_id) if self._agents == "cut" else None
        if prompt is None:
            prompt = self._question(stored)
        answer = _merged(self._spoken(stored))
        while answer and answer[-1].role != "assistant":
            answer.pop()
        if not answer:
            raise LeftOut("the policy wrote nothing")
        for turn in answer:
            self._check(turn.text, turn.token_ids)
        return Chat(prompt, tuple({"role": turn.role, "content": turn.text} for turn in answer))

    def _question(self, stored: Stored) -> str:
        trace, texts = stored
        assert texts is not None
        asked = [i for i, segment in enumerate(trace.segments) if segment.role is Role.PROMPT]
        text = "".join(texts[i] for i in asked)
        self._check(text, concatenate(trace.segments[i] for i in asked).tolist())
        prompt = self._words.prompt(text)
        if prompt is None:
            raise LeftOut("the prompt is not of the tokenizer's chat template")
        return prompt

    def _check(self, text: str, token_ids: Iterable[int]) -> None:
        """Plain text that spells a special token would become one where the export is encoded again."""
        if self._words.spells_control(text, token_ids):
            raise LeftOut("a text spells a special token")

    def _spoken(self, stored: Stored) -> Iterator[_Turn]:
        """Who says what after the prompt, segment by segment."""
        trace, texts = stored
        assert texts is not None
        keep = self._kept(stored) if self._agents == "cut" else dict[int, int]()
        asked = True
        for i, (segment, text) in enumerate(zip(trace.segments, texts, strict=True)):
            last = i == len(texts) - 1
            if segment.role is Role.PROMPT:
                if not asked:
                    raise LeftOut("it was asked more than once")
                continue
            asked = False
            ids = segment.token_ids.tolist()
            if segment.role is trace.author:
                if keep.get(i, len(segment)) < len(segment):
                    text, ids = self._words.head(stored, i, keep[i]), ids[: keep[i]]
                elif last and trace.stop_reason is StopReason.EOS:
                    text, ids = self._without_end(stored, text, ids)
                if self._agents == "cut" and any(tag in text for tag in self._tags):
                    raise LeftOut("a consult tag is left over")
                yield _Turn("assistant", text, ids)
            elif keep.get(i, 1):
                yield _Turn("user" if self._agents == "turns" else "assistant", text, ids)

    def _without_end(self, stored: Stored, text: str, ids: list[int]) -> tuple[str, list[int]]:
        end = self._words.eos(stored)
        return (text.removesuffix(end), ids[:-1]) if text.endswith(end) else (text, ids)

    def _kept(self, stored: Stored) -> dict[int, int]:
        """How many tokens stay of the segments that belong to a consult; as in `aipo.method.rows.distil`."""
        trace = stored.trace
        segments, consults = trace.segments, trace.consults
        keep: dict[int, int] = {}
        for consult in consults:
            asked = consult.request_segment
            if consult.request_start is None:
                raise LeftOut("a consult shares a token with other text")
            keep[asked] = min(keep.get(asked, len(segments[asked])), consult.request_start)
            keep[consult.reply_segment] = 0
        told = {i for i, s in enumerate(segments) if s.role not in (Role.PROMPT, trace.author)}
        if told - keep.keys():
            raise LeftOut("an agent's text belongs to no consult")
        return keep


def _merged(spoken: Iterable[_Turn]) -> list[_Turn]:
    """Turns of different sides; who says nothing has none."""
    turns: list[_Turn] = []
    for turn in spoken:
        if turns and turns[-1].role == turn.role:
            before = turns.pop()
            turns.append(_Turn(turn.role, before.text + turn.text, before.token_ids + turn.token_ids))
        elif turn.text:
            turns.append(turn)
    return turns
