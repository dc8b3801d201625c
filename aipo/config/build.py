"""From a configuration to the objects that it names, in one place: `build(config) -> Experiment`.

Training, evaluation, replay, comparison, doctor and worker processes start from an `Experiment`. Nothing outside
this room sees the configuration's classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aipo.config import build_chat, build_policy, build_sampler
from aipo.config.build_graphs import Graphs as Graphs
from aipo.config.build_graphs import build_env as build_env
from aipo.config.build_graphs import build_graphs as build_graphs
from aipo.config.build_graphs import check_env
from aipo.config.build_policy import forbidden_ids as forbidden_ids
from aipo.config.build_rollout import build_engine as build_engine
from aipo.config.build_rollout import build_guards as build_guards
from aipo.config.load import dump, load_config, validate
from aipo.config.manifest import drawing as drawing
from aipo.config.manifest import manifest as manifest
from aipo.config.schema import AgentConfig, Config, EvaluateConfig, PolicyConfig, RolloutConfig, TrainConfig
from aipo.method.credit import Credited, assign_credit
from aipo.method.plan import plan_rollouts
from aipo.method.settings import MethodSettings
from aipo.method.task_order import draw_tasks
from aipo.policies import Policy
from aipo.rollout.agent import Prices
from aipo.rollout.context import ChatModel
from aipo.rollout.engine import OnTrace, RolloutEngine
from aipo.rollout.env import Env, Task
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Trace
from aipo.util.console import Note

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from aipo.method.step_rows import StepRows
    from aipo.policies.local.policy import LocalPolicy
    from aipo.policies.tokenizer import HFTokenizer
    from aipo.policies.vllm.policy import VLLMPolicy


def build(config: Config) -> "Experiment":
    """The experiment that a configuration describes. Its objects are built when they are first asked for."""
    return Experiment(
        out=config.run.out,
        seed=config.run.seed,
        threads=config.run.threads,
        report_to=config.run.report_to,
        env_name=config.env.name,
        mixture=config.env.mixture,
        graph_name=config.graph.name,
        graph_options=config.graph.options,
        agents=config.agents,
        policy=config.policy,
        rollout=config.rollout,
        method=config.method,
        train=config.train,
        evaluation=config.evaluate,
        _config=config,
    )


def load_experiment(name: str, overrides: Iterable[str] = (), *, of_run: bool = False) -> "Experiment":
    """The experiment of a preset or a YAML file, with `a.b=value` overrides; the last one wins.

    Args:
        of_run: the file is one that a run has recorded, perhaps with names of before (see `aipo.recorded`).

    Raises:
        ConfigError: no such preset or file, not YAML, an unknown key, a wrong value.
    """
    return build(load_config(name, overrides, of_run=of_run))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Experiment:
    """Everything that a configuration names: the settings as values, and what is built from them.

    The environment, the graph and the agents' models are built once, when they are first used. What needs torch or
    a server is built by a method, each time it is called. An experiment is pickled as its settings.
    """

    out: Path  # the run's folder
    seed: int
    threads: int | None  # CPU threads of torch; None = torch decides
    report_to: tuple[str, ...]  # trackers of transformers' Trainer
    env_name: str
    mixture: Mapping[str, float]  # the share of each training split
    graph_name: str
    graph_options: Mapping[str, Any]
    agents: Mapping[str, AgentConfig]  # by the name that the policy consults
    policy: PolicyConfig
    rollout: RolloutConfig
    method: MethodSettings
    train: TrainConfig
    evaluation: EvaluateConfig
    _config: Config

    def __reduce__(self) -> tuple[Callable[[Config], "Experiment"], tuple[Config]]:
        return build, (self._config,)

    # Settings

    @property
    def settings(self) -> dict[str, Any]:
        """All settings as plain nested data: to be compared and recorded."""
        return self._config.model_dump(mode="json")

    def to_yaml(self) -> str:
        """All settings as YAML that `load_experiment` reads back."""
        return dump(self._config)

    def with_settings(self, changes: Mapping[str, Any]) -> "Experiment":
        """Another experiment, with some settings changed and all of them checked again.

        Args:
            changes: values by dotted key, as `{"method.beta": 0.1}`.

        Raises:
            ConfigError: an unknown key, a wrong value, or settings that contradict each other.
        """
        settings: dict[str, Any] = self._config.model_dump()
        for key, value in changes.items():
            *sections, name = key.split(".")
            section = settings
            for part in sections:
                section = section.setdefault(part, {})
            section[name] = value
        return build(validate(settings, f"with {', '.join(changes)} changed"))

    def for_evaluation(self) -> "Experiment":
        """The same where nothing is learned: agents' models are not asked for log-probs."""
        method = self._config.method.model_copy(update={"coefficient": "mask"})
        return build(self._config.model_copy(update={"method": method}))

    # Environment, graph and agents

    @cached_property
    def env(self) -> Env:
        return build_env(self._config)

    @cached_property
    def graphs(self) -> Graphs:
        """The graph with every agent's sub-graph in it, and the agents' chat models.

        Raises:
            LoadError: a file, function, prompt or secret is missing.
            ConfigError: options that a function does not take.
            GraphError: a graph breaks the contract.
        """
        return build_graphs(self._config)

    def tasks(self, step: int) -> list[Task]:
        """The tasks of a rollout step, one for each group."""
        return draw_tasks(self.env, self.mixture, self.train.tasks_per_step, step=step, seed=self.seed)

    def check_env(self) -> None:
        """Refuses splits or demonstrations which the environment does not have.

        Raises:
            ConfigError: names the splits, or says which one is too large for a step; or no demonstrations.
            TaskError: of some task there is none.
        """
        check_env(self._config, self.env)

    def drawing(self) -> dict[str, Any]:
        """Nodes, edges and the mermaid picture of the graph."""
        return drawing(self.graphs.graph)

    def manifest(self, model: Path | str) -> dict[str, Any]:
        """What a run is made of: versions, and the file and fingerprint of each graph, prompt and environment file."""
        return manifest(self._config, self.graphs, model)

    @cached_property
    def reference_weights(self) -> "Callable[[str | None], LocalPolicy]":
        """Loads weights that never move, each once; see `aipo.rollout.reference_chat`."""
        return build_policy.reference_weights(self._config)

    def chat(self, name: str) -> ChatModel | None:
        """A new chat model of agent `name`; None where it has none.

        Raises:
            LoadError: it cannot be imported, or a secret is not set.
            ConfigError: options that it does not take.
        """
        return build_chat.build_chat(name, self.agents[name], seed=self.seed, weights=self.reference_weights)

    def chat_identity(self, name: str) -> tuple[str, dict[str, Any]]:
        """Name and settings of an agent's chat model, as calls record them."""
        return build_chat.chat_identity(self.agents[name])

    def prices(self, name: str) -> Prices | None:
        """What an agent's tokens cost."""
        return build_chat.prices_of(self.agents[name])

    def scored_chats(self) -> dict[str, ChatModel]:
        """The agents' chat models with the scorers of their log-probs, where the method needs them.

        Raises:
            ConfigError: an agent whose model has no log-probs of the distribution that it samples from.
        """
        return build_chat.scored_chats(self._config, self.graphs.chats)

    # Policy

    def build_model(self, note: Note = lambda *_: None) -> Path | str:
        """Folder or hub name of the policy's weights; runs the function that makes them if one is named."""
        return build_policy.build_model(self._config, note)

    def network(self, model: Path | str, *, device: str | None = None) -> "PreTrainedModel":
        """The policy's network without an adapter, on `device` or the configured one.

        Raises:
            LoadError: there is no model at `model`, or an adapter only.
        """
        return build_policy.build_network(self._config, model, device=device)

    def network_settings(self, model: Path | str) -> "PretrainedConfig":
        """transformers' description of the network at `model`, without its weights.

        Raises:
            LoadError: there is no model.
        """
        return build_policy.network_settings(model)

    def adapted(self, network: "PreTrainedModel") -> "PreTrainedModel":
        """What is trained of `network`: all of it, or the configured adapter.

        Raises:
            LoadError: there is no peft here.
            ConfigError: an adapter that does not fit.
        """
        return build_policy.adapted(self._config, network)

    def tokenizer(self, model: Path | str) -> "HFTokenizer":
        """The policy's tokenizer.

        Raises:
            LoadError: there is none at `model`, or it cannot be used.
        """
        return build_policy.build_tokenizer(model)

    def open_policy(
        self, network: "PreTrainedModel", tokenizer: "HFTokenizer", folder: Path
    ) -> AbstractContextManager[build_sampler.SyncedPolicy]:
        """The configured inference engine, which follows `network`; its connections are closed afterwards.

        Args:
            folder: the run's, where weights wait for servers unless `policy.vllm.folder` says otherwise.
        """
        return build_sampler.open_policy(self._config, network, tokenizer, folder)

    def served_policy(self, tokenizer: "HFTokenizer", vocabulary: int) -> "VLLMPolicy":
        """The policy that the configured servers sample from.

        Args:
            vocabulary: how many ids the network has; the tokenizer may have fewer.

        Raises:
            LoadError: the environment variable with the servers' key is not set.
        """
        return build_policy.build_served(self._config, tokenizer, vocabulary)

    def local_policy(self, model: Path | str) -> "LocalPolicy":
        """The weights at `model` as a policy of this process, whatever engine is configured."""
        return build_policy.build_local(self._config, model)

    @property
    def server_key(self) -> str | None:
        """The key that the policy's servers ask for.

        Raises:
            LoadError: the environment variable with it is not set.
        """
        return build_policy.server_key(self.policy.vllm.secret)

    @property
    def tolerance(self) -> float:
        """Nats by which log-probs of trainer and servers may differ on average."""
        return build_sampler.tolerance_at(self._config)

    # Rollouts

    def engine(self, policy: Policy, *, run_id: str) -> RolloutEngine:
        """Everything that a rollout needs."""
        return build_engine(self._config, self.graphs, policy, run_id=run_id, env=self.env)

    def worker_builds(
        self, model: Path | str, policy: Policy, run_id: str
    ) -> "list[Callable[[], tuple[RolloutEngine, VLLMPolicy]]]":
        """What each worker process is to build; empty where this process makes the rollouts itself.

        Args:
            model: folder or hub name of the policy's tokenizer.
            policy: this process's.
        """
        count = self.rollout.workers
        if count == 1:
            return []
        vocabulary = policy.vocabulary  # type: ignore[attr-defined]
        return [partial(self.share_of(i).worker, model, vocabulary, run_id) for i in range(count)]

    def share_of(self, number: int) -> "Experiment":
        """For worker `number`: its part of the requests that a server may have in flight, and a first server of
        its own, or all would begin with the same one."""
        vllm, count = self.policy.vllm, self.rollout.workers
        first = number % len(vllm.servers)
        share = {
            "servers": vllm.servers[first:] + vllm.servers[:first],
            "requests": vllm.requests // count + (number < vllm.requests % count),
        }
        policy = self.policy.model_copy(update={"vllm": vllm.model_copy(update=share)})
        return build(self._config.model_copy(update={"policy": policy}))

    def guards(self, cost_file: Path) -> OnTrace:
        """What looks at every finished rollout and stops the run at a limit.

        Args:
            cost_file: the run's file of what its agents cost.

        Raises:
            LimitError: the cost so far has reached the limit.
        """
        return build_guards(self._config, cost_file)

    def forbidden_ids(self, policy: Policy) -> tuple[int, ...]:
        """Ids of the tags that a rollout with suppressed tags cannot write.

        Raises:
            ConfigError: such rollouts are configured, and a tag is not one token.
        """
        return forbidden_ids(self._config, policy)

    # Method

    def plan(self, tasks: Sequence[Task], step: int) -> list[RolloutSpec]:
        """Tasks and rollout step → the rollouts to be made."""
        return plan_rollouts(
            tasks,
            self.method,
            step=step,
            steps=self.train.steps,
            group_size=self.train.group_size,
            seed=self.seed,
        )

    def credit(self, traces: Sequence[Trace]) -> Credited:
        """Rewards → advantages."""
        return assign_credit(traces, self.method)

    def rows(
        self, credited: Credited, tag_ids: tuple[int, ...], metrics: Mapping[str, float] | None = None
    ) -> "StepRows":
        """Credited traces → the rows of one rollout step.

        Args:
            tag_ids: ids of the consult tags, which distilled rows may be trained without.
            metrics: to be logged besides the step's own.
        """
        from aipo.method.step_rows import step_rows

        agents = tuple(self.agents)
        return step_rows(credited, self.method, tag_ids=tag_ids, agents=agents, metrics=metrics)

    @property
    def scores_again(self) -> bool:
        """Whether the trainer scores rows with the weights that sampled them, in every optimizer step."""
        return self.policy.engine == "vllm" or self.method.scores_again

    def worker(self, model: Path | str, vocabulary: int, run_id: str) -> "tuple[RolloutEngine, VLLMPolicy]":
        """The engine and the policy of a worker process, whose share of `policy.vllm` this is.

        Args:
            model: folder or hub name of the tokenizer.
            vocabulary: how many ids the network has.
        """
        policy = self.served_policy(self.tokenizer(model), vocabulary)
        return self.engine(policy, run_id=run_id), policy
