"""The grammar of a consult: what a request looks like, and how a reply is put into the context.

    <consult:knowledge>3@7</consult><feedback:knowledge>3@7=582</feedback>

The policy writes the first half and stops on the closing tag; the graph appends the second half as one
segment. Two rules keep the roles honest. A request is looked for only in tokens that the policy has just
sampled, never in what anybody else wrote. And a reply is encoded as plain text with every tag of the
grammar escaped, so that no agent can close its own feedback, ask another agent or write a control token.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, with_config

from aipo.errors import ConfigError
from aipo.policies import Tokenizer
from aipo.trace import Fault
from graphs.notices import NOTICES

NAME = r"[\w.-]{1,64}"
# NUL, lone surrogates and noncharacters: text that no tokenizer was made for.
_UNPRINTABLE = re.compile("[\x00\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The request in a policy segment.

    Args:
        agent: name in the last opening tag; empty when there is none.
        text: what stands between the tags; None when one of them is missing.
        before: text of the segment before the request.
        start: index of the token that begins the request (the outermost opening tag), None when there
            is no opening tag or it shares a token with the text before it.
        fault: why it cannot be answered, None when it can.
    """

    agent: str
    text: str | None
    before: str
    start: int | None
    fault: Fault | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """A wrapped reply: `token_ids` with the tags, `text` without; `change` says what was done to it. `reply`:
    where in the ids it stands."""

    token_ids: list[int]
    text: str
    change: str | None
    reply: slice

    def framed(self, logprobs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Log-probs of the reply's ids as those of all ids: of the tags, which nobody sampled, they are unknown."""
        every = np.full(len(self.token_ids), np.nan, np.float32)
        every[self.reply] = logprobs
        return every


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """Tags and texts of the protocol. Every tag is `<...>`; the two with `{agent}` carry an agent's name.

    Args:
        open, close: around a request.
        feedback_open, feedback_close: around an agent's reply.
        notice_open, notice_close: around a word from the machinery.
        before, after: text around feedback and notices, tags included: a line end, if the model was
            taught one.
        notices: texts to use instead of `NOTICES`, by fault; `{agent}`, `{allowed}` (names) and `{form}`
            are filled in.

    Raises:
        ConfigError: a tag that cannot be told apart or escaped, or a notice that cannot be filled in.
    """

    open: str = "<consult:{agent}>"
    close: str = "</consult>"
    feedback_open: str = "<feedback:{agent}>"
    feedback_close: str = "</feedback>"
    notice_open: str = "<notice>"
    notice_close: str = "</notice>"
    before: str = ""
    after: str = ""
    notices: Mapping[Fault, str] = field(default_factory=dict[Fault, str])

    def __post_init__(self) -> None:
        for tag in self._tags():
            # '<' only in front and no '&': then escaping '<' cannot give birth to another tag.
            if not re.fullmatch(r"<[^<>&]+>", tag):
                raise ConfigError(
                    f"tag of the consult grammar: got {tag!r}, allowed '<...>' without '<', '>', '&' inside"
                )
        for tag in (self.open, self.feedback_open):
            if tag.count("{agent}") != 1:
                raise ConfigError(f"tag of the consult grammar: got {tag!r}, allowed one '{{agent}}' in it")
        if len(set(self._tags())) < 6:
            raise ConfigError(f"tags of the consult grammar: got {self._tags()}, allowed six different ones")
        for fault in self.notices:
            try:
                self.notice(fault, "a", ["a"])
            except (KeyError, IndexError, ValueError) as error:
                raise ConfigError(
                    f"notice for {fault.value!r}: got {self.notices[fault]!r} ({error!r}), "
                    "allowed a text with {agent}, {allowed} and {form}"
                ) from error

    def parse(
        self, tokenizer: Tokenizer, token_ids: npt.NDArray[np.int32], agents: Collection[str]
    ) -> Request | None:
        """The request in a segment that the policy has just sampled; None when it has no tag.

        The request is what stands between the last opening tag and the first closing one.
        """
        text = tokenizer.decode(token_ids)
        end = text.find(self.close)
        tags = list(_opening(self.open).finditer(text, 0, end if end >= 0 else len(text)))
        if not tags:
            if end < 0:
                return None
            return Request(agent="", text=None, before=text[:end], start=None, fault=Fault.MALFORMED)
        first, last = tags[0], tags[-1]
        name = last["name"]
        body = text[last.end() : end] if end >= 0 else None
        fault = None
        if body is None:
            fault = Fault.UNCLOSED
        elif first is not last:
            fault = Fault.NESTED
        elif name not in agents:
            fault = Fault.UNKNOWN
        elif not body.strip():
            fault = Fault.EMPTY
        start = _token_at(tokenizer, token_ids, text, first.start(), first.group())
        return Request(agent=name, text=body, before=text[: first.start()], start=start, fault=fault)

    def without_requests(self, text: str) -> str:
        """The text of a policy segment without its requests: what it asks an agent is not its answer. A request that
        is not closed goes to the end of the segment."""
        return _request(self.open, self.close).sub("", text).replace(self.close, "")

    def clean(self, text: str) -> str:
        """`text` in which no tag of the grammar is left and every character can be encoded."""
        return _tag_heads(self._tags()).sub("&lt;", _UNPRINTABLE.sub("\ufffd", text))

    def frame(self, tokenizer: Tokenizer, agent: str) -> tuple[list[int], list[int]]:
        """Ids around an agent's reply."""
        opening = self.before + self.feedback_open.replace("{agent}", agent)
        closing = self.feedback_close + self.after
        return tokenizer.encode(opening, control=True), tokenizer.encode(closing, control=True)

    def wrap(self, tokenizer: Tokenizer, agent: str, reply: str, *, max_tokens: int) -> Feedback:
        """The reply as it is spliced in, cut to `max_tokens` tokens between its tags."""
        words = self.words(tokenizer, reply, max_tokens=max_tokens)
        opening, closing = self.frame(tokenizer, agent)
        return replace(
            words,
            token_ids=[*opening, *words.token_ids, *closing],
            reply=slice(len(opening), len(opening) + len(words.token_ids)),
        )

    def words(self, tokenizer: Tokenizer, reply: str, *, max_tokens: int) -> Feedback:
        """The reply without tags around it, cut to `max_tokens` tokens; no tag is left in it."""
        cleaned = self.clean(reply)
        escaped = cleaned != reply
        token_ids = tokenizer.encode(cleaned)
        size, token_ids = len(token_ids), token_ids[:max_tokens]
        text = tokenizer.decode(token_ids)
        if text != self.clean(text):  # a tokenizer that normalises can bring a tag back
            escaped, token_ids = True, tokenizer.encode(self.clean(text))[:max_tokens]
            text = tokenizer.decode(token_ids)
        changes = ["escaped"] if escaped else []
        if size > max_tokens:
            changes.append(f"cut from {size} to {max_tokens} tokens")
        whole = slice(0, len(token_ids))
        return Feedback(token_ids=token_ids, text=text, change=", ".join(changes) or None, reply=whole)

    def notice(self, fault: Fault, agent: str, allowed: Collection[str]) -> str:
        """The text of a notice, without the tags."""
        form = self.open.replace("{agent}", "NAME") + "request" + self.close
        text = self.notices.get(fault, NOTICES[fault])
        return text.format(agent=agent, allowed=", ".join(allowed), form=form)

    def wrap_notice(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Ids of a notice with its tags; its text is plain, so that the form in it is no control token."""
        return [
            *tokenizer.encode(self.before + self.notice_open, control=True),
            *tokenizer.encode(text),
            *tokenizer.encode(self.notice_close + self.after, control=True),
        ]

    def tags(self, agents: Iterable[str]) -> list[str]:
        """Every tag that is written where these agents are at hand; none without agents."""
        names = list(agents)
        every = [tag.replace("{agent}", name) for tag in self._tags() for name in names]
        return list(dict.fromkeys(every))

    def _tags(self) -> tuple[str, ...]:
        return (
            *(self.open, self.close),
            *(self.feedback_open, self.feedback_close),
            *(self.notice_open, self.notice_close),
        )


def graph_tags(*, agents: Sequence[str], grammar: Grammar | None = None, **_: object) -> list[str]:
    """The tags of a graph with these options; for its function's attribute `tags`."""
    return (grammar or Grammar()).tags(agents)


@lru_cache
def _opening(tag: str) -> re.Pattern[str]:
    head, tail = tag.split("{agent}")
    return re.compile(f"{re.escape(head)}(?P<name>{NAME}){re.escape(tail)}")


@lru_cache
def _request(opening: str, closing: str) -> re.Pattern[str]:
    return re.compile(_opening(opening).pattern + rf".*?(?:{re.escape(closing)}|\Z)", re.DOTALL)


@lru_cache
def _tag_heads(tags: tuple[str, ...]) -> re.Pattern[str]:
    """The '<' of every tag; a tag with a name is known by what stands before the name."""
    rests = (re.escape(tag.partition("{agent}")[0][1:]) for tag in tags)
    return re.compile(f"<(?={'|'.join(rests)})")


def _token_at(
    tokenizer: Tokenizer, token_ids: npt.NDArray[np.int32], text: str, start: int, tag: str
) -> int | None:
    """Index of the token that begins at character `start` of `text`, None when none does.

    A tokenizer need not decode token by token as it decodes the whole, so a candidate counts only when
    both of its sides decode to the right text.
    """
    head, tail = text[:start], text[start:]

    def candidates() -> Iterator[int]:
        mark = tokenizer.token_id(tag)
        if mark is not None:
            yield from np.flatnonzero(token_ids == mark).tolist()
        for index, token_id in enumerate(token_ids.tolist()):
            piece = tokenizer.decode([token_id])
            if piece.startswith(tag[0]) and tail.startswith(piece):
                yield index

    for index in candidates():
        if tokenizer.decode(token_ids[index:]) == tail and tokenizer.decode(token_ids[:index]) == head:
            return index
    return None
