"""Restores from a run folder what a replay needs: experiment, graph, environment, tokenizer, models.

A run folder may be anybody's. A name in its configuration is imported only if it is defined in the packages
`graphs` and `envs` of this installation; any other code has to be named on the command line.
"""

import datetime
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aipo.config.build import Experiment, load_experiment
from aipo.config.build_chat import chat_identity
from aipo.errors import ConfigError, RunError
from aipo.policies.scripted import ScriptedPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.replay.chat import AgentModel, Question
from aipo.replay.engine import Replay, shared_calls
from aipo.replay.output import replay_folder
from aipo.replay.recordings import Recordings
from aipo.rollout.context import ChatModel
from aipo.run import RunFolder, tokenizer_of
from aipo.trace import Call
from aipo.trace.store import TraceStore
from aipo.util.imports import load

_OURS = re.compile(r"((?:graphs|envs)(?:\.\w+)*):(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A run that can be replayed.

    Args:
        experiment: as recorded, with the overrides.
        built: the same without what a replay does not build: caches, and without live models the chat models.
    """

    experiment: Experiment
    built: Experiment
    recordings: Recordings
    replay: Replay
    tokenizers: Mapping[str, HFTokenizer]

    @contextmanager
    def folder(
        self, question: str, out: Path, live: str | None = None, *, trainable: bool = True
    ) -> Generator[RunFolder]:
        """The folder of a replay that runs its graph; of several policies that of the replayed one, and `out` holds those of all,
        as the source does. `live`: the policy that continues where recordings end."""

        def taken(
            recordings: Recordings, out: Path, experiment: Experiment
        ) -> AbstractContextManager[RunFolder]:
            model = recordings.run.read_manifest().get("model") or experiment.policy.model
            facts = self.built.manifest(model) | ({"live": live} if live else {})
            drawing = self.built.drawing()
            return replay_folder(
                recordings, question, out, experiment, facts, drawing=drawing, trainable=trainable
            )

        with ExitStack() as stack:
            folder = stack.enter_context(taken(self.recordings, out, self.experiment))
            for name in self.experiment.peers:
                one = self.recordings.by_policy[name]
                of_policy = folder.of_policy(name)
                stack.enter_context(taken(one, of_policy.path, self.experiment.of_policy(name)))
            own = self.recordings.run.path.name
            yield folder.of_policy(own) if self.experiment.peers else folder

    def stores(self, folder: RunFolder, stack: ExitStack) -> dict[str, TraceStore]:
        """Where the traces of each policy go; `folder`: see there."""
        return {
            name: stack.enter_context(
                TraceStore(
                    (RunFolder(folder.path.with_name(name)) if self.experiment.peers else folder).traces,
                    decode=tokenizer.decode,
                )
            )
            for name, tokenizer in self.tokenizers.items()
        }


def recorded_experiment(
    recordings: Recordings, overrides: Sequence[str], *, file: Path | None = None, live: bool = False
) -> Experiment:
    """The experiment of the recorded run, with overrides; its graph, environment and agents may be imported.

    Args:
        file: a configuration to use instead.
        live: chat models will be built, so that their names are checked, too.

    Raises:
        RunError: the run has no configuration.
        ConfigError: an override that does not fit, or a name that is only imported if an override gives it.
    """
    whole = recordings.whole
    config = recordings.config if whole.path == recordings.run.path else whole.config
    experiment = load_experiment(str(file or config), overrides, of_run=file is None)
    if experiment.settings["run"]["date"] is None:
        experiment.date = recordings.run.read_date() or experiment.date
    agents = experiment.agents.items()
    names = {"graph.name": experiment.graph_name, "env.name": experiment.env_name}
    names |= {f"agents.{name}.graph": agent.graph for name, agent in agents}
    if live:
        names |= {f"agents.{name}.model": agent.model for name, agent in agents if agent.model is not None}
    for key, name in names.items():
        check_name(key, name, overrides)
    return experiment


def check_coefficient(experiment: Experiment, overrides: Sequence[str]) -> None:
    """Refuses to import a coefficient that only a recorded configuration names.

    Raises:
        ConfigError: it is a user's function, not defined in `graphs` or `envs`, and no override gives it.
    """
    for key, name in experiment.method.coefficient_files.items():
        check_name(key, name, overrides)


def prompt_files(experiment: Experiment, folder: Path) -> dict[str, Path]:
    """Files of a folder of prompts by the setting that they replace: `NAME.md` for agent NAME, and for the graph's own
    prompts files with the names that its options say.

    Raises:
        ConfigError: the folder has no prompt that the experiment uses.
    """
    names = {f"agents.{name}.prompt": f"{name}.md" for name in experiment.agents}
    options = {"prompt": "policy.md", **experiment.graph_options}
    names |= {
        f"graph.options.{key}": Path(text).name for key, text in options.items() if str(text).endswith(".md")
    }
    files = {key: folder / name for key, name in names.items() if (folder / name).is_file()}
    if not files:
        raise ConfigError(f"--prompts: got {folder}, allowed a folder with one of {sorted(names.values())}")
    return files


def check_name(key: str, name: str, overrides: Sequence[str]) -> None:
    """Refuses to import code that only a recorded configuration names.

    Raises:
        ConfigError: `name` is not defined in `graphs` or `envs`, and no override gives it.
        LoadError: it does not exist.
    """
    if any(f"{key}.".startswith(f"{word.partition('=')[0]}.") for word in overrides):
        return
    ours = _OURS.fullmatch(name)
    # A package exports what its modules define.
    module = f"{getattr(load(name).function, '__module__', None)}." if ours else ""
    if ours is None or not module.startswith(f"{ours[1]}."):
        raise ConfigError(
            f"{key}: got {name!r} from the recorded configuration, allowed what is defined in graphs or envs. "
            f"If you trust it, name it yourself: {key}={name}"
        )


def restore(
    recordings: Recordings,
    experiment: Experiment,
    *,
    run_id: str,
    live: bool = False,
    as_configured: bool = False,
) -> Restored:
    """Builds what replays `recordings`, as traces of the run `run_id`.

    Args:
        live: build the agents' chat models. The policy that continues where a recording ends comes from
            `aipo.replay.checkpoints`; without both the replay is frozen.
        as_configured: sample with the configuration's temperature and limits, not with each rollout's own.

    Raises:
        LoadError, ConfigError, GraphError: see `aipo.config.build`.
        RunError: the run has no tokenizer.
    """
    built = _without_caches(experiment, live=live)
    tokenizers = dict[str, HFTokenizer]()
    for name, one in recordings.by_policy.items():
        tokenizers[name] = recorded_tokenizer(one, experiment.date)
        one.vocabulary, one.rerun = len(tokenizers[name]), True
    # Each rollout gets policies and forbidden ids of its own.
    policies = {name: ScriptedPolicy(tokenizer, ()) for name, tokenizer in tokenizers.items()}
    engine = built.engine(policies, run_id=run_id, forbidden_ids=())
    replay = Replay(
        engine=replace(engine, chats={}),
        tokenizers=tokenizers,
        agents=_agent_models(experiment, engine.chats),
        sampling=engine.sampling if as_configured else None,
        shared=_cached_calls(recordings, experiment),
    )
    return Restored(
        experiment=experiment, built=built, recordings=recordings, replay=replay, tokenizers=tokenizers
    )


def recorded_tokenizer(recordings: Recordings, date: datetime.date | None = None) -> HFTokenizer:
    """The tokenizer that the traces were recorded with.

    Args:
        date: the day that its chat template is told; None where it writes no prompt.

    Raises:
        RunError: the run did not keep one.
    """
    from transformers import AutoTokenizer

    folder = tokenizer_of(recordings.run)
    if folder is None:
        raise RunError(
            f"tokenizer of the traces in {recordings.folder}: got none, "
            f"allowed tokenizer/ or model/ in {recordings.run.path}"
        )
    return HFTokenizer(AutoTokenizer.from_pretrained(folder), date=date)


def _without_caches(experiment: Experiment, *, live: bool) -> Experiment:
    """Nothing is cached: a reply must not depend on which rollout came first. A frozen replay has no chat models.
    Nothing is learned: a coefficient of the recorded run's own is not imported."""
    changes: dict[str | tuple[str, ...], Any] = {
        ("agents", name, "cache"): False for name in experiment.agents
    }
    if not live:
        changes["rollout.cost_limit"] = None
        for name in experiment.agents:
            changes |= {("agents", name, "model"): None, ("agents", name, "prices"): None}
    built = experiment.with_settings(changes)
    return built if live and not built.method.coefficient_files else built.for_evaluation()


def _agent_models(experiment: Experiment, chats: Mapping[str, ChatModel]) -> dict[str, AgentModel]:
    """By agent: its model and settings of now, and in a live replay what answers."""
    return {
        name: AgentModel(
            *chat_identity(agent),
            live=chats[name].model if name in chats else None,
            prices=agent.prices,
            scorer=chats[name].scorer if name in chats else None,
            thinking=agent.thinking,
        )
        for name, agent in experiment.agents.items()
        if agent.model is not None
    }


def _cached_calls(recordings: Recordings, experiment: Experiment) -> Mapping[Question, Call]:
    """Replies that a cache may have given: such a reply left no call in its own rollout."""
    agents = {name for name, agent in experiment.agents.items() if agent.cache}
    everything = Recordings(path=recordings.path) if agents else ()
    return shared_calls((trace for traces in everything for trace in traces), agents)
