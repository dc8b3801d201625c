"""The policy, as the configuration names it: its weights, its network, its tokenizer and what samples."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aipo.config.schema import Config
from aipo.errors import ConfigError, LoadError
from aipo.policies import Policy
from aipo.policies.lora import add_adapter, base_of
from aipo.util.console import Note
from aipo.util.imports import instantiate, load

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from aipo.policies.local.policy import LocalPolicy
    from aipo.policies.tokenizer import HFTokenizer
    from aipo.policies.vllm.policy import VLLMPolicy


def build_model(config: Config, note: Note) -> Path | str:
    """Folder or hub name of the policy's weights; runs the function that makes them if one is named."""
    name = config.policy.model
    model: Path | str = name
    if ":" in name:
        _quiet()

        def follow(step: int, steps: int, loss: float) -> None:
            note(step, steps, f"loss {loss:.3f}")

        offered = {"seed": config.run.seed, "progress": follow}
        model = instantiate(load(name), config.policy.options, f"policy.options of {name}", **offered)
    note(1, 1, str(model))
    return model


def build_network(config: Config, model: Path | str, *, device: str | None = None) -> "PreTrainedModel":
    """The policy's network, in this process, without an adapter.

    Args:
        device: instead of the configured one.

    Raises:
        LoadError: there is no model at `model`, or an adapter only.
    """
    # Heavy: `aipo graph` composes without a policy and must not wait for torch.
    import torch
    from transformers import AutoModelForCausalLM

    _quiet()
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    if (base := base_of(model)) is not None:
        raise LoadError(
            f"policy.model: got {str(model)!r}, which holds an adapter of {base!r}, allowed whole weights"
        )
    device = device or config.policy.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with loading(model):
        network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, config.policy.dtype))
    network.to(device)
    return network


def adapted(config: Config, network: "PreTrainedModel") -> "PreTrainedModel":
    """What is trained of `network`: all of it, or the adapter that is configured, which it then samples with.

    Raises:
        LoadError: there is no peft here.
        ConfigError: an adapter that does not fit.
    """
    if config.policy.lora is None:
        return network
    return add_adapter(network, **config.policy.lora.model_dump(), seed=config.run.seed)


def build_tokenizer(model: Path | str) -> "HFTokenizer":
    """The policy's tokenizer.

    Raises:
        LoadError: there is none at `model`, or it cannot be used.
    """
    from transformers import AutoTokenizer

    from aipo.policies.tokenizer import HFTokenizer

    with loading(model):
        tokenizer = AutoTokenizer.from_pretrained(model)
    return HFTokenizer(tokenizer)


def network_settings(model: Path | str) -> "PretrainedConfig":
    """transformers' description of the network at `model`, without its weights.

    Raises:
        LoadError: there is no model.
    """
    from transformers import AutoConfig

    with loading(model):
        return AutoConfig.from_pretrained(model)


def build_served(config: Config, tokenizer: "HFTokenizer", vocabulary: int) -> "VLLMPolicy":
    """The servers that are to sample with the network's weights (`aipo.policies.vllm.weight_sync` sees to it).

    Args:
        vocabulary: how many ids the network has; the tokenizer may have fewer.

    Raises:
        LoadError: the environment variable with their key is not set.
    """
    from aipo.policies.vllm.policy import VLLMPolicy
    from aipo.policies.vllm.pool import ServerPool

    vllm = config.policy.vllm
    pool = ServerPool(
        vllm.servers,
        key=server_key(vllm.secret),
        requests=vllm.requests,
        deadline=vllm.deadline,
        attempts=vllm.attempts,
    )
    return VLLMPolicy(pool, tokenizer, vocabulary=vocabulary, model=vllm.model, seeded=vllm.seeded)


def build_local(config: Config, model: Path | str) -> "LocalPolicy":
    """The weights at `model` as a policy of this process, whatever engine is configured.

    Raises:
        LoadError: there is no model at `model`, or it cannot be sampled from.
    """
    from aipo.policies.local.policy import LocalPolicy

    network, tokenizer = build_network(config, model), build_tokenizer(model)
    return LocalPolicy(network, tokenizer, max_batch=config.policy.max_batch)


def reference_weights(config: Config) -> Callable[[str | None], "LocalPolicy"]:
    """Loads weights that never move, each once; see `aipo.rollout.reference_chat`."""

    @cache
    def load_frozen(name: str | None) -> "LocalPolicy":
        policy = build_local(config, name or build_model(config, lambda *_: None))
        policy.model.requires_grad_(False)
        return policy

    return load_frozen


def server_key(variable: str | None) -> str | None:
    """The key that the policy's servers ask for.

    Raises:
        LoadError: the environment variable with it is not set.
    """
    if variable is not None and variable not in os.environ:
        raise LoadError(
            f"policy.vllm.secret: got no environment variable {variable!r}, allowed one that is set"
        )
    return os.environ[variable] if variable is not None else None


@contextmanager
def loading(model: Path | str) -> Generator[None]:
    """Says of what goes wrong that it went wrong with the policy.

    Raises:
        LoadError: there is no such model, or not a usable one.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise LoadError(
            f"policy.model: got {str(model)!r}, allowed a folder or hub name of a causal language model: {error}"
        ) from error


def forbidden_ids(config: Config, policy: Policy) -> tuple[int, ...]:
    """Ids of the tags that a rollout with forbidden tags cannot write.

    Raises:
        ConfigError: such rollouts are asked for, and a tag is not one token.
    """
    tags = [tag.format(agent=name) for tag in config.rollout.suppress_tags for name in config.agents]
    ids = {tag: policy.tokenizer.token_id(tag) for tag in tags}
    broken = [tag for tag, token_id in ids.items() if token_id is None]
    method = config.method
    distilled = method.distil_weight > 0 and method.distil_suppress
    wanted = method.suppress_share > 0 or distilled or "suppressed" in config.evaluate.settings
    if broken and wanted:
        raise ConfigError(
            f"rollout.suppress_tags: got {broken}, which this tokenizer cuts into several tokens, allowed tags of "
            "one token (add them to the tokenizer, or set rollout.suppress_tags; or do without: method.suppress_share=0, "
            "method.distil_suppress=false, no `forbid` in evaluate.settings)"
        )
    return tuple(sorted(i for i in ids.values() if i is not None))


def _quiet() -> None:
    """transformers shows bars of its own for what takes a millisecond here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
