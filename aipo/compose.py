"""From a configuration to the objects that it names. Nothing else sees `Config`."""

import inspect
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph.graph.state import CompiledStateGraph
from pydantic import ConfigDict, ValidationError, validate_call

from aipo.agent import Agent, AgentSpec, check_agent, node_settings
from aipo.config import Config
from aipo.errors import ConfigError, LoadError
from aipo.graph import ChatModel, check_graph
from aipo.loading import Loaded, fingerprint, load
from aipo.policies import Sampling
from aipo.progress import Note
from aipo.prompt import Prompt, loaded_prompts
from aipo.rollout import RolloutEngine
from aipo.sections import AgentConfig
from aipo.task import Env

if TYPE_CHECKING:
    from aipo.policies.local import LocalPolicy


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
    return _call(loaded, config.env.options, f"env.options of {config.env.name}", seed=config.run.seed)


def build_graphs(config: Config) -> Graphs:
    """The main graph with every agent's sub-graph in it.

    Raises:
        LoadError: a file, function, prompt or secret is missing.
        ConfigError: options that a function does not take.
        GraphError: a graph breaks the contract.
    """
    main = load(config.graph.name)
    with loaded_prompts() as prompts:
        built = {name: _build_agent(name, agent, config.run.seed) for name, agent in config.agents.items()}
        agents = {name: part.agent for name, part in built.items()}
        graph = check_graph(
            _call(main, config.graph.options, f"graph.options of {main.name}", agents=agents), main.name
        )
    files = {"graph": main.file} | {f"agents.{name}": part.file for name, part in built.items()}
    files |= _beside(main.file, known=set(files.values()))
    files |= {f"prompts.{prompt.file.stem}": prompt.file for prompt in prompts}
    return Graphs(
        graph=graph,
        chats={name: part.chat for name, part in built.items() if part.chat is not None},
        files=files,
        fingerprints={name: fingerprint(file) for name, file in files.items()},
    )


def build_model(config: Config, note: Note) -> Path | str:
    """Folder or hub name of the policy's weights; runs the function that makes them if one is named."""
    name = config.policy.model
    model: Path | str = name
    if ":" in name:
        _quiet()

        def follow(step: int, steps: int, loss: float) -> None:
            note(step, steps, f"loss {loss:.3f}")

        offered = {"seed": config.run.seed, "progress": follow}
        model = _call(load(name), config.policy.options, f"policy.options of {name}", **offered)
    note(1, 1, str(model))
    return model


def build_policy(config: Config, model: Path | str) -> "LocalPolicy":
    """The policy, in this process.

    Raises:
        LoadError: there is no model at `model`.
    """
    # Heavy: `aipo graph` composes without a policy and must not wait for torch.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aipo.policies.local import LocalPolicy
    from aipo.policies.tokenizer import HFTokenizer

    _quiet()
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    device = config.policy.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, config.policy.dtype))
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise LoadError(
            f"policy.model: got {str(model)!r}, allowed a folder or hub name of a causal language model: {error}"
        ) from error
    network.to(device)
    return LocalPolicy(network, HFTokenizer(tokenizer), max_batch=config.policy.max_batch)


def forbidden_ids(config: Config, policy: "LocalPolicy") -> tuple[int, ...]:
    """Ids of the tags that a rollout with forbidden tags cannot write.

    Raises:
        ConfigError: such rollouts are asked for, and a tag is not one token.
    """
    tags = [tag.format(agent=name) for tag in config.rollout.forbid_tags for name in config.agents]
    ids = {tag: policy.tokenizer.token_id(tag) for tag in tags}
    broken = [tag for tag, token_id in ids.items() if token_id is None]
    method = config.method
    wanted = method.forbid_share > 0 or method.distil > 0 or "forbid" in config.evaluate.settings
    if broken and wanted:
        raise ConfigError(
            f"rollout.forbid_tags: got {broken}, which this tokenizer cuts into several tokens, allowed tags of "
            "one token (add them to the tokenizer, or set rollout.forbid_tags; or do without: method.forbid_share=0, "
            "method.distil=0, no `forbid` in evaluate.settings)"
        )
    return tuple(sorted(i for i in ids.values() if i is not None))


def build_engine(config: Config, graphs: Graphs, policy: "LocalPolicy", *, run_id: str) -> RolloutEngine:
    """Everything that a rollout needs."""
    return RolloutEngine(
        graph=graphs.graph,
        env=build_env(config),
        policies={"policy": policy},
        chats=graphs.chats,
        sampling=Sampling(temperature=config.rollout.temperature, max_tokens=config.rollout.max_tokens),
        forbidden_ids=forbidden_ids(config, policy),
        reward_weights=config.rollout.reward_weights,
        deadline=config.rollout.deadline,
        concurrency=config.rollout.concurrency,
        run_id=run_id,
        fingerprints=graphs.fingerprints,
    )


def manifest(graphs: Graphs, model: Path | str) -> dict[str, Any]:
    """What a run was made of: versions, and file and fingerprint of each graph and prompt."""
    packages = ("aipo", "torch", "transformers", "trl", "langgraph", "langchain-core")
    return {
        "model": str(model),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "files": {
            name: {"file": str(file), "fingerprint": graphs.fingerprints[name]}
            for name, file in graphs.files.items()
        },
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


def _quiet() -> None:
    """transformers shows bars of its own for what takes a millisecond here."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _beside(main: Path, known: set[Path]) -> dict[str, Path]:
    """Other files of the graph's folder that were imported: an edit there changes rollouts, too."""
    imported = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    files = {Path(file).resolve() for file in imported if file} - known
    beside = sorted(file for file in files if file.parent == main.parent)
    return {f"graph.{file.stem}": file for file in beside if file.stem != "__init__"}


class _Built(NamedTuple):
    agent: Agent
    chat: ChatModel | None
    file: Path


def _build_agent(name: str, config: AgentConfig, seed: int) -> _Built:
    loaded = load(config.graph)
    prompt = Prompt.load(config.prompt or loaded.file.parent / "prompts" / f"{name}.md")
    chat = _build_chat(name, config, seed)
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


_SECRET = re.compile(r"(key|token|secret|password)$", re.IGNORECASE)


def _build_chat(name: str, config: AgentConfig, seed: int) -> ChatModel | None:
    if config.model is None:
        return None
    secrets = {key: os.environ.get(variable) for key, variable in config.secrets.items()}
    unset = [config.secrets[key] for key, value in secrets.items() if value is None]
    if unset:
        raise LoadError(
            f"agents.{name}.secrets: got no environment variable {unset}, allowed one that is set"
        )
    where = f"agents.{name}.options of {config.model}"
    if "max_retries" in config.options:
        raise ConfigError(f"{where}: got max_retries, allowed agents.{name}.attempts instead")
    # Options are written to the run folder and to every trace.
    if open_secrets := sorted(filter(_SECRET.search, config.options)):
        raise ConfigError(f"{where}: got {open_secrets} in the open, allowed agents.{name}.secrets instead")
    loaded = load(config.model)
    # Our nodes retry on what is transient and nothing else; a client that retries by itself hides it.
    offered = {"max_retries": 0} if inspect.isclass(loaded.function) else {"seed": seed}
    model = _call(loaded, {**config.options, **secrets}, where, **offered)
    label, settings = chat_identity(config)
    return ChatModel(model=model, name=label, settings=settings)


def chat_identity(config: AgentConfig) -> tuple[str, dict[str, Any]]:
    """Name and settings of an agent's chat model, as calls record them."""
    label = str(config.options.get("model", config.model))
    # The class too: a cached reply of one provider is not another's, though the model's name be the same.
    return label, {"class": config.model, **config.options}


_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _call(loaded: Loaded, options: Mapping[str, Any], where: str, /, **offered: Any) -> Any:
    """Calls what was loaded; gives it those of `offered` that it takes and `options` leaves out."""
    parameters = inspect.signature(loaded.function).parameters
    keywords = {k: v for k, v in offered.items() if k in parameters} | dict(options)
    required = {k for k, p in parameters.items() if p.default is p.empty and p.kind not in _STARRED}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = sorted(set(keywords) - set(parameters)) if not open_ended else []
    if unknown:
        raise ConfigError(f"{where}: got {unknown}, allowed {sorted(parameters)}")
    # One that is open-ended may know an argument by another name.
    missing = sorted(required - set(keywords)) if not open_ended else []
    if missing:
        raise ConfigError(f"{where}: got no {missing}, allowed a value for each of {sorted(required)}")
    try:
        if inspect.isclass(loaded.function):
            return loaded.function(**keywords)
        checked: Any = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(loaded.function)
        return checked(**keywords)
    except ValidationError as error:
        # Neither pydantic's text nor its error as a cause: both show values, and secrets are among them.
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise ConfigError(f"{where}: {wrong}") from None
