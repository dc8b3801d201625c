"""The settings of an experiment as values, and other experiments with some of them changed."""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml

from aipo.config.build_chat import secret
from aipo.config.layers import store
from aipo.config.load import check_finite, checked
from aipo.config.schema import Config
from aipo.errors import ConfigError
from aipo.method.branching import BranchingSettings
from aipo.policies import Tokenizer
from aipo.policies.tags import Tags
from aipo.policies.vllm.settings import PolicyConfig
from aipo.rollout.spec import AbilitySettings
from aipo.run import POLICIES
from aipo.util.imports import instantiate, load, users_code


def tags_of_agents(templates: Iterable[str], agents: Iterable[str]) -> list[str]:
    """The consult tags of these agents; `templates` is `rollout.suppress_tags`."""
    names = list(agents)
    return [template.format(agent=name) for template in templates for name in names]


class ExperimentSettings:
    """What a configuration says. It is pickled as its configuration, without what was built from it.

    Args:
        source: the preset or file that it is from.
        today: the day that chat templates are told, unless the configuration says one.
    """

    def __init__(self, config: Config, source: str = "", today: datetime.date | None = None) -> None:
        self._config = config
        self.source = source
        self.out = config.run.out  # the run's folder
        self.seed = config.run.seed
        self.date = config.run.date or today or datetime.date.today()  # that chat templates are told
        self.threads = config.run.threads  # CPU threads of torch; None = see util/threads.py
        self.report_to = config.run.report_to  # trackers of transformers' Trainer
        self.env_name = config.env.name
        self.env_options = config.env.options
        self.mixture = config.env.mixture  # the share of each training split
        self.graph_name = config.graph.name
        self.graph_options = config.graph.options
        self.agents = config.agents  # by the name that the policy consults
        self.policy = config.policy
        self.rollout = config.rollout
        self.method = config.method
        self.train = config.train
        self.rehearsal = config.rehearsal
        self.evaluation = config.evaluate
        self.warmup = config.warmup
        # What a preset or file says for another graph, environment or model.
        self.dropped: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[type[Self], tuple[Config, str, datetime.date]]:
        return type(self), (self._config, self.source, self.date)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings as plain nested data, to be compared."""
        return self._config.model_dump(mode="json")

    def to_yaml(self) -> str:
        """All settings as YAML that `load_experiment` reads back, with the day of this run."""
        settings = self.settings
        settings["run"]["date"] = self.date.isoformat()
        return yaml.safe_dump(settings, sort_keys=False)

    @property
    def consult_tags(self) -> list[str]:
        """The tags that a rollout with suppressed tags cannot write."""
        return tags_of_agents(self.rollout.suppress_tags, self.agents)

    @cached_property
    def added_tags(self) -> list[str]:
        """The tags that are to be tokens with `policy.add_tags`: those of the graph, and those that can be suppressed.

        Raises:
            ConfigError: the graph does not say which tags it has.
        """
        if not (self.policy.add_tags and self.agents):
            return []
        graph = load(self.graph_name)
        tags_of = getattr(graph.function, "tags", None)
        if tags_of is None:
            raise ConfigError(
                f"policy.add_tags: got true with graph.name={self.graph_name}, which does not say its tags, allowed a "
                "function with an attribute `tags` (see graphs/README.md), or false"
            )
        where = f"graph.options of {graph.name}"
        with users_code(f"tags of graph {graph.name}"):
            tags = instantiate(
                replace(graph, function=tags_of), self.graph_options, where, agents=[*self.agents]
            )
            return list(dict.fromkeys([*map(str, tags), *self.consult_tags]))

    def forbidden_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Ids of the tags that a rollout with suppressed tags cannot write.

        Raises:
            ConfigError: such rollouts are configured, and a tag is not one token.
        """
        ids = {tag: tokenizer.token_id(tag) for tag in self.consult_tags}
        broken = [tag for tag, token_id in ids.items() if token_id is None]
        method = self.method
        distilled = method.distil_weight > 0 and method.distil_suppress
        needed = method.suppresses or distilled or "suppressed" in self.evaluation.settings
        if broken and needed:
            raise ConfigError(
                f"rollout.suppress_tags: got {broken}, which this tokenizer cuts into several tokens, allowed tags of "
                "one token (policy.add_tags=true makes them so; or set rollout.suppress_tags, or do without: "
                "method.suppress_share=0 to the end, method.distil_suppress=false, no `suppressed` in evaluate.settings)"
            )
        return tuple(sorted(i for i in ids.values() if i is not None))

    def tags(self, tokenizer: Tokenizer) -> Tags:
        """The consult tags, as this tokenizer writes them.

        Raises:
            ConfigError: see `forbidden_ids`.
        """
        return Tags(self.forbidden_ids(tokenizer), self.rollout.suppress_tags, tokenizer)

    @property
    def scores_again(self) -> bool:
        """Whether the trainer scores rows with the weights that sampled them, in every optimizer step."""
        return self.policy.engine == "vllm" or self.method.scores_again

    @property
    def device(self) -> str:
        """Where the policy's network is.

        Raises:
            ConfigError: on a GPU that torch does not see.
        """
        import torch

        there = torch.cuda.is_available()
        if self.policy.device == "cuda" and not there:
            built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
            raise ConfigError(
                f"policy.device: got 'cuda' where torch {torch.__version__} ({built}) sees no GPU, allowed 'cpu' or null "
                "(a GPU if there is one); `nvidia-smi` lists this machine's GPUs, CUDA_VISIBLE_DEVICES hides them"
            )
        return self.policy.device or ("cuda" if there else "cpu")

    def check_machine(self) -> None:
        """Before time is spent: is the device there that the policy needs?

        Raises:
            ConfigError: a GPU that torch does not see.
        """
        _ = self.device

    @property
    def server_key(self) -> str | None:
        """The key that the policy's servers need.

        Raises:
            LoadError: the environment variable with it is not set.
        """
        variable = self.policy.vllm.secret
        return None if variable is None else secret(variable, "policy.vllm.secret")

    def check_servers(self, *, hub: bool = True) -> None:
        """Checks what can be known of the policy's servers before they are asked.

        Args:
            hub: of the Hugging Face hub, too, if the weights come from there.

        Raises:
            LoadError: the environment variable with the servers' key is not set, or holds no key.
            ConfigError: a proxy on the way that cannot be used.
        """
        from huggingface_hub import constants

        from aipo.util.http.client import check_way

        name = self.policy.model
        if hub and not (":" in name or Path(name).is_dir() or constants.HF_HUB_OFFLINE):
            check_way(constants.ENDPOINT)
        if self.policy.engine == "vllm":
            _ = self.server_key
            for url in self.policy.vllm.servers:
                check_way(url)

    def with_settings(self, changes: Mapping[str | tuple[str, ...], Any] | Mapping[str, Any]) -> Self:
        """Another experiment, with some settings changed and all of them checked again.

        Args:
            changes: values by dotted key, as `{"method.beta": 0.1}`; a key with dots in its parts is a tuple of them.

        Raises:
            ConfigError: an unknown key, a wrong value, or settings that contradict each other.
        """
        settings: dict[str, Any] = self._config.model_dump(exclude_unset=True)  # what is left open stays so
        named = {key if isinstance(key, str) else ".".join(key): value for key, value in changes.items()}
        for key, value in changes.items():
            store(settings, tuple(key.split(".")) if isinstance(key, str) else key, value)
        where = f"configuration with {', '.join(named)} changed"
        check_finite(named, where)
        config = checked(Config, settings, where, recorded=self._config.model_dump())
        return type(self)(config, self.source, self.date)

    def for_evaluation(self) -> Self:
        """The same where nothing is learned: agents' models are not asked for log-probs."""
        unused = ("coefficient_value", "coefficient_clip_low", "coefficient_clip_high", "coefficient_trust")
        neutral: dict[str, Any] = {"coefficient": "mask", "negative": "zero", "agents": {}}
        neutral |= {
            "agent_prompt": "own",
            "entropy_weight": 0.0,
            "plan": "independent",
            "demonstrations": None,
            "branching": BranchingSettings(),
        }
        if self.method.credit == "branch":  # which is for forks
            neutral |= {"credit": "group", "attribution": "soft"}
        changes: dict[str, Any] = {**neutral, **dict.fromkeys(unused)}
        method = self.method.model_copy(update=changes)
        return type(self)(self._config.model_copy(update={"method": method}), self.source, self.date)

    @property
    def peers(self) -> tuple[str, ...]:
        """Names of the policies that learn together; none where there is one policy."""
        return tuple(self._config.policies)

    @property
    def policy_names(self) -> tuple[str, ...]:
        """The names that a graph calls policies by."""
        return self.peers or ("policy",)

    def check_single(self, command: str, policy: str | None = None) -> None:
        """Refuses several policies where a command is for one.

        Args:
            policy: the one of them that it is for, if it can choose.

        Raises:
            ConfigError: there are several, or none of this name.
        """
        if policy is not None and policy not in self.peers:
            raise ConfigError(
                f"policy: got {policy!r}, allowed {list(self.peers) or 'none'}, those of `policies`"
            )
        if self.peers and policy is None:
            raise ConfigError(
                f"policies: got {list(self.peers)} with {command}, which is for one policy, allowed the folder of one of them "
                f"({self.out}/{POLICIES}/{self.peers[0]}, once it is trained), or a configuration without `policies`"
            )

    def of_policy(self, name: str) -> Self:
        """For one of the policies that learn together: the same with it as the only one, in a folder of its own."""
        peer = self._config.policies[name]
        rate = {} if peer.learning_rate is None else {"learning_rate": peer.learning_rate}
        config = self._config
        changes = {
            "run": config.run.model_copy(update={"out": config.run.out / POLICIES / name}),
            "policy": PolicyConfig.model_validate(peer.model_dump(exclude={"learning_rate"})),
            "policies": {},
            "train": config.train.model_copy(update=rate),
            "method": config.method.model_copy(update={"abilities": AbilitySettings()}),
        }
        return type(self)(config.model_copy(update=changes), self.source, self.date)

    def share_of(self, number: int) -> Self:
        """For worker `number`: its part of the requests that a server may have in flight, and a first server of
        its own, or all would begin with the same one."""
        vllm, count = self.policy.vllm, self.rollout.workers
        first = number % len(vllm.servers)
        share = {
            "servers": vllm.servers[first:] + vllm.servers[:first],
            "requests": vllm.requests // count + (number < vllm.requests % count),
        }
        policy = self.policy.model_copy(update={"vllm": vllm.model_copy(update=share)})
        return type(self)(self._config.model_copy(update={"policy": policy}), self.source, self.date)
