"""The ledger of one rollout: every turn that a chat model sampled, outside of messages and state.

Turns form a tree. A call is matched against it by its messages: where they are those of a recorded turn, the call goes on
from that turn's ids, and only what is new is rendered. At the end each path of the tree is a history of its own; a
turn that several paths share is trained in the first of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Literal, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage

from aipo.rollout.chat.messages import chained, exact_form, loose_form
from aipo.rollout.chat.settings import DEFAULTS, ChatGraphSettings
from aipo.rollout.chat.sync_calls import SyncCalls
from aipo.trace import Role, Segment, StopReason, concatenate, segment

CHAT = "chat"
"""Source of the first segment of a history."""


class Match(StrEnum):
    """How a call's messages stand to the turns before it.

    `clean`: they are those of a recorded turn, and new ones. `realigned`: the same, written in another form; the recorded
    ids are taken. `forked`: an earlier message is another one than recorded, so all is rendered anew. `began`: no turn
    is among them.
    """

    BEGAN = "began"
    CLEAN = "clean"
    REALIGNED = "realigned"
    FORKED = "forked"


@dataclass(slots=True, eq=False)
class Turn:
    """One call of the policy that was answered.

    Args:
        context: the segments that it was sampled behind.
        new: how many of them are not its parent's.
        exact, loose: digests of the messages and of the reply.
        forms: the loose form of each of them, for people.
    """

    parent: "Turn | None"
    context: tuple[Segment, ...]
    new: int
    piece: Segment
    ended: bool
    reply: AIMessage
    exact: str
    loose: str
    forms: tuple[str, ...]
    visit: str
    finish: Literal["stop", "eos", "length"]


class Continuation(NamedTuple):
    """The place of a call in the tree: the turn that it goes on from, and the messages that are new behind it."""

    match: Match
    turn: Turn | None
    new: Sequence[BaseMessage]
    why: str = ""


class Prepared(NamedTuple):
    """The digests of a call's messages; `forms` are the loose ones."""

    exact: list[str]
    loose: list[str]
    forms: list[str]


@dataclass(slots=True)
class Ledger:
    """The turns of one rollout, of each policy.

    Attributes:
        settings: of the graph that is a user's own.
        sync: calls by nodes that are not async.
        counts: calls by how they matched.
        forks: for each fork, what differed.
        faults: turns whose tool calls could not be read.
        out_of_room: policies that were called when none of `rollout.max_tokens` was left.
    """

    settings: ChatGraphSettings = DEFAULTS
    sync: SyncCalls = field(default_factory=SyncCalls)
    turns: list[Turn] = field(default_factory=list[Turn])
    counts: dict[Match, int] = field(default_factory=lambda: dict.fromkeys(Match, 0))
    forks: list[str] = field(default_factory=list[str])
    faults: int = 0
    out_of_room: set[str] = field(default_factory=set[str])
    _by_form: dict[tuple[str, str], list[Turn]] = field(default_factory=dict[tuple[str, str], list[Turn]])
    _by_id: dict[tuple[str, str], Turn] = field(default_factory=dict[tuple[str, str], Turn])
    _contexts: dict[tuple[str, bytes], int] = field(default_factory=dict[tuple[str, bytes], int])

    def prepare(self, messages: Sequence[BaseMessage], tools: str) -> Prepared:
        """Digests of a call, to be matched, and then recorded with the reply."""
        forms = [loose_form(message) for message in messages]
        return Prepared(chained(tools, [*map(exact_form, messages)]), chained(tools, forms), forms)

    def place(self, policy: str, messages: Sequence[BaseMessage], prepared: Prepared) -> Continuation:
        """Where a call goes on, by the last message in it that a recorded turn wrote."""
        for position in range(len(messages) - 1, -1, -1):
            message = messages[position]
            if not isinstance(message, AIMessage):
                continue
            for match, digests in ((Match.CLEAN, prepared.exact), (Match.REALIGNED, prepared.loose)):
                if turns := self._by_form.get((policy, digests[position])):
                    return Continuation(match, turns[0], messages[position + 1 :])
            if known := self._by_id.get((policy, message.id or "")):
                return Continuation(
                    Match.FORKED, None, messages, _difference(known, prepared.forms, messages)
                )
        return Continuation(Match.BEGAN, None, messages)

    def count(self, place: Continuation) -> None:
        """Counts a call."""
        self.counts[place.match] += 1
        if place.match is Match.FORKED:
            self.forks.append(place.why)

    def wrote(self, policy: str, message: BaseMessage) -> bool:
        """Is it, unchanged or not, what the policy has written in this rollout?"""
        return (policy, message.id or "") in self._by_id

    def repeats(self, policy: str, context: Sequence[Segment]) -> tuple[str, int]:
        """A digest of the ids of a context, and how many calls had exactly these before."""
        digest = blake2b(concatenate(context).tobytes(), digest_size=8)
        number = self._contexts.get((policy, digest.digest()), 0)
        self._contexts[policy, digest.digest()] = number + 1
        return digest.hexdigest(), number

    def record(self, turn: Turn) -> None:
        """Keeps a turn."""
        policy = turn.piece.policy
        self.turns.append(turn)
        self._by_id[policy, turn.reply.id or ""] = turn
        for digest in {turn.exact, turn.loose}:
            self._by_form.setdefault((policy, digest), []).append(turn)

    def policies(self) -> list[str]:
        """The policies that were called."""
        return [*dict.fromkeys(turn.piece.policy for turn in self.turns)]

    def stop(self, policy: str) -> StopReason:
        """The reason why a policy's last turn ended."""
        last = [turn for turn in self.turns if turn.piece.policy == policy][-1]
        return StopReason.LENGTH if policy in self.out_of_room or last.finish == "length" else StopReason.EOS

    def notes(self) -> dict[str, float]:
        """What is counted of the calls, by name; nothing where no chat model was called."""
        if not sum(self.counts.values()):
            return {}
        return {f"chat_{match}": float(count) for match, count in self.counts.items()} | {
            "chat_faults": float(self.faults)
        }

    def segments(self, visits: Mapping[str, int]) -> list[Segment]:
        """The histories, one behind the other.

        Args:
            visits: the place of each visit among all, which orders turns whatever ended first.
        """
        last, children = len(visits), dict[int | None, list[Turn]]()
        for turn in sorted(self.turns, key=lambda turn: visits.get(turn.visit, last)):
            children.setdefault(turn.parent and id(turn.parent), []).append(turn)
        segments: list[Segment] = []
        numbers = dict.fromkeys(self.policies(), 0)
        starts = [(turn, turn.context) for turn in reversed(children.get(None, []))]
        while starts:
            turn, given = starts.pop()
            policy = turn.piece.policy
            if turn.parent is not None:  # what it shares is trained elsewhere
                given = (segment(Role.PROMPT, CHAT, concatenate(given), policy=policy),)
            number = numbers[policy]
            numbers[policy] += 1
            forks: list[tuple[Turn, tuple[Segment, ...]]] = []
            path = [*given, turn.piece]
            while following := children.get(id(turn)):
                forks += [(other, other.context) for other in following[1:]]
                turn = following[0]
                path += [*turn.context[len(turn.context) - turn.new :], turn.piece]
            segments += [replace(piece, history=number) for piece in path]
            starts += reversed(forks)
        return segments


def _difference(turn: Turn, forms: Sequence[str], messages: Sequence[BaseMessage]) -> str:
    """The first message that is another one than the turn was sampled behind."""
    pairs = enumerate(zip(turn.forms, forms, strict=False))
    place = next((place for place, (was, now) in pairs if was != now), None)
    if place is None:
        return "other tools"
    return f"message {place} ({messages[place].type}) differs"
