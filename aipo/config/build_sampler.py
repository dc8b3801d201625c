"""What samples while the policy's network is trained, and how it keeps up with the weights."""

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aipo.config.build_policy import build_served
from aipo.config.schema import Config
from aipo.policies import Policy
from aipo.util.event_loop import LOOP

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from aipo.policies.tokenizer import HFTokenizer
    from aipo.policies.vllm.transport import Transport


class SyncedPolicy(NamedTuple):
    """A policy that follows a network.

    Args:
        policy: what samples.
        advance: says that the network's weights are now those after this number of optimizer steps.
        refresh: to be called before rollouts; afterwards what samples has the network's weights.
        check: to be called after rollouts; raises what kept weights from a server that came back meanwhile.
    """

    policy: Policy
    advance: Callable[[int], None]
    refresh: Callable[[], None]
    check: Callable[[], None]


@contextmanager
def open_policy(
    config: Config, network: "PreTrainedModel", tokenizer: "HFTokenizer", run: Path
) -> Generator[SyncedPolicy]:
    """The engine that is configured; its connections, and weights on their way, are gone afterwards.

    Args:
        run: the run's folder, where weights wait for servers unless `policy.vllm.folder` says otherwise.

    Raises:
        LoadError: the network cannot be sampled from, or the servers' key is not set.
        ConfigError: weights cannot travel as configured.
    """
    if config.policy.engine == "local":
        from aipo.policies.local.policy import LocalPolicy

        policy = LocalPolicy(network, tokenizer, max_batch=config.policy.max_batch)
        yield SyncedPolicy(policy, policy.advance, refresh=lambda: None, check=lambda: None)
        return
    from aipo.policies.vllm.weight_sync import WeightSync

    vocabulary = int(network.config.get_text_config(decoder=True).vocab_size)
    served = build_served(config, tokenizer, vocabulary)
    folder = config.policy.vllm.folder or run / "weights"
    if config.policy.vllm.folder is None:
        shutil.rmtree(folder, ignore_errors=True)  # a run that was killed left them
    transport = _transport(config, folder)
    weight_sync = WeightSync(served, network, transport, tolerance=tolerance_at(config))
    try:
        yield SyncedPolicy(served, weight_sync.advance, weight_sync.push, served.pool.check)
    finally:
        LOOP.run(served.aclose())
        transport.drop()
        if config.policy.vllm.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def tolerance_at(config: Config) -> float:
    """Nats by which log-probs of trainer and servers may differ on average: the given number, or what their types
    of numbers allow."""
    from aipo.policies.vllm.weight_sync import tolerance_of

    policy = config.policy
    given, kinds = policy.vllm.tolerance, (policy.dtype, policy.vllm.serve.dtype)
    return tolerance_of(*kinds) if given is None else given


def _transport(config: Config, folder: Path) -> "Transport":
    from aipo.policies.vllm.transport import DiskTransport, NCCLTransport

    vllm = config.policy.vllm
    return DiskTransport(folder) if vllm.sync == "disk" else NCCLTransport(vllm.servers[0])
