"""A collaborating agent: a sub-graph with a state of its own, one prompt file and its limits.

The consult graph asks an agent for a reply and knows nothing else about it. A sub-graph's factory is
`factory(spec: AgentSpec) -> CompiledStateGraph` over `AgentState`; its nodes take `**spec.node` so that
retries, timeouts and caching are the configuration's, not the graph's.
"""

import ast
import hashlib
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Protocol, TypedDict

from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import CachePolicy, RetryPolicy
from pydantic import Field, ValidationInfo, field_validator

from aipo.errors import ConfigError, GraphError
from aipo.rollout.prompt import Prompt
from aipo.util.http.reply import THINKING_TAGS
from aipo.util.http.retry import transient
from aipo.util.section import Count, Positive, Section, Variable, is_recorded, open_secrets


class AgentState(TypedDict):
    """The state of an agent: its input (`question`, `context`, `request`) and output (`reply`).

    `context` is the text of the rollout so far, up to the request. A sub-graph may add keys.
    """

    question: str
    context: str
    request: str
    reply: str


GIVEN = ("question", "context", "request")
"""Keys of `AgentState` that every step of an agent has from the beginning."""


class Message(Protocol):
    """Renders the section of one step as the one message of a chat."""

    def __call__(self, **variables: object) -> list[BaseMessage]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """The argument of a sub-graph's factory.

    Args:
        name: the name that the policy consults, and that chat calls are recorded under.
        steps: filled by `step`: the sections of the prompt that the graph uses, with their variables.
        node: keyword arguments for `StateGraph.add_node`: LangGraph's retry policy, time-out per
            attempt, and cache policy.
    """

    name: str
    prompt: Prompt
    node: Mapping[str, Any]
    steps: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def step(self, section: str, *variables: str) -> Message:
        """Says that the graph uses `section`, and returns what renders it. To be called where the graph is built, so
        that a prompt which does not fit is refused before anything runs.

        Args:
            variables: that the step has beside `question`, `context` and `request`.
        """
        self.steps[section] = (*GIVEN, *variables)
        return partial(self.message, section)

    def check_prompt(self, state: Collection[str], file: Path, factory: Callable[..., object]) -> None:
        """Refuses a prompt that does not fit the graph. Of sections that the graph does not declare by `step`, the texts
        in its code and in modules that it imports tell which it may use. Where the code computes the name of a section
        (`message(name)`), any other section may be used, too.

        Args:
            state: keys of the graph's state.
            file: the graph's code.
            factory: made the graph.

        Raises:
            LoadError: see `Prompt.check`.
        """
        names, computed = _names_in(_files_of(file, factory))
        sections = self.prompt.sections.keys()
        found = names & sections
        if self.steps or found:  # without one it has no use for a prompt
            used = sections if computed else found
            variables = {*state, *names}
            steps = {**dict.fromkeys(used, variables), **self.steps}
            self.prompt.check(steps, f"agent {self.name!r} (see AgentSpec.step)")

    def message(self, section: str, **variables: object) -> list[BaseMessage]:
        """The rendered section as the one message of a chat."""
        return [HumanMessage(self.prompt.render(section, **variables))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A built agent.

    Args:
        budget: the most consults of this agent in one rollout.
        deadline: seconds for one whole consult, retries included.
        max_tokens: the most tokens of one reply, in the policy's tokenizer.
    """

    name: str
    graph: CompiledStateGraph[Any, Any, Any, Any]
    budget: int
    deadline: float
    max_tokens: int


class Prices(Section):
    """Prices of a model's tokens: the section `agents.NAME.prices`."""

    input: float = Field(ge=0.0, description="price of a million prompt tokens")
    output: float = Field(ge=0.0, description="price of a million completion tokens")

    def cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """The cost of one call; None where the model did not say how much it read or wrote."""
        if tokens_in is None or tokens_out is None:
            return None
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


class ChatSettings(Section):
    """A LangChain chat model, and how it is called."""

    model: str | None = Field(None, description="LangChain chat model, 'module:callable'")
    options: dict[str, Any] = Field({}, description="keyword arguments of the chat model")
    secrets: dict[str, Variable] = Field({}, description="keyword argument: NAME of an environment variable")
    prices: Prices | None = Field(None, description="price of its model's tokens; default: free")
    thinking: dict[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]] = Field(
        THINKING_TAGS,
        description="tags around the model's thinking, opening: closing; it is recorded and left out of the reply",
    )
    timeout: Positive = Field(30.0, description="seconds for one attempt of one step")
    attempts: Count = Field(3, description="attempts of one step; only transient errors are tried again")

    @field_validator("options")
    @classmethod
    def _no_secrets(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Options are recorded in the run folder and in every trace, and printed."""
        if in_the_open := sorted(key for key, value in open_secrets(options) if not is_recorded(value, info)):
            raise ValueError(f"got {in_the_open} in the open, allowed `secrets` beside `options` instead")
        return options


def node_settings(
    *, attempts: int, timeout: float, cache: bool, model: str, prompt: Prompt, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments for `add_node`, with guard rails.

    LangGraph's default cache key leaves out the context, so that one model would be given another
    model's reply: ours carries the model, the prompt and the sampling settings.

    Raises:
        ConfigError: caching is on although the agent samples (temperature is not 0).
    """
    node: dict[str, Any] = {
        "retry_policy": RetryPolicy(
            initial_interval=0.2, max_interval=5.0, max_attempts=attempts, retry_on=transient
        ),
        "timeout": timeout,
    }
    if cache:
        temperature = settings.get("temperature")
        if temperature != 0:
            raise ConfigError(
                f"cache of model {model!r}: got temperature {temperature!r}, allowed 0 (a sampled reply is not the reply)"
            )
        identity = f"{model}\x1f{prompt.fingerprint}\x1f{sorted(settings.items())!r}"
        node["cache_policy"] = CachePolicy(key_func=partial(_cache_key, identity))
    return node


def _files_of(file: Path, factory: Callable[..., object]) -> set[Path]:
    """The graph's code, and the imported modules in which a section is rendered."""
    here: Mapping[str, object] = getattr(sys.modules.get(getattr(factory, "__module__", "")), "__dict__", {})
    names = {getattr(value, "__module__", getattr(value, "__name__", "")) for value in here.values()}
    paths = {getattr(sys.modules.get(str(name)), "__file__", None) for name in names}
    imported = {Path(path) for path in paths if path and path.endswith(".py")} - {Path(__file__)}
    return {file, *(path for path in imported if b".message(" in path.read_bytes())}


def _names_in(files: Collection[Path]) -> tuple[set[str], bool]:
    """Every text and every keyword of a call in Python files, and: does one call `message` with a name that is no text?"""
    tree = [node for file in files for node in ast.walk(ast.parse(file.read_bytes()))]
    keywords = {node.arg for node in tree if isinstance(node, ast.keyword) and node.arg}
    texts = {n.value for n in tree if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    # message('check') and partial(message, 'check')
    pairs = [pair for n in tree if isinstance(n, ast.Call) for pair in pairwise([n.func, *n.args])]
    named = [pair for pair in pairs if _is_message(pair[0]) and isinstance(pair[1], ast.Constant)]
    return keywords | texts, sum(map(_is_message, tree)) > len(named)


def _is_message(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "message"


def _cache_key(identity: str, state: Any) -> str:
    return hashlib.sha256(f"{identity}\x1f{sorted(state.items())!r}".encode()).hexdigest()


def check_agent(graph: object, name: str) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Refuses a sub-graph that does not take a request and give a reply.

    Raises:
        GraphError: not a compiled graph, or `request` or `reply` is not in its state.
    """
    if not isinstance(graph, CompiledStateGraph):
        raise GraphError(f"agent {name!r}: got {type(graph).__name__}, allowed a compiled StateGraph")
    if missing := sorted({"request", "reply"} - set(graph.channels)):
        raise GraphError(
            f"state of agent {name!r}: got no {missing}, allowed the keys of aipo.rollout.agent.AgentState"
        )
    check_no_pause(graph, f"agent {name!r}")
    return graph


def check_no_pause(graph: CompiledStateGraph[Any, Any, Any, Any], what: str) -> None:
    """Refuses a graph that was compiled to pause at a node: in a rollout there is nobody to go on with it.

    A sub-graph that LangGraph does not see, one in a dict, may never be called: a pause in it ends the rollout.

    Raises:
        GraphError: `interrupt_before` or `interrupt_after` of the graph or of one inside it.
    """
    inner = [(f"{what}, sub-graph {path!r}", sub) for path, sub in graph.get_subgraphs(recurse=True)]
    for where, one in [(what, graph), *inner]:
        for setting in ("interrupt_before", "interrupt_after"):
            if nodes := getattr(one, f"{setting}_nodes", ()):
                raise GraphError(f"{setting} of {where}: got {nodes!r}, allowed none in a rollout")
