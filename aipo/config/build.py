"""From a configuration to the objects that it names. Nothing else sees `Config`."""

import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph.graph.state import CompiledStateGraph

from aipo.config.build_chat import build_chat, scored_chats
from aipo.config.build_policy import build_served, build_tokenizer, forbidden_ids, reference_weights
from aipo.config.load import Config
from aipo.config.schema import AgentConfig
from aipo.errors import ConfigError
from aipo.policies import Policy, Sampling
from aipo.rollout.agent import Agent, AgentSpec, check_agent, node_settings
from aipo.rollout.context import ChatModel
from aipo.rollout.engine import OnTrace, RolloutEngine
from aipo.rollout.env import Env
from aipo.rollout.graph import check_graph
from aipo.rollout.outage import FailureLimit
from aipo.rollout.prompt import Prompt, loaded_prompts
from aipo.rollout.reference_chat import Weights
from aipo.rollout.spending import CostLimit
from aipo.trace import Trace
from aipo.util.calling import call
from aipo.util.imports import fingerprint, load

if TYPE_CHECKING:
    from aipo.policies.vllm.policy import VLLMPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphs:
    """A built graph with its agents' chat models, and the files that all of it came from."""

    graph: CompiledStateGraph[Any, Any, Any, Any]
    chats: Mapping[str, ChatModel]
    files: Mapping[str, Path]
    fingerprints: Mapping[str, str]


def build_env(config: Config) -> Env:
    """The environment; one that takes a `seed` is given `run.seed` unless its options say otherwise."""
    loaded = load(config.env.name)
    return call(loaded, config.env.options, f"env.options of {config.env.name}", seed=config.run.seed)


def build_graphs(config: Config) -> Graphs:
    """The main graph with every agent's sub-graph in it.

    Raises:
        LoadError: a file, function, prompt or secret is missing.
        ConfigError: options that a function does not take.
        GraphError: a graph breaks the contract.
    """
    if config.rollout.cost_limit is not None and not any(a.prices for a in config.agents.values()):
        raise ConfigError(
            f"rollout.cost_limit: got {config.rollout.cost_limit:g} and no prices, which could never be "
            "reached, allowed a limit with agents.NAME.prices"
        )
    main = load(config.graph.name)
    with loaded_prompts() as prompts:
        weights = reference_weights(config)
        built = {
            name: _build_agent(name, agent, config.run.seed, weights) for name, agent in config.agents.items()
        }
        agents = {name: part.agent for name, part in built.items()}
        graph = check_graph(
            call(main, config.graph.options, f"graph.options of {main.name}", agents=agents), main.name
        )
    files = {"graph": main.file} | {f"agents.{name}": part.file for name, part in built.items()}
    files |= _beside(main.file, "graph", known=set(files.values()))
    files |= {f"prompts.{prompt.file.stem}": prompt.file for prompt in prompts}
    return Graphs(
        graph=graph,
        chats={name: part.chat for name, part in built.items() if part.chat is not None},
        files=files,
        fingerprints={name: fingerprint(file) for name, file in files.items()},
    )


def build_engine(config: Config, graphs: Graphs, policy: Policy, *, run_id: str) -> RolloutEngine:
    """Everything that a rollout needs."""
    return RolloutEngine(
        graph=graphs.graph,
        env=build_env(config),
        policies={"policy": policy},
        chats=scored_chats(config, graphs.chats),
        sampling=Sampling(temperature=config.rollout.temperature, max_tokens=config.rollout.max_tokens),
        forbidden_ids=forbidden_ids(config, policy),
        reward_weights=config.rollout.reward_weights,
        deadline=config.rollout.deadline,
        concurrency=config.rollout.concurrency,
        run_id=run_id,
        fingerprints=graphs.fingerprints,
    )


def worker_builds(
    config: Config, model: Path | str, policy: Policy, run_id: str
) -> list["Callable[[], tuple[RolloutEngine, VLLMPolicy]]"]:
    """What each worker process is to build; none where this process rolls out by itself.

    Args:
        model: folder or hub name of the policy's tokenizer.
        policy: this process's.
    """
    if config.rollout.workers == 1:
        return []
    vocabulary = policy.vocabulary  # type: ignore[attr-defined]
    return [
        partial(build_worker, _share(config, number), model, vocabulary, run_id)
        for number in range(config.rollout.workers)
    ]


def build_worker(
    config: Config, model: Path | str, vocabulary: int, run_id: str
) -> "tuple[RolloutEngine, VLLMPolicy]":
    """The engine and the policy of a worker process.

    Args:
        config: with this worker's share of `policy.vllm`.
        model: folder or hub name of the tokenizer.
        vocabulary: how many ids the network has.
    """
    policy = build_served(config, build_tokenizer(model), vocabulary)
    return build_engine(config, build_graphs(config), policy, run_id=run_id), policy


def _share(config: Config, number: int) -> Config:
    """The configuration for worker `number`: its part of the requests that a server may have in flight, and
    its own first server, or all would begin with the same one."""
    vllm, count = config.policy.vllm, config.rollout.workers
    first = number % len(vllm.servers)
    own = {
        "servers": vllm.servers[first:] + vllm.servers[:first],
        "requests": vllm.requests // count + (number < vllm.requests % count),
    }
    policy = config.policy.model_copy(update={"vllm": vllm.model_copy(update=own)})
    return config.model_copy(update={"policy": policy})


def build_guards(config: Config, spending: Path) -> OnTrace:
    """What looks at every finished rollout, and stops the run where a limit is reached.

    Args:
        spending: the run's file of what was spent.

    Raises:
        LimitError: what was spent before has reached the limit.
    """
    priced = [name for name, agent in config.agents.items() if agent.prices is not None]
    spent = CostLimit(spending, config.rollout.cost_limit, priced)
    outage = FailureLimit(config.rollout.failure_limit)

    def watch(trace: Trace) -> None:
        spent.add(trace)
        outage.add(trace)

    return watch


def manifest(config: Config, graphs: Graphs, model: Path | str) -> dict[str, Any]:
    """What a run is made of: versions, and file and fingerprint of each graph, prompt and file of the environment."""
    env = load(config.env.name).file
    files = {"env": env} | _beside(env, "env", known={env})
    packages = ("aipo", "torch", "transformers", "trl", "langgraph", "langchain-core")
    return {
        "model": str(model),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "files": {
            name: {"file": str(file), "fingerprint": graphs.fingerprints[name]}
            for name, file in graphs.files.items()
        }
        | {name: {"file": str(file), "fingerprint": fingerprint(file)} for name, file in files.items()},
    }


def drawing(graph: CompiledStateGraph[Any, Any, Any, Any]) -> dict[str, Any]:
    """Nodes (nested ones as `verify:check`), edges and the mermaid picture of a graph."""
    picture = graph.get_graph(xray=True)
    return {
        "nodes": list(picture.nodes),
        "edges": [
            {"from": edge.source, "to": edge.target, "conditional": edge.conditional}
            for edge in picture.edges
        ],
        "mermaid": picture.draw_mermaid(),
    }


def _beside(main: Path, kind: str, known: set[Path]) -> dict[str, Path]:
    """Other files of the same folder that were imported: an edit there changes rollouts, too."""
    imported = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    files = {Path(file).resolve() for file in imported if file} - known
    beside = sorted(file for file in files if file.parent == main.parent)
    return {f"{kind}.{file.stem}": file for file in beside if file.stem != "__init__"}


class _Built(NamedTuple):
    agent: Agent
    chat: ChatModel | None
    file: Path


def _build_agent(name: str, config: AgentConfig, seed: int, weights: Weights) -> _Built:
    loaded = load(config.graph)
    prompt = Prompt.load(config.prompt or loaded.file.parent / "prompts" / f"{name}.md")
    chat = build_chat(name, config, seed=seed, weights=weights)
    node = node_settings(
        attempts=config.attempts,
        timeout=config.timeout,
        cache=config.cache,
        model=chat.name if chat else loaded.name,
        prompt=prompt,
        settings=chat.settings if chat else {},
    )
    graph = check_agent(loaded.function(AgentSpec(name=name, prompt=prompt, node=node)), name)
    agent = Agent(
        name=name, graph=graph, budget=config.budget, deadline=config.deadline, max_tokens=config.max_tokens
    )
    return _Built(agent, chat, loaded.file)
