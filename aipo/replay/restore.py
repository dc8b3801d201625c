"""From a run folder to what replays it: its configuration, graph, environment, tokenizer and models.

A run folder may be anybody's. What its configuration names is imported only if it is defined in the packages
`graphs` and `envs` of whoever replays; everything else has to be named on the command line.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aipo.config.build import Graphs, build_env, build_graphs
from aipo.config.build_chat import chat_identity, prices_of, scored_chats
from aipo.config.load import Config, load_config
from aipo.errors import ConfigError, RunError
from aipo.policies import Sampling
from aipo.replay.chat import AgentModel, Question
from aipo.replay.engine import Replay, shared_calls
from aipo.replay.policy import AbsentPolicy
from aipo.replay.recordings import Recordings
from aipo.rollout.engine import RolloutEngine
from aipo.run import tokenizer_of
from aipo.trace import Call, Trace
from aipo.util.imports import load

if TYPE_CHECKING:
    from aipo.policies.tokenizer import HFTokenizer

_OURS = re.compile(r"((?:graphs|envs)(?:\.\w+)*):(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A run that can be replayed; `config` is as recorded, with the overrides."""

    config: Config
    recordings: Recordings
    graphs: Graphs
    replay: Replay
    tokenizer: "HFTokenizer"

    def changed(self, trace: Trace) -> set[str]:
        """Files of graphs, agents and prompts that are not what they were when `trace` was recorded."""
        now, then = self.graphs.fingerprints, trace.fingerprints
        return {name for name in then.keys() & now.keys() if then[name] != now[name]}


def recorded_config(
    recordings: Recordings, overrides: Sequence[str], *, file: Path | None = None, live: bool = False
) -> Config:
    """The configuration of the recorded run, with overrides.

    Args:
        file: a configuration to use instead.
        live: chat models will be built, so that their names have to be good, too.

    Raises:
        RunError: the run has none.
        ConfigError: an override that does not fit, or a name that is not imported unless somebody names it.
    """
    file = file or recordings.run.config
    if not file.is_file():
        raise RunError(
            f"configuration of the traces in {recordings.folder}: got no {file}, allowed a run's (or --config FILE)"
        )
    config = load_config(str(file), overrides)
    names = {"graph.name": config.graph.name, "env.name": config.env.name}
    names |= {f"agents.{name}.graph": agent.graph for name, agent in config.agents.items()}
    if live:
        names |= {f"agents.{name}.model": a.model for name, a in config.agents.items() if a.model is not None}
    for key, name in names.items():
        check_name(key, name, overrides)
    return config


def prompt_overrides(config: Config, folder: Path) -> list[str]:
    """Overrides that put prompts of `folder` in the place of those that the configuration uses: `NAME.md` in
    that of an agent's, and a file that is called as the graph's own prompt in that of the graph's.

    Raises:
        ConfigError: the folder holds none that the configuration uses.
    """
    own = Path(str(config.graph.options.get("prompt", "policy.md"))).name
    wanted = {f"agents.{name}.prompt": f"{name}.md" for name in config.agents}
    wanted["graph.options.prompt"] = own
    found = {key: folder / name for key, name in wanted.items() if (folder / name).is_file()}
    if not found:
        raise ConfigError(f"--prompts: got {folder}, allowed a folder with one of {sorted(wanted.values())}")
    return [f"{key}={json.dumps(str(file.resolve()))}" for key, file in found.items()]


def unused_prompts(config: Config, folder: Path) -> list[str]:
    """Files of a folder of prompts that the configuration does not use: maybe a slip of somebody's finger."""
    used = {str(agent.prompt) for agent in config.agents.values()} | {str(config.graph.options.get("prompt"))}
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path.name for path in files if str(path.resolve()) not in used)


def check_name(key: str, name: str, overrides: Sequence[str]) -> None:
    """Refuses to import what only a recorded configuration names.

    Raises:
        ConfigError: `name` is not defined in `graphs` or `envs`, and no override gives it.
        LoadError: it does not exist.
    """
    if any(f"{key}.".startswith(f"{word.partition('=')[0]}.") for word in overrides):
        return
    ours = _OURS.fullmatch(name)
    if ours is None or getattr(load(name).function, "__module__", None) != ours[1]:
        raise ConfigError(
            f"{key}: got {name!r} from the recorded configuration, allowed what is defined in graphs or envs. "
            f"If you trust it, name it yourself: {key}={name}"
        )


def restore(
    recordings: Recordings,
    config: Config,
    *,
    run_id: str,
    live: bool = False,
    as_configured: bool = False,
) -> Restored:
    """Builds what replays `recordings`.

    Args:
        run_id: of the replayed traces.
        live: build the agents' chat models. The policy that goes on where a recording ends comes from
            `aipo.replay.checkpoints`; without both the replay is frozen.
        as_configured: sample with the configuration's temperature and limits, not with each rollout's own.

    Raises:
        LoadError, ConfigError, GraphError: see `aipo.config.build`.
        RunError: the run has no tokenizer.
    """
    graphs = build_graphs(_buildable(config, live=live))
    tokenizer = recorded_tokenizer(recordings)
    settings = config.rollout
    limits = Sampling(temperature=settings.temperature, max_tokens=settings.max_tokens)
    engine = RolloutEngine(
        graph=graphs.graph,
        env=build_env(config),
        policies={"policy": AbsentPolicy(tokenizer)},
        chats={},
        sampling=limits,
        reward_weights=settings.reward_weights,
        deadline=settings.deadline,
        concurrency=settings.concurrency,
        run_id=run_id,
        fingerprints=graphs.fingerprints,
    )
    recordings.vocabulary, recordings.rerun = len(tokenizer), True
    replay = Replay(
        engine=engine,
        tokenizer=tokenizer,
        agents=_agent_models(config, graphs),
        sampling=limits if as_configured else None,
        shared=_cached(recordings, config),
    )
    return Restored(
        config=config,
        recordings=recordings,
        graphs=graphs,
        replay=replay,
        tokenizer=tokenizer,
    )


def recorded_tokenizer(recordings: Recordings) -> "HFTokenizer":
    """The tokenizer that the traces were recorded with.

    Raises:
        RunError: the run did not keep one.
    """
    from transformers import AutoTokenizer

    from aipo.policies.tokenizer import HFTokenizer

    folder = tokenizer_of(recordings.run)
    if folder is None:
        raise RunError(
            f"tokenizer of the traces in {recordings.folder}: got none, "
            f"allowed tokenizer/ or model/ in {recordings.run.path}"
        )
    return HFTokenizer(AutoTokenizer.from_pretrained(folder))


def _buildable(config: Config, *, live: bool) -> Config:
    """Without chat models where nobody may be asked. Nothing is cached: what one rollout is told must not
    depend on which came first."""
    changes = {"cache": False} if live else {"cache": False, "model": None, "prices": None}
    agents = {name: agent.model_copy(update=changes) for name, agent in config.agents.items()}
    rollout = config.rollout if live else config.rollout.model_copy(update={"cost_limit": None})
    return config.model_copy(update={"agents": agents, "rollout": rollout})


def _agent_models(config: Config, graphs: Graphs) -> dict[str, AgentModel]:
    # Frozen, nobody is asked; live, whoever was asked for log-probs is asked again.
    scored = scored_chats(config, graphs.chats) if graphs.chats else {}
    chats = {name: scored.get(name) for name in config.agents}
    return {
        name: AgentModel(
            *chat_identity(config.agents[name]),
            live=chat.model if chat else None,
            prices=prices_of(config.agents[name]),
            scorer=chat.scorer if chat else None,
        )
        for name, chat in chats.items()
        if config.agents[name].model is not None
    }


def _cached(recordings: Recordings, config: Config) -> Mapping[Question, Call]:
    """Replies that a cache may have given: they left no call where they were given."""
    agents = [name for name, agent in config.agents.items() if agent.cache]
    if not agents:
        return {}
    everything = Recordings(path=recordings.path)
    return shared_calls((trace for traces in everything for trace in traces), agents)
