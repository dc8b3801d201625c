"""The policy as a LangChain chat model: token ids in, the sampled ids kept, messages out.

    agent = create_agent(policy_chat("policy"), tools=[search], system_prompt="...")

Inside a rollout a call samples from the policy and is written into the rollout's ledger. Outside of one there is no policy.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool

from aipo.errors import AgentError, ConfigError, GraphError, one_of
from aipo.rollout.chat.call import PolicyCall
from aipo.rollout.chat.messages import Message
from aipo.rollout.chat.places import current_place
from aipo.rollout.context import ROLLOUT, RolloutContext

_CHOICES = (None, "auto", "any", "required")
_WITHOUT_EFFECT = frozenset({"ls_structured_output_format", "strict", "parallel_tool_calls"})


def policy_chat(
    policy: str = "policy", *, max_tokens: int | None = None, stop: Sequence[str] = ()
) -> "PolicyChat":
    """The policy as a chat model, for any LangGraph agent.

    Args:
        policy: its name, where several learn together.
        max_tokens: the most tokens of one reply; None = what is left of `rollout.max_tokens`.
        stop: a reply ends with the token that completes one of these strings.

    Raises:
        ConfigError: a limit below 1.
    """
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(one_of("max_tokens", max_tokens, "1 or more, or None", "policy_chat"))
    return PolicyChat(policy=policy, max_tokens=max_tokens, stop=tuple(stop))


class PolicyChat(BaseChatModel):
    """See `policy_chat`, which makes it. How the policy samples is the run's: a call takes no temperature."""

    policy: str
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    cache: Literal[False] = False  # pyright: ignore[reportIncompatibleVariableOverride]  # a cached reply was not sampled

    @property
    def _llm_type(self) -> str:
        return "aipo-policy"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """The model with tools in its prompt. A choice of tool asks for a call and forces none: the policy is not
        constrained, or its log-probs would be another distribution's.

        Raises:
            ConfigError: a choice that forbids calls.
        """
        if tool_choice == "none" or not isinstance(tool_choice, str | dict | bool | None):
            raise ConfigError(
                one_of("tool_choice", tool_choice, _CHOICES, "policy_chat; bind no tools instead of 'none'")
            )
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        """A call that waits, from the thread of a node that is not async.

        Raises:
            GraphError: from the thread that all rollouts run in.
        """
        rollout = _rollout()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            answer = self._answer(rollout, messages, stop, kwargs, current_place())
            return rollout.ledger.sync.wait(answer)
        raise GraphError(
            "policy_chat: got `invoke` in an async function, which would stop every rollout, allowed `await model.ainvoke(...)` "
            "there, or a node that is a plain function"
        )

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await self._answer(_rollout(), messages, stop, kwargs, current_place())

    async def _answer(
        self,
        rollout: RolloutContext,
        messages: Sequence[BaseMessage],
        stop: Sequence[str] | None,
        kwargs: Mapping[str, Any],
        place: tuple[str, ...],
    ) -> ChatResult:
        from aipo.rollout.chat.template import template_of

        tools: list[Message] = kwargs.get("tools") or []
        allowed = {"tools", "max_tokens", *_WITHOUT_EFFECT}
        if unknown := sorted(
            {name for name, value in kwargs.items() if value is not None} - allowed - {"tool_choice"}
        ):
            where = "policy_chat (rollout.temperature is the policy's for the whole run)"
            raise ConfigError(one_of("settings of a call", unknown, sorted(allowed), where))
        if self.policy not in rollout.policies:
            raise ConfigError(
                one_of("policy of policy_chat", self.policy, sorted(rollout.policies), "this run")
            )
        template = template_of(rollout.policies[self.policy].tokenizer, self.policy)
        if tools and not template.parses_tools:
            raise ConfigError(
                f"tools of policy {self.policy!r}: got a chat template whose tool calls nobody can read, allowed one that TRL "
                "knows, or a tokenizer with a `response_template` (see transformers' chat response parsing)"
            )
        limits = [n for n in (self.max_tokens, kwargs.get("max_tokens")) if n is not None]
        call = PolicyCall(
            rollout=rollout,
            policy=self.policy,
            template=template,
            messages=messages,
            tools=tools,
            stop=(*self.stop, *(stop or ())),
            max_tokens=min(limits, default=None),
            place=place,
        )
        return ChatResult(generations=[ChatGeneration(message=await call.answer())])


def _rollout() -> RolloutContext:
    try:
        return ROLLOUT.get()
    except LookupError as error:
        raise AgentError(
            "policy_chat: got a call outside of a rollout, where there is no policy, allowed a call by a graph that runs as "
            "graph.name (aipo train, eval, replay)"
        ) from error
