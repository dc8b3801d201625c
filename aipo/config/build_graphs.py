"""The environment, the graph and the agents of an experiment, and the files that they come from."""

import inspect
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langgraph.graph.state import CompiledStateGraph

from aipo.config.build_chat import build_chat, build_scorer
from aipo.config.build_policy import PolicyBuilder
from aipo.errors import ConfigError
from aipo.method.task_order import draw_tasks
from aipo.render.sub_graphs import draw
from aipo.rollout.agent import Agent, AgentSpec, ChatSettings, check_agent, node_settings
from aipo.rollout.agent_logprobs import WHY
from aipo.rollout.chat.graph import is_chat_graph, rollout_graph
from aipo.rollout.context import ChatModel
from aipo.rollout.demonstration import EXPERT, check_demonstrations
from aipo.rollout.env import Env, Task, check_env, check_tasks
from aipo.rollout.prompt import Prompt, loaded_prompts
from aipo.util.imports import Loaded, fingerprint, instantiate, load, users_code

_PACKAGES = ("aipo", "torch", "transformers", "trl", "langgraph", "langchain-core")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphs:
    """A built graph with its agents' chat models, and the files that all of it came from."""

    graph: CompiledStateGraph[Any, Any, Any, Any]
    chats: Mapping[str, ChatModel]
    files: Mapping[str, Path]
    fingerprints: Mapping[str, str]


class GraphBuilder(PolicyBuilder):
    """Builds the environment, the graph and the agents' models, each once, when it is first used."""

    @cached_property
    def env(self) -> Env:
        """The environment; one that takes a `seed` is given `run.seed` unless its options say otherwise.

        Raises:
            LoadError: it cannot be imported, or its code fails.
            ConfigError: options that it does not take, or it is no environment.
        """
        where = f"env.options of {self.env_name}"
        with users_code(f"environment {self.env_name}"):
            env = instantiate(load(self.env_name), self._config.env.options, where, seed=self.seed)
            return check_env(env, self.env_name)

    def tasks(self, step: int) -> list[Task]:
        """The tasks of a rollout step, one for each group."""
        return draw_tasks(self.env, self.mixture, self.train.tasks_per_step, step=step, seed=self.seed)

    def check_env(self, *, training: bool = True) -> None:
        """Refuses splits or demonstrations which the environment does not have.

        Args:
            training: those that are trained on, too.

        Raises:
            ConfigError: names the splits, or says which one is too large for a step; or no demonstrations.
            TaskError: of some task there is none.
        """
        splits = list(self.env.splits())
        unknown = {
            key: strangers
            for key, names in (
                ("env.mixture", self.mixture if training else ()),
                (
                    "method.abilities.split",
                    [*filter(None, [self.method.abilities.split])] if training else (),
                ),
                ("evaluate.splits", self.evaluation.splits),
            )
            if (strangers := [name for name in names if name not in splits])
        }
        if unknown:
            got = " and ".join(f"{key}: got {names}" for key, names in unknown.items())
            raise ConfigError(
                f"{got}, allowed {splits}, the splits of {self.env_name}; set {' and '.join(unknown)}"
            )
        with users_code(f"tasks of {self.env_name}"):
            for split in dict.fromkeys((*(self.mixture if training else ()), *self.evaluation.splits)):
                check_tasks(self.env, split, self.env_name)
        if not training:
            return
        self.tasks(0)
        if self.method.plan == "expert":
            check_demonstrations(self.env, self.mixture)

    @cached_property
    def graphs(self) -> Graphs:
        """The graph with every agent's sub-graph in it, and the agents' chat models.

        Raises:
            LoadError: a file, function, prompt or secret is missing.
            ConfigError: options that a function does not take.
            GraphError: a graph breaks the contract.
        """
        limit = self.rollout.cost_limit
        priced = [*self.agents.values(), self.warmup.teacher]
        if limit is not None and not any(chat.prices for chat in priced):
            raise ConfigError(
                f"rollout.cost_limit: got {limit:g} and no prices, which could never be "
                "reached, allowed a limit with agents.NAME.prices"
            )
        main = load(self.graph_name)
        if self.peers and "policies" not in inspect.signature(main.function).parameters:
            raise ConfigError(
                f"graph.name: got {self.graph_name} with policies {list(self.peers)}, allowed a function with a parameter "
                "`policies`, whose graph runs all of them, such as graphs.idea3:idea3"
            )
        with loaded_prompts() as prompts:
            loaded = {name: load(agent.graph) for name, agent in self.agents.items()}
            chats = {name: self.chat(name) for name in self.agents}
            agents = {name: self._agent(name, loaded[name], chats[name]) for name in self.agents}
            where = f"graph.options of {main.name}"
            with users_code(f"graph {main.name}"):
                graph = instantiate(
                    main, self.graph_options, where, agents=agents, policies=self.policy_names
                )
                graph = rollout_graph(graph, main.name, self._config.graph.chat)
        if self.method.plan == "branching" and is_chat_graph(graph):
            raise ConfigError(
                f"method.plan: got branching with graph.name={main.name}, which calls the policy as a chat model, allowed "
                "independent: rollouts are forked from states that hold their segments"
            )
        files = {"graph": main.file} | {f"agents.{name}": part.file for name, part in loaded.items()}
        files |= _files_beside(main.file, "graph", known=set(files.values()))
        files |= {f"prompts.{prompt.file.stem}": prompt.file for prompt in prompts}
        return Graphs(
            graph=graph,
            chats={name: chat for name, chat in chats.items() if chat is not None},
            files=files,
            fingerprints={name: fingerprint(file) for name, file in files.items()},
        )

    def check_grants(self) -> None:
        """Refuses `method.grant_steps` where the graph does not say that it asks `RolloutContext.grants`.

        Raises:
            ConfigError: no request would ever be declined.
            LoadError: there is no such graph.
        """
        if self.method.grant_steps is not None and not getattr(
            load(self.graph_name).function, "grants", False
        ):
            raise ConfigError(
                f"method.grant_steps: got {self.method.grant_steps:g} with graph.name={self.graph_name}, which does not "
                "say that it declines requests, allowed a function with the attribute `grants = True` whose graph asks "
                "runtime.context.grants(n) (see graphs/README.md), or null"
            )

    def _agent(self, name: str, loaded: Loaded, chat: ChatModel | None) -> Agent:
        config = self.agents[name]
        prompt = Prompt.load(config.prompt or loaded.file.parent / "prompts" / f"{name}.md")
        node = node_settings(
            attempts=config.attempts,
            timeout=config.timeout,
            cache=config.cache,
            model=chat.name if chat else loaded.name,
            prompt=prompt,
            settings=chat.settings if chat else {},
        )
        spec = AgentSpec(name=name, prompt=prompt, node=node)
        with users_code(f"agent {name!r} of {loaded.name}"):
            graph = check_agent(loaded.function(spec), name)
        spec.check_prompt(graph.channels, loaded.file, loaded.function)
        return Agent(
            name=name,
            graph=graph,
            budget=config.budget,
            deadline=config.deadline,
            max_tokens=config.max_tokens,
        )

    def chat(self, name: str) -> ChatModel | None:
        """A new chat model of agent `name`; None where it has none.

        Raises:
            LoadError: it cannot be imported, or a secret is not set.
            ConfigError: options that it does not take.
        """
        return self.any_chat(f"agents.{name}", self.agents[name])

    def any_chat(self, key: str, settings: ChatSettings) -> ChatModel | None:
        """A new chat model of the section `key`; see `chat`."""
        return build_chat(key, settings, seed=self.seed, weights=self.reference_weights, env=lambda: self.env)

    def scored_chats(self) -> dict[str, ChatModel]:
        """The agents' chat models with the scorers of their log-probs, where the method needs them.

        Raises:
            ConfigError: an agent whose model has no log-probs of the distribution that it samples from; says why.
        """
        chats = self.graphs.chats
        _ = self.method.needs_mu(EXPERT)  # refuses what demonstrations do not have
        needed = [name for name in self.agents if self.method.needs_mu(name)]
        silent = sorted(set(needed) - chats.keys())
        if silent:
            raise ConfigError(
                f"agents.{silent[0]}.model: got none, allowed one whose log-probs can be had, {WHY}"
            )
        scored = {n: replace(chats[n], scorer=build_scorer(n, self.agents[n], chats[n])) for n in needed}
        return {**chats, **scored}

    def drawing(self) -> dict[str, Any]:
        """Nodes (nested ones as `verify:check`), edges and the mermaid picture of the graph."""
        picture = draw(self.graphs.graph)
        return {
            "nodes": list(picture.nodes),
            "edges": [
                {"from": edge.source, "to": edge.target, "conditional": edge.conditional}
                for edge in picture.edges
            ],
            "mermaid": picture.draw_mermaid(),
        }

    def manifest(self, model: Path | str) -> dict[str, Any]:
        """What a run is made of: preset, versions, and file and fingerprint of each graph, prompt, coefficient and file of
        the environment."""
        env = load(self.env_name).file
        files = {"env": env} | _files_beside(env, "env", known={env})
        for key, name in self.method.coefficient_files.items():
            files[key.removeprefix("method.")] = load(name).file
        prints = {**self.graphs.fingerprints, **{name: fingerprint(file) for name, file in files.items()}}
        return {
            "model": str(model),
            "preset": self.source,
            "python": platform.python_version(),
            "packages": {name: version(name) for name in _PACKAGES},
            "files": {
                name: {"file": str(file), "fingerprint": prints[name]}
                for name, file in {**self.graphs.files, **files}.items()
            },
        }


def _files_beside(main: Path, kind: str, known: set[Path]) -> dict[str, Path]:
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
