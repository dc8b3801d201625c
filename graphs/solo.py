"""The plainest rollout: prompt → policy → score. Nobody helps and nothing is intercepted."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from aipo.rollout import Prompt, RolloutContext, RolloutState
from aipo.trace import Mode, Role, StopReason, segment
from graphs.protocol import Grammar, graph_tags
from graphs.rewards import hierarchical

POLICY = "policy"
PROMPTS = Path(__file__).parent / "prompts"

Node = Callable[..., Awaitable[dict[str, Any]]]


def solo(
    *, prompt: str | Path | Prompt = "policy.md", grammar: Grammar | None = None
) -> CompiledStateGraph[Any, RolloutContext, Any, Any]:
    """The graph without agents.

    Args:
        prompt: file with a section `solo`; see `policy_prompt`.
        grammar: tags of requests, which a policy that was trained with agents may write here, too.

    Raises:
        LoadError: no such file.
    """
    graph = StateGraph(RolloutState, context_schema=RolloutContext)
    graph.add_node("prompt", prompt_node(policy_prompt(prompt), agents=()))
    graph.add_node("policy", _policy)
    graph.add_node("score", score_node(grammar or Grammar()))
    graph.add_edge(START, "prompt")
    graph.add_edge("prompt", "policy")
    graph.add_edge("policy", "score")
    graph.add_edge("score", END)
    return graph.compile()


solo.tags = graph_tags  # pyright: ignore[reportFunctionMemberAccess]  # the same model, with and without agents


def policy_prompt(prompt: str | Path | Prompt) -> Prompt:
    """A prompt file of `graphs/prompts` by its name, or any other file by its path.

    Raises:
        LoadError: no such file.
    """
    if isinstance(prompt, Prompt):
        return prompt
    inside = PROMPTS / prompt
    return Prompt.load(inside if inside.is_file() or not Path(prompt).is_file() else Path(prompt))


def prompt_node(prompt: Prompt, *, agents: Sequence[str]) -> Node:
    """A node that writes the first segment. Without agents it is always the section `solo`.

    Raises:
        LoadError: the prompt has other sections or variables; see `Prompt.check`.
    """
    variables = ("question", "agents")
    optional = () if agents else ("assisted",)
    prompt.check({"assisted": variables, "solo": variables}, "the policy", optional=optional)

    async def write_prompt(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context = runtime.context
        section = "assisted" if context.mode is Mode.ASSISTED and agents else "solo"
        text = prompt.render(section, question=context.task.prompt, agents=agents)
        token_ids = context.policies[POLICY].tokenizer.encode_prompt(text, untrusted=context.task.prompt)
        return {"segments": [segment(Role.PROMPT, "prompt", token_ids)]}

    return write_prompt


async def _policy(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    piece, finish = await runtime.context.sample(state["segments"])
    return {"segments": [piece], "stops": {POLICY: StopReason(finish)}}


def score_node(grammar: Grammar, *, by_form: bool = False) -> Node:
    """A node that scores the answer. A request to an agent is no part of it, whether anybody answers it or not.

    Args:
        by_form: with the parts of `graphs.rewards.hierarchical`.
    """

    async def score(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context = runtime.context
        text = context.answer(state["segments"], read=grammar.without_requests)
        parts = await context.score(text)
        if by_form:
            parts = hierarchical(parts, state["consults"], state["stops"].get(POLICY))
        return {"reward_parts": {POLICY: parts}}

    return score
