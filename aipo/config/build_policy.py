"""The policy of an experiment: its weights, its network, its tokenizer, and what samples while it is trained."""

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aipo.config.build_settings import ExperimentSettings
from aipo.errors import ConfigError, LoadError
from aipo.policies import Policy
from aipo.policies.lora import add_adapter
from aipo.policies.model_folder import check_folder, loading
from aipo.util.console import Note
from aipo.util.event_loop import LOOP
from aipo.util.imports import instantiate, load, users_code
from aipo.util.text import error_text
from aipo.util.threads import limit_torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from aipo.policies.local.policy import LocalPolicy
    from aipo.policies.tokenizer import HFTokenizer
    from aipo.policies.vllm.policy import VLLMPolicy


class SyncedPolicy(NamedTuple):
    """A policy that follows a network.

    Args:
        advance: tells how many optimizer steps are behind the network's weights.
        refresh: gives the policy the network's weights; before rollouts.
        finish: gives back memory that only rollouts need, and raises what kept weights from a server that came back
            meanwhile; after rollouts.
    """

    policy: Policy
    advance: Callable[[int], None]
    refresh: Callable[[], None]
    finish: Callable[[], None]


class PolicyBuilder(ExperimentSettings):
    """Builds the policy. What needs torch or a server is built by a method, each time it is called.

    torch and transformers are imported in the methods: `aipo graph` needs no policy and must not wait for them.
    """

    def build_model(self, note: Note = lambda *_: None) -> Path | str:
        """Folder or hub name of the policy's weights; runs the function that makes them if one is named."""
        name = self.policy.model
        model: Path | str = name
        if ":" in name:
            _quiet()
            limit_torch(None)  # runs with other run.threads share these weights

            def follow(step: int, steps: int, state: float | str) -> None:
                note(step, steps, state if isinstance(state, str) else f"loss {state:.3f}")

            where = f"policy.options of {name}"
            try:
                loaded = load(name)
                with users_code(f"policy.model {name}"):
                    made = instantiate(loaded, self.policy.options, where, seed=self.seed, progress=follow)
            except KeyboardInterrupt:
                note(1, 1, f"the {self.policy.making} was interrupted, and nothing of it is kept")
                raise
            if not isinstance(made, str | Path):
                raise ConfigError(
                    f"policy.model {name}: got {made!r}, allowed a function that returns a folder"
                )
            model = made
        if self.added_tags:
            note(0, 1, "the graph's tags as tokens")
            model = self._with_tags(model)
        note(1, 1, str(model))
        return model

    def _with_tags(self, model: Path | str) -> Path | str:
        from aipo.policies.weights import with_tags

        _quiet()
        limit_torch(self.threads)
        check_folder(model, hashes=True)
        self._check_tags(self.tokenizer(model))
        return with_tags(model, self.added_tags)

    def network(self, model: Path | str, *, device: str | None = None) -> "PreTrainedModel":
        """The policy's network without an adapter, on `device` or the configured one.

        Raises:
            LoadError: there is no model at `model`, or a part of it; see `aipo.policies.model_folder`.
        """
        import torch

        from aipo.policies.weights import load_network

        _quiet()
        limit_torch(self.threads)
        check_folder(model, hashes=True)
        device = device or self.device
        network = load_network(model, getattr(torch, self.policy.dtype))
        network.to(device)  # pyright: ignore[reportArgumentType]  # transformers wraps `to` without its types
        return network

    def network_settings(self, model: Path | str) -> "PretrainedConfig":
        """transformers' description of the network at `model`, without its weights.

        Raises:
            LoadError: there is no model.
        """
        from transformers import AutoConfig

        with loading(model):
            return AutoConfig.from_pretrained(model)

    def adapted(self, network: "PreTrainedModel", tokenizer: "HFTokenizer | None") -> "PreTrainedModel":
        """What is trained of `network`: all of it, or the configured adapter, which it then samples with.

        Args:
            tokenizer: has the tags that `policy.add_tags` adds; their rows are trained beside an adapter. None = the size of
                the adapter is all that is asked for.

        Raises:
            ConfigError: an adapter that does not fit.
        """
        lora = self.policy.lora
        if lora is None:
            return network
        ids = [tokenizer.token_id(tag) for tag in self.added_tags] if tokenizer else []
        return add_adapter(network, lora, seed=self.seed, token_ids=[i for i in ids if i is not None])

    def tokenizer(self, model: Path | str) -> "HFTokenizer":
        """The policy's tokenizer.

        Raises:
            LoadError: there is none at `model`, or it cannot be used.
        """
        from transformers import AutoTokenizer

        from aipo.policies.tokenizer import HFTokenizer

        with loading(model):
            tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(model), date=self.date)
        try:
            ids = tokenizer.encode_prompt("1")
        except Exception as error:  # a template is anybody's code
            raise LoadError(
                f"chat template of {str(model)!r}: got {error_text(error)}, allowed one that takes a user's message"
            ) from error
        if not ids:  # transformers makes one without a vocabulary for a model without a tokenizer
            raise LoadError(
                f"tokenizer of {str(model)!r}: got no vocabulary, allowed one (is tokenizer.json there?)"
            )
        return tokenizer

    def check_model(self) -> None:
        """Refuses a model that can be seen not to load, and tags that cannot be suppressed. A function that makes a model
        may have an attribute `tokenizer`, a function that returns the tokenizer alone.

        Raises:
            ConfigError: see `forbidden_ids` and `added_tags`.
            LoadError: no such model or function.
        """
        from aipo.policies.tokenizer import HFTokenizer

        name = self.policy.model
        _ = self.added_tags  # what a graph does not say is said now, and not after a model has been made
        if ":" not in name:
            check_folder(name, hashes=False)
            self.network_settings(name)
            self._check_tags(self.tokenizer(name))
        elif (make := getattr(load(name).function, "tokenizer", None)) is not None:
            self._check_tags(HFTokenizer(make()))

    def _check_tags(self, tokenizer: "HFTokenizer") -> None:
        from aipo.policies.tags import add_tags
        from aipo.policies.tokenizer import HFTokenizer

        add_tags(tokenizer.inner, self.added_tags)
        self.forbidden_ids(HFTokenizer(tokenizer.inner))

    def local_policy(self, model: Path | str) -> "LocalPolicy":
        """The weights at `model` as a policy of this process, whatever engine is configured.

        Raises:
            LoadError: there is no model at `model`, or it cannot be sampled from.
        """
        from aipo.policies.local.policy import LocalPolicy

        return LocalPolicy(self.network(model), self.tokenizer(model), max_batch=self.policy.max_batch)

    @cached_property
    def reference_weights(self) -> "Callable[[str | None], LocalPolicy]":
        """Loads weights that never move, each once; see `aipo.rollout.reference_chat`."""

        @cache
        def load_frozen(name: str | None) -> "LocalPolicy":
            policy = self.local_policy(name or self.build_model())
            policy.model.requires_grad_(False)
            return policy

        return load_frozen

    def served_policy(self, tokenizer: "HFTokenizer", vocabulary: int) -> "VLLMPolicy":
        """The policy that the configured servers sample from.

        Args:
            vocabulary: how many ids the network has; the tokenizer may have fewer.

        Raises:
            LoadError: the environment variable with the servers' key is not set.
        """
        from aipo.policies.vllm.policy import VLLMPolicy
        from aipo.policies.vllm.pool import ServerPool

        vllm = self.policy.vllm
        pool = ServerPool(
            vllm.servers,
            key=self.server_key,
            requests=vllm.requests,
            deadline=vllm.deadline,
            attempts=vllm.attempts,
        )
        top, model = vllm.top_logprobs, vllm.model
        return VLLMPolicy(
            pool, tokenizer, vocabulary=vocabulary, model=model, seeded=vllm.seeded, top_logprobs=top
        )

    @property
    def tolerance(self) -> float:
        """Nats by which log-probs of trainer and servers may differ on average: the configured number, or what
        their types of numbers allow."""
        from aipo.policies.vllm.weight_sync import tolerance_of

        vllm = self.policy.vllm
        return tolerance_of(self.policy.dtype, vllm.serve.dtype) if vllm.tolerance is None else vllm.tolerance

    @contextmanager
    def open_policy(
        self, network: "PreTrainedModel", tokenizer: "HFTokenizer", run: Path
    ) -> Generator[SyncedPolicy]:
        """The configured inference engine, which follows `network`. Afterwards its connections are closed, and
        weights on their way are deleted.

        Args:
            run: the run's folder, where weights wait for servers unless `policy.vllm.folder` says otherwise.

        Raises:
            LoadError: the network cannot be sampled from, or the servers' key is not set.
            ConfigError: weights cannot travel as configured.
        """
        if self.policy.engine == "local":
            from aipo.policies.local.policy import LocalPolicy

            policy = LocalPolicy(network, tokenizer, max_batch=self.policy.max_batch)
            yield SyncedPolicy(policy, policy.advance, refresh=policy.remember, finish=policy.forget)
            return
        from aipo.policies.vllm.transport import DiskTransport, NCCLTransport
        from aipo.policies.vllm.weight_sync import WeightSync

        vllm = self.policy.vllm
        vocabulary = int(network.config.get_text_config(decoder=True).vocab_size)
        served = self.served_policy(tokenizer, vocabulary)
        folder = vllm.folder or run / "weights"
        if vllm.folder is None:
            shutil.rmtree(folder, ignore_errors=True)  # a run that was killed left them
        transport = DiskTransport(folder) if vllm.sync == "disk" else NCCLTransport(vllm.servers[0])
        weight_sync = WeightSync(served, network, transport, tolerance=self.tolerance)
        try:
            yield SyncedPolicy(served, weight_sync.advance, weight_sync.push, served.pool.check)
        finally:
            LOOP.run(served.aclose())
            transport.drop()
            if vllm.folder is None:
                shutil.rmtree(folder, ignore_errors=True)


def _quiet() -> None:
    """Hides transformers' own progress bars: what they follow takes a millisecond here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
