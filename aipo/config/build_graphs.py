"""The environment, the graph and the agents' sub-graphs that a configuration names."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from langgraph.graph.state import CompiledStateGraph

from aipo.config.build_chat import build_chat
from aipo.config.build_policy import reference_weights
from aipo.config.schema import AgentConfig, Config
from aipo.errors import ConfigError
from aipo.method.task_order import draw_tasks
from aipo.rollout.agent import Agent, AgentSpec, check_agent, node_settings
from aipo.rollout.context import ChatModel
from aipo.rollout.demonstration import check_demonstrations
from aipo.rollout.env import Env
from aipo.rollout.graph import check_graph
from aipo.rollout.prompt import Prompt, loaded_prompts
from aipo.rollout.reference_chat import Weights
from aipo.util.imports import fingerprint, instantiate, load


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
    return instantiate(loaded, config.env.options, f"env.options of {config.env.name}", seed=config.run.seed)


def check_env(config: Config, env: Env) -> None:
    """Refuses a configuration that asks for splits or demonstrations which the environment does not have.

    Raises:
        ConfigError: names the splits, or says which one is too large for a step; or there are no demonstrations.
        TaskError: of some task there is none.
    """
    for key, names in (("env.mixture", config.env.mixture), ("evaluate.splits", config.evaluate.splits)):
        unknown = [name for name in names if name not in env.splits()]
        if unknown:
            raise ConfigError(f"{key}: got {unknown}, allowed {list(env.splits())}")
    draw_tasks(env, config.env.mixture, config.train.tasks_per_step, step=0, seed=config.run.seed)
    if config.method.plan == "expert":
        check_demonstrations(env, config.env.mixture)


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
            instantiate(main, config.graph.options, f"graph.options of {main.name}", agents=agents), main.name
        )
    files = {"graph": main.file} | {f"agents.{name}": part.file for name, part in built.items()}
    files |= files_beside(main.file, "graph", known=set(files.values()))
    files |= {f"prompts.{prompt.file.stem}": prompt.file for prompt in prompts}
    return Graphs(
        graph=graph,
        chats={name: part.chat for name, part in built.items() if part.chat is not None},
        files=files,
        fingerprints={name: fingerprint(file) for name, file in files.items()},
    )


def files_beside(main: Path, kind: str, known: set[Path]) -> dict[str, Path]:
    """Other files of the same folder or package that were imported: an edit there changes rollouts, too.

    `envs/miniature/agents.py` is `env.miniature.agents`, as its package is `envs`.
    """
    top, package = main.parent, (main.parent / "__init__.py").exists()
    while package and (top.parent / "__init__.py").exists():
        top = top.parent
    imported = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    # A path that is not absolute (torch.ops says '_ops.py') is no file of the working directory.
    files = {Path(file).resolve() for file in imported if file and Path(file).is_absolute()} - known
    beside = sorted(
        file for file in files if (file.is_relative_to(top) if package else file.parent == main.parent)
    )
    return {
        ".".join((kind, *file.relative_to(top).with_suffix("").parts)): file
        for file in beside
        if file.stem != "__init__"
    }


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
