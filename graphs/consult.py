"""The main state machine: a policy that may ask agents while it reasons.

    prompt → policy ⇄ verify | knowledge | reasoning | ... | notice
                │
                └→ score

After each stretch of sampling the policy node reads what the segment ended with. A good request goes
to its agent's node, which runs the agent's sub-graph and splices the reply in; anything else gets a
short notice; in both cases the policy goes on. Solo rollouts run through the same graph, but nothing is
intercepted. Whatever becomes of an agent, the rollout goes on and its `Consult` says what happened.
"""

import asyncio
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from langgraph.errors import GraphBubbleUp, NodeTimeoutError, ParentCommand
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from aipo.errors import ConfigError, GraphError, LoadError, ReplayError
from aipo.rollout import Agent, Prompt, RolloutContext, RolloutState
from aipo.trace import Consult, Fault, Mode, Role, Segment, StopReason, concatenate, segment
from aipo.util.text import clean, error_text
from graphs.protocol import NAME, Grammar, Request, graph_tags
from graphs.solo import POLICY, Node, policy_prompt, prompt_node, score_node

OUT_OF_ROOM = {"stops": {POLICY: StopReason.LENGTH}}


class ConsultState(RolloutState):
    """`request` is what the policy has just asked for, `asked` the agents that have been asked so far."""

    request: Request | None
    asked: Annotated[list[str], operator.add]


def consult(
    *,
    agents: Mapping[str, Agent],
    prompt: str | Path | Prompt = "policy.md",
    budget: int = 3,
    max_notices: int = 8,
    grammar: Grammar | None = None,
    hierarchical_reward: bool = False,
) -> CompiledStateGraph[Any, RolloutContext, Any, Any]:
    """The graph with agents.

    Args:
        agents: by name; each has its own budget, deadline and length besides.
        prompt: file with sections `assisted` and `solo`; see `policy_prompt`.
        budget: the most consults of one rollout. An agent that failed has been consulted, too.
        max_notices: after so many notices nothing is intercepted any more.
        grammar: tags and notices.
        hierarchical_reward: adds the reward parts of ARPO's reward; see `graphs.rewards`.

    Raises:
        ConfigError: an agent's name that cannot be a tag or a node.
        LoadError: no such prompt.
    """
    grammar = grammar or Grammar()
    allowed = _budgets(agents, budget)
    graph = StateGraph(ConsultState, context_schema=RolloutContext)
    graph.add_node("prompt", prompt_node(policy_prompt(prompt), agents=tuple(agents)))
    graph.add_node("policy", _policy_node(agents, allowed, max_notices, grammar))
    graph.add_node("notice", _notice_node(allowed, grammar))
    graph.add_node("score", score_node(grammar, by_form=hierarchical_reward))
    for name in agents:
        _check_name(name)
        graph.add_node(name, _agent_node(agents[name], grammar))
        graph.add_edge(name, "policy")
    graph.add_edge(START, "prompt")
    graph.add_edge("prompt", "policy")
    graph.add_conditional_edges("policy", _route, [*agents, "notice", "score"])
    graph.add_edge("notice", "policy")
    graph.add_edge("score", END)
    return graph.compile()


consult.tags = graph_tags  # pyright: ignore[reportFunctionMemberAccess]  # what policy.add_tags adds to a tokenizer
consult.grants = True  # pyright: ignore[reportFunctionMemberAccess]  # it asks `context.grants`: method.grant_steps


def _check_name(name: str) -> None:
    taken = {"prompt", "policy", "notice", "score", *ConsultState.__annotations__}
    if name in taken or not re.fullmatch(NAME, name):
        raise ConfigError(f"name of an agent: got {name!r}, allowed {NAME} except {sorted(taken)}")


def _budgets(agents: Mapping[str, Agent], budget: int) -> Callable[[ConsultState], list[str]]:
    """A function that says which agents may still be asked."""

    def allowed(state: ConsultState) -> list[str]:
        asked = state["asked"]
        if len(asked) >= budget:
            return []
        return [name for name, agent in agents.items() if asked.count(name) < agent.budget]

    return allowed


async def _route(state: ConsultState) -> str:
    request = state["request"]
    if request is None:
        return "score"
    return request.agent if request.fault is None else "notice"


def _policy_node(
    agents: Mapping[str, Agent],
    allowed: Callable[[ConsultState], list[str]],
    max_notices: int,
    grammar: Grammar,
) -> Node:
    async def policy(state: ConsultState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context, segments = runtime.context, state["segments"]
        if state["stops"] or context.room(segments) <= 0:
            return {**OUT_OF_ROOM, "request": None}
        notices = sum(s.role is Role.ENV for s in segments)
        listening = context.mode is Mode.ASSISTED and notices < max_notices
        piece, finish = await context.sample(segments, stop=(grammar.close,) if listening else ())
        request = None
        if listening and finish != "length":
            tokenizer = context.policies[POLICY].tokenizer
            request = _within(allowed(state), grammar.parse(tokenizer, piece.token_ids, agents))
            if request and request.fault is None and not context.grants(len(state["consults"])):
                request = replace(request, fault=Fault.DECLINED)
        stops = {} if request else {POLICY: StopReason(finish)}
        return {"segments": [piece], "request": request, "stops": stops}

    return policy


def _within(allowed: list[str], request: Request | None) -> Request | None:
    """The request, with a fault where the budgets forbid it."""
    if request is None:
        return None
    if not allowed:
        return replace(request, fault=Fault.EXHAUSTED)
    if request.fault is None and request.agent not in allowed:
        return replace(request, fault=Fault.SPENT)
    return request


def _notice_node(allowed: Callable[[ConsultState], list[str]], grammar: Grammar) -> Node:
    async def notice(state: ConsultState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        request = _request(state)
        assert request.fault is not None, "the router sends only faulty requests here"
        text = grammar.notice(request.fault, request.agent, allowed(state))
        told = _notify(state, runtime.context, grammar, request.fault, text, f"{request.fault}: {text}")
        # Who is declined has asked, too, or asking again would bring an answer in the end.
        return told | {"asked": [request.agent] if request.fault is Fault.DECLINED else []}

    return notice


def _agent_node(agent: Agent, grammar: Grammar) -> Node:
    sub_graph = agent.graph  # closed over by the node: so the drawing finds it

    async def ask(state: ConsultState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context, request = runtime.context, _request(state)
        tokenizer = context.policies[POLICY].tokenizer
        room = context.room(state["segments"]) - sum(map(len, grammar.frame(tokenizer, agent.name)))
        if room <= 0:
            return OUT_OF_ROOM
        calls = len(context.calls)
        reply, error = await _ask(
            agent.name,
            sub_graph,
            deadline=agent.deadline,
            question=context.task.prompt,
            context=_work_so_far(state, context, request),
            request=request.text,
        )
        if not reply:
            silent = [c.silent for c in context.calls[calls:] if c.agent == agent.name and c.silent]
            error = ", ".join([error, *silent[-1:]])
            text = grammar.notice(Fault.UNAVAILABLE, agent.name, ())
            told = _notify(state, context, grammar, Fault.UNAVAILABLE, text, error)
            return told | {"asked": [agent.name]}
        feedback = grammar.wrap(tokenizer, agent.name, reply, max_tokens=min(agent.max_tokens, room))
        said, unscored = await context.score_logprobs(
            agent.name, feedback.text, feedback.token_ids[feedback.reply], since=calls
        )
        logprobs = None if said is None else feedback.framed(said)
        piece = segment(Role.AGENT, agent.name, feedback.token_ids, logprobs=logprobs)
        error = ", ".join(filter(None, (feedback.change, unscored))) or None
        return _answer(state, piece, reply=feedback.text, error=error) | {"asked": [agent.name]}

    return ask


async def _ask(
    name: str, sub_graph: CompiledStateGraph[Any, Any, Any, Any], *, deadline: float, **given: Any
) -> tuple[str, str]:
    """The agent's reply, empty if there is none, and why there is none."""
    limit = asyncio.timeout(deadline)
    try:
        async with limit:
            answer = await sub_graph.ainvoke(given)
    except ParentCommand as error:
        raise GraphError(
            f"agent {name!r}: got Command(graph=Command.PARENT), allowed a 'reply' in its own state"
        ) from error
    except (GraphBubbleUp, ConfigError, GraphError, LoadError, ReplayError):
        raise  # LangGraph's own signals, mistakes of whoever wrote the agent, a replay's end: not an agent's failure
    except Exception as error:  # an agent is anybody's code: whatever it raises is data
        if limit.expired():
            return "", f"no reply within {deadline:g} s (agents.{name}.deadline)"
        if isinstance(error, NodeTimeoutError):
            late = f"no reply of step {error.node!r} within {error.timeout:g} s (agents.{name}.timeout)"
            return "", f"{type(error).__name__}: {late}"
        return "", error_text(error)
    return clean(str(answer.get("reply") or "")).strip(), "no reply"


def _request(state: ConsultState) -> Request:
    request = state["request"]
    assert request is not None, "the router sends only requests here"
    return request


def _work_so_far(state: ConsultState, context: RolloutContext, request: Request) -> str:
    """Text of the rollout after its prompt and before the request."""
    earlier = [s for s in state["segments"][:-1] if s.role is not Role.PROMPT]
    return context.policies[POLICY].tokenizer.decode(concatenate(earlier)) + request.before


def _notify(
    state: ConsultState, context: RolloutContext, grammar: Grammar, fault: Fault, text: str, error: str
) -> dict[str, Any]:
    token_ids = grammar.wrap_notice(context.policies[POLICY].tokenizer, text)
    if len(token_ids) > context.room(state["segments"]):
        return OUT_OF_ROOM
    return _answer(state, segment(Role.ENV, "notice", token_ids), error=error, fault=fault)


def _answer(
    state: ConsultState,
    piece: Segment,
    *,
    reply: str | None = None,
    error: str | None,
    fault: Fault | None = None,
) -> dict[str, Any]:
    """Appends what the policy is told, and the record of the consult."""
    request, asking = _request(state), len(state["segments"]) - 1
    consult = Consult(
        agent=request.agent,
        request=request.text,
        reply=reply,
        error=error,
        request_segment=asking,
        request_start=request.start,
        reply_segment=asking + 1,
        fault=fault,
    )
    return {"segments": [piece], "consults": [consult]}
