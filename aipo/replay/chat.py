"""An agent's chat model that answers from a recorded rollout.

A call is answered if it has the model, the settings and the messages of a recorded call that was not used yet,
in whatever order. A recorded error is raised again. A call that was cancelled when a step or an agent ran out of
time waits until it is cancelled again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig
from pydantic import PrivateAttr

from aipo.errors import ReplayError
from aipo.replay.reuse import CALL, Reuse, recorded_error
from aipo.rollout.agent import Prices
from aipo.rollout.context import UNSCORED, ChatModel, Scorer
from aipo.trace import Call, Role, Segment, Trace
from aipo.util.http.reply import THINKING_TAGS
from aipo.util.text import clean, to_json

Question = tuple[str, str, bytes, bytes]
"""Agent, model, settings and messages of a call: what decides its reply."""


_BEFORE, _AFTER = 20, 40


class AgentModel(NamedTuple):
    """An agent's model and settings of now, and what answers where the recording does not (None = nothing)."""

    model: str
    settings: Mapping[str, Any]
    live: BaseChatModel | None = None
    prices: Prices | None = None
    scorer: Scorer | None = None
    thinking: Mapping[str, str] = THINKING_TAGS


class ReplayChat(BaseChatModel):
    """The chat model of one agent in one rollout; see `replay_chat`, which makes it."""

    agent: str
    where: str
    _agent_model: AgentModel = PrivateAttr()
    _recorded: list[tuple[Question, Call, bool]] = PrivateAttr()
    _shared: Mapping[Question, Call] = PrivateAttr()
    _reuse: Reuse = PrivateAttr()

    @property
    def _llm_type(self) -> str:
        return "aipo-replay"

    async def ainvoke(
        self,
        input: PromptValue | str | Sequence[Any],
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """The recorded reply, or the live model's.

        Raises:
            ReplayError: something else is asked than was recorded, and there is no live model.
        """
        question = _question(self.agent, self._agent_model, self._convert_input(input).to_messages())
        if recorded := self._take(question):
            self._reuse.calls += 1
            return await _reply(*recorded)
        at, difference, live = f"{CALL} {self.agent}", self._difference(question), self._agent_model.live
        if live is None:
            raise self._reuse.refuse(at, f"a call of {self.agent!r} in {self.where!r}", difference)
        self._reuse.live_calls += 1
        self._reuse.leave(at, f"a call in {self.where!r}: {difference}")
        reply = await live.ainvoke(input, config, stop=stop, **kwargs)
        self._reuse.spent += self._cost(reply)
        return reply

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise ReplayError(f"chat model of {self.agent!r}: got a call that waits, allowed `await`")

    def _take(self, question: Question) -> tuple[Call, bool] | None:
        """The first unused call that asked the same, and whether it was tried again."""
        for place, (recorded, call, retried) in enumerate(self._recorded):
            if recorded == question:
                del self._recorded[place]
                return call, retried
        return (self._shared[question], False) if question in self._shared else None

    def _cost(self, reply: AIMessage) -> float:
        usage = reply.usage_metadata
        if self._agent_model.prices is None or usage is None:
            return 0.0
        return self._agent_model.prices.cost(usage["input_tokens"], usage["output_tokens"]) or 0.0

    def _difference(self, question: Question) -> str:
        if not self._recorded:
            return "no call is left in the recording"
        then = self._recorded[0][0]
        parts = zip(("agent", "model", "settings", "messages"), question, then, strict=True)
        for part, now, was in parts:
            if now != was:
                return f"{part}: got {_around(now, was)}, recorded {_around(was, now)}"
        return "the recorded call has been used"


class ReplayScorer:
    """Recorded log-probs of an agent's replies by its own model: the `aipo.rollout.context.Scorer` of a replay.

    `live` is asked for ids that were not recorded; without one their log-probs are NaN: not known.
    """

    def __init__(self, agent: str, source: Trace, live: Scorer | None) -> None:
        self._live = live
        replies = [
            (source.segments[consult.reply_segment], consult.error)
            for consult in source.consults
            if consult.agent == agent and consult.reply is not None
        ]
        self._unused = [(s, e) for s, e in replies if s.role is Role.AGENT and s.logprobs is not None]
        self.recorded = bool(self._unused)

    async def score(
        self, messages: Sequence[Mapping[str, str]], token_ids: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """See `aipo.rollout.context.Scorer.score`. A recorded error is raised again."""
        ids = np.array(token_ids, np.int32)
        for n, (segment, error) in enumerate(self._unused):
            place = _place(segment, ids)
            if place is None or segment.logprobs is None:
                continue
            del self._unused[n]
            _, unscored, text = (error or "").partition(UNSCORED)
            if unscored:
                raise recorded_error(text, retried=False)
            return segment.logprobs[place : place + len(ids)]
        if self._live is not None:
            return await self._live.score(messages, token_ids)
        return np.full(len(ids), np.nan, np.float32)


def replay_chat(
    agent: str,
    source: Trace,
    agent_model: AgentModel,
    *,
    reuse: Reuse,
    shared: Mapping[Question, Call] | None = None,
) -> ChatModel:
    """The chat model of `agent` for a replay of `source`.

    Args:
        shared: calls of other rollouts, for agents that cache: a reply from the cache left no call.
    """
    chat = ReplayChat(agent=agent, where=source.trace_id)
    chat._agent_model, chat._reuse = agent_model, reuse
    chat._recorded = [
        (question_of(call), call, _again(visit.calls[place + 1 :], call))
        for visit in source.visits
        for place, call in enumerate(visit.calls)
        if call.agent == agent
    ]
    chat._shared = shared or {}
    scorer = ReplayScorer(agent, source, agent_model.scorer)
    return ChatModel(
        model=chat,
        name=agent_model.model,
        settings=agent_model.settings,
        prices=agent_model.prices,
        thinking=agent_model.thinking,
        scorer=scorer if scorer.recorded or agent_model.scorer is not None else None,
    )


async def _reply(call: Call, retried: bool) -> AIMessage:
    if call.error is not None:
        if call.error.startswith(asyncio.CancelledError.__name__):
            await asyncio.get_running_loop().create_future()
        raise recorded_error(call.error, retried=retried)
    usage: Any = None
    if call.tokens_in is not None or call.tokens_out is not None:
        counts = (call.tokens_in or 0, call.tokens_out or 0)
        usage = {"input_tokens": counts[0], "output_tokens": counts[1], "total_tokens": sum(counts)}
    return AIMessage(
        call.reply or "",
        usage_metadata=usage,
        additional_kwargs={"reasoning_content": call.thinking} if call.thinking is not None else {},
        response_metadata={"finish_reason": call.finish} if call.finish is not None else {},
    )


def question_of(call: Call) -> Question:
    """The question of a recorded call."""
    return call.agent, call.model, to_json(sorted(call.settings.items())), to_json(call.messages)


def _question(agent: str, agent_model: AgentModel, messages: Sequence[BaseMessage]) -> Question:
    content = [{"role": m.type, "content": clean(str(m.text))} for m in messages]
    return agent, agent_model.model, to_json(sorted(agent_model.settings.items())), to_json(content)


def _again(later: Sequence[Call], call: Call) -> bool:
    """Was it tried again? Then the next call of that node execution says the same."""
    following = next((c for c in later if c.agent == call.agent), None)
    return following is not None and following.messages == call.messages


def _around(text: str | bytes, other: str | bytes) -> str:
    """`text` where it begins to differ from `other`."""
    mine, theirs = (t if isinstance(t, str) else t.decode() for t in (text, other))
    pairs = enumerate(zip(mine, theirs, strict=False))
    first = next((n for n, (a, b) in pairs if a != b), min(len(mine), len(theirs)))
    start = max(0, first - _BEFORE)
    return repr(("…" if start else "") + mine[start : first + _AFTER])


def _place(segment: Segment, ids: npt.NDArray[np.int32]) -> int | None:
    """The position of `ids` in a segment."""
    places = range(len(segment) - len(ids) + 1)
    return next((p for p in places if np.array_equal(segment.token_ids[p : p + len(ids)], ids)), None)
