"""Small parts that the tests of `graphs` share: chat models, agents and one rollout."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import Field

import graphs
from aipo.policies import Policy, Sampling
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy
from aipo.rollout.agent import Agent, AgentSpec, AgentState, check_agent, node_settings
from aipo.rollout.context import ChatModel, RolloutContext
from aipo.rollout.env import Task
from aipo.rollout.prompt import Prompt
from aipo.trace import Mode, Role

NAMES = ("verify", "knowledge", "reasoning")
TOKENIZER = CharTokenizer(
    [
        *(f"<consult:{name}>" for name in NAMES),
        *(f"<feedback:{name}>" for name in NAMES),
        *("</consult>", "</feedback>"),
    ]
)
PROMPTS = Path(graphs.__file__).parent / "prompts"


class FunctionChat(BaseChatModel):
    """A chat model that is a function from the prompt's text to the reply, and keeps what it was asked."""

    function: Callable[[str], str]
    seen: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "function"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        text = str(messages[-1].text)
        self.seen.append(text)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.function(text)))])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return self._generate(messages)


class SilentChat(FunctionChat):
    """Never replies; `cancelled` counts how often it was told to give up."""

    function: Callable[[str], str] = str
    cancelled: list[str] = Field(default_factory=list)

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.seen.append(str(messages[-1].text))
        try:
            return await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.append("cancelled")
            raise


class HTTPError(Exception):
    """What the clients of model servers raise."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.status_code = status_code


class LengthEnv:
    """Scores how many characters the policy wrote, and keeps the text."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def splits(self) -> tuple[str, ...]:
        return ("s",)

    def tasks(self, split: str) -> Sequence[Task]:
        return ()

    def score(self, task: Task, text: str) -> dict[str, float] | None:
        self.texts.append(text)
        return {"length": float(len(text))} if text else None


def build_spec(name: str, *, prompt: Path | None = None, **changes: Any) -> AgentSpec:
    """An agent's spec; `changes` are arguments of `node_settings`."""
    text = Prompt.load(prompt or PROMPTS / f"{name}.md")
    given = {"attempts": 3, "timeout": 60.0, "cache": False, "model": "m", "settings": {}} | changes
    return AgentSpec(name=name, prompt=text, node=node_settings(prompt=text, **given))


def build_agent(
    factory: Callable[[AgentSpec], Any],
    name: str,
    *,
    budget: int = 9,
    deadline: float = 60.0,
    max_tokens: int = 64,
    **spec: Any,
) -> Agent:
    graph = check_agent(factory(build_spec(name, **spec)), name)
    return Agent(name=name, graph=graph, budget=budget, deadline=deadline, max_tokens=max_tokens)


def sub_graph(node: Callable[..., Any], **settings: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    """An agent's graph of one node, called as its function."""
    builder = StateGraph(AgentState, context_schema=RolloutContext)
    builder.add_node(node, **settings)
    builder.add_edge(START, node.__name__)
    return builder.compile()


def build_context(
    script: Sequence[str] | Callable[[str], str] | Policy,
    *,
    chats: Mapping[str, BaseChatModel] | None = None,
    mode: Mode = Mode.ASSISTED,
    max_tokens: int = 500,
    prompt: str = "3@7+5=?\n",
) -> RolloutContext:
    policy = script if hasattr(script, "sample") else ScriptedPolicy(TOKENIZER, script)
    return RolloutContext(
        task=Task(task_id="t", prompt=prompt, answer=None, split="s"),
        mode=mode,
        env=LengthEnv(),
        policies={"policy": policy},
        chats={n: ChatModel(model=m, name=f"model of {n}") for n, m in (chats or {}).items()},
        sampling=Sampling(max_tokens=max_tokens),
        seed=1,
    )


def roll(graph: Any, context: RolloutContext) -> dict[str, Any]:
    """Final state of one rollout."""
    return asyncio.run(graph.ainvoke({"segments": []}, context=context))


def shown(state: Mapping[str, Any]) -> list[tuple[Role, str, str]]:
    """Role, source and text of every segment."""
    decode = TOKENIZER.decode
    return [(s.role, s.source, decode(s.token_ids)) for s in state["segments"]]
