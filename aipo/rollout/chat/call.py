"""One call of the policy: where it goes on, what is new in it, and the message that the sampled ids are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage, BaseMessage, InvalidToolCall, ToolCall, ToolMessage
from langchain_core.messages.ai import UsageMetadata

from aipo.rollout.chat.ledger import CHAT, Continuation, Turn
from aipo.rollout.chat.messages import (
    Message,
    chained,
    exact_form,
    for_template,
    loose_form,
    tool_calls,
    tools_form,
)
from aipo.rollout.chat.places import nodes_of, visit_of
from aipo.rollout.chat.settings import ChatGraphSettings
from aipo.rollout.context import RolloutContext
from aipo.trace import Role, Segment, concatenate, segment

if TYPE_CHECKING:
    from aipo.rollout.chat.template import ChatTemplate, ParsedTurn

GRAPH_NODE = "graph"
"""The node that a user's graph runs in."""


@dataclass(frozen=True, kw_only=True)
class PolicyCall:
    """One call of the policy."""

    rollout: RolloutContext
    policy: str
    template: "ChatTemplate"
    messages: Sequence[BaseMessage]
    tools: Sequence[Message]
    stop: tuple[str, ...]
    max_tokens: int | None
    place: tuple[str, ...]

    async def answer(self) -> AIMessage:
        """Samples, parses and records the reply."""
        rollout, ledger = self.rollout, self.rollout.ledger
        prepared = ledger.prepare(self.messages, tools_form(self.tools))
        found = ledger.place(self.policy, self.messages, prepared)
        new = self._new_segments(found)
        context = (*found.turn.context, found.turn.piece, *new) if found.turn else tuple(new)
        ledger.count(found)
        if rollout.room(context, policy=self.policy) <= 0:
            ledger.out_of_room.add(self.policy)
            return AIMessage("", response_metadata={"finish_reason": "length"})
        nodes = nodes_of(self.place)
        node = "/".join(nodes[nodes[:1] == [GRAPH_NODE] :]) or self.policy
        digest, number = ledger.repeats(self.policy, context)
        piece, finish = await rollout.sample(
            context,
            policy=self.policy,
            stop=(*self.stop, *self._end),
            source=node,
            role=self.settings.role_of(node),
            turn=f"{digest}/{number}",
            max_tokens=self.max_tokens,
        )
        reply = self.template.parse(piece.token_ids, self.tools, new[-1].token_ids)
        ended = finish == "eos" or (finish == "stop" and self._ends(piece))
        message = self._message(reply, piece, finish, f"{digest}{number}", sum(map(len, context)))
        ledger.faults += reply.fault is not None
        ledger.record(
            Turn(
                parent=found.turn,
                context=context,
                new=len(new),
                piece=piece,
                ended=ended,
                reply=message,
                exact=chained(prepared.exact[-1], [exact_form(message)])[0],
                loose=chained(prepared.loose[-1], [loose_form(message)])[0],
                forms=(*prepared.forms, loose_form(message)),
                visit=visit_of(self.place),
                finish=finish,
            )
        )
        return message

    @property
    def settings(self) -> ChatGraphSettings:
        return self.rollout.ledger.settings

    @property
    def _end(self) -> tuple[str, ...]:
        """The end of a turn, where it is another token than the one that ends sampling anyway."""
        tokenizer = self.rollout.policies[self.policy].tokenizer
        return () if tokenizer.token_id(self.template.end) == tokenizer.eos_id else (self.template.end,)

    def _ends(self, piece: Segment) -> bool:
        tokenizer = self.rollout.policies[self.policy].tokenizer
        return int(piece.token_ids[-1]) == tokenizer.token_id(self.template.end)

    def _new_segments(self, found: Continuation) -> list[Segment]:
        """The segments of what is new in this call."""
        rendered = [for_template(message) for message in found.new]
        if found.turn is None:
            trusted = [
                message.type == "system" or self.rollout.ledger.wrote(self.policy, message)
                for message in found.new
            ]
            ids = self.template.begin(rendered, self.tools, trusted)
            return [segment(Role.PROMPT, CHAT, ids, policy=self.policy)]
        calls = tool_calls(found.turn.reply.tool_calls)
        parts = self.template.extend(rendered, self.tools, calls=calls, ended=found.turn.ended)
        producers = [self._producer(message) for message in found.new]
        return self._joined(producers or [(Role.ENV, CHAT)], parts)

    def _joined(self, producers: Sequence[tuple[Role, str]], parts: Sequence[Sequence[int]]) -> list[Segment]:
        """One segment for each run of messages of one producer."""
        segments: list[Segment] = []
        for (role, source), ids in zip(producers, parts, strict=True):
            if segments and (segments[-1].role, segments[-1].source) == (role, source):
                ids = concatenate([segments.pop(), segment(role, source, ids)])
            segments.append(segment(role, source, ids, policy=self.policy))
        return segments

    def _producer(self, message: BaseMessage) -> tuple[Role, str]:
        """Who wrote a message that the policy did not."""
        if isinstance(message, AIMessage):
            return Role.AGENT, message.name or "ai"
        if not isinstance(message, ToolMessage):
            return Role.ENV, message.name or message.type
        name = message.name or "tool"
        return Role.AGENT if name in self.settings.agent_tools else Role.ENV, name

    def _message(self, reply: "ParsedTurn", piece: Segment, finish: str, name: str, read: int) -> AIMessage:
        # Some templates want an id of nine letters and digits.
        ids = [f"{chained(name, [str(place)])[0]:.9}" for place in range(len(reply.tool_calls) + 1)]
        calls = [
            ToolCall(name=call["name"], args=call["args"], id=one, type="tool_call")
            for call, one in zip(reply.tool_calls, ids[:-1], strict=True)
        ]
        invalid = [
            InvalidToolCall(
                name=None, args=reply.content, id=ids[-1], error=reply.fault, type="invalid_tool_call"
            )
        ]
        written = len(piece)
        reason = "length" if finish == "length" else "tool_calls" if calls else "stop"
        return AIMessage(
            reply.content,
            id=f"{self.policy}-{name}",
            tool_calls=calls,
            invalid_tool_calls=invalid if reply.fault else [],
            additional_kwargs={"reasoning_content": reply.reasoning} if reply.reasoning else {},
            usage_metadata=UsageMetadata(
                input_tokens=read, output_tokens=written, total_tokens=read + written
            ),
            response_metadata={"finish_reason": reason, "model_name": self.policy},
        )
