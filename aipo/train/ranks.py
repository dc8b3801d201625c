"""Ranks: the processes that train one policy together, as `accelerate launch` or `torchrun` starts them.

Rank 0 leads: only it rolls out, scores, credits, writes and prints. The others wait for its rows and train
their share of them. An error of rank 0 while they wait ends them too, instead of leaving them waiting.
"""

import copy
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from aipo.errors import AipoError, ConfigError, OtherRankError
from aipo.util.termination import TERMINATION, Terminated

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from aipo.method.step_rows import StepRows
    from aipo.train.sources import RowSource

_T = TypeVar("_T")
# The rollouts of one step may take hours; a rank that died is noticed by its connections, not by this.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """All ranks, as one of them sees them.

    Args:
        rank: its number, from 0.
        size: how many there are.
        device: where this one trains; None = as configured.
        sharded: whether each holds a part of the weights only (FSDP2), not all of them (DDP).
        group: what they talk through; on CPUs, whatever the gradients take.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None
    sharded: bool = False
    group: Any = field(default=None, repr=False)

    @property
    def home(self) -> str | None:
        """The device that a network is loaded on; a sharded one moves to its device piece by piece."""
        return "cpu" if self.sharded else self.device

    @property
    def is_main(self) -> bool:
        """Is this rank 0?"""
        return self.rank == 0

    def broadcast(self, work: Callable[[], _T], *, keep: bool = False) -> _T:
        """The result of `work` on rank 0, sent to every rank; it must be picklable.

        Args:
            keep: send None in its place.

        Raises:
            OtherRankError: on the other ranks, where rank 0 raises something.
        """
        if self.size == 1:
            return work()
        if not self.is_main:
            result: Any = self._send(None)
            if isinstance(result, OtherRankError | Terminated):
                raise result
            return result
        try:
            result = work()
        except BaseException as error:
            same = isinstance(error, Terminated)
            self._send(error if same else OtherRankError(f"rank 0 stopped: {type(error).__name__}: {error}"))
            raise
        self._send(None if keep else result)
        return result

    def on_main(self, work: Callable[[], _T]) -> _T:
        """The result of `work` on rank 0, kept there; the other ranks wait and get None.

        Raises:
            OtherRankError: see `broadcast`.
        """
        return self.broadcast(work, keep=True)

    def gather(self, items: Sequence[_T]) -> list[_T]:
        """The items of all ranks, by rank; the same on every rank."""
        if self.size == 1:
            return list(items)
        import torch.distributed as dist

        by_rank: list[Any] = [None] * self.size
        dist.all_gather_object(by_rank, list(items), group=self.group)
        return [item for own in by_rank for item in own]

    def stack(self, numbers_N: "Tensor") -> "Tensor":
        """The numbers of all ranks; shape (ranks, N), on the CPU."""
        import torch
        import torch.distributed as dist

        own = numbers_N.detach().cpu()
        if self.size == 1:
            return own[None]
        by_rank = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(by_rank, own, group=self.group)
        return torch.stack(by_rank)

    def same_error(self, error: AipoError) -> AipoError:
        """The exception for an error that every rank hits: only rank 0 reports it."""
        return error if self.is_main else OtherRankError(str(error))

    def _send(self, value: object) -> Any:
        """Rank 0's `value`, on every rank."""
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]


SINGLE_PROCESS = Ranks()
"""One process that trains by itself."""


def launched() -> int:
    """Number of processes that a launcher started together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def join(*, cpu: bool, autocast: bool = False) -> Ranks:
    """Joins the other processes of the launcher; `SINGLE_PROCESS` without any.

    Args:
        cpu: train on the CPU, though there may be GPUs.
        autocast: the configuration computes in bfloat16, which the launcher may say, too.

    Raises:
        ConfigError: the launcher asks for a way of sharing weights that is not supported.
    """
    sharded = _flag("ACCELERATE_USE_FSDP")
    if _flag("ACCELERATE_USE_DEEPSPEED") or (sharded and os.environ.get("FSDP_VERSION") != "2"):
        got = "FSDP 1" if sharded else "DeepSpeed"
        raise ConfigError(
            f"accelerate launch: got {got}, allowed data parallelism (--multi_gpu), or sharded weights with "
            "--use_fsdp --fsdp_version 2"
        )
    computing = {"no", "bf16"} if autocast else {"no"}
    for option, allowed, instead in (
        ("mixed_precision", computing, ": what it computes in is a setting of the run (train.autocast=true)"),
        ("dynamo_backend", {"no"}, ""),
    ):
        got = os.environ.get(f"ACCELERATE_{option.upper()}", "no").lower()
        if got not in allowed:
            choices = " or ".join(sorted(allowed))
            raise ConfigError(f"accelerate launch: got --{option} {got}, allowed {choices}{instead}")
    if launched() == 1 and not sharded:
        return SINGLE_PROCESS
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    # Without a GPU accelerate must be told, else each process would believe that it is alone.
    cpu = cpu or _flag("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    if sharded and cpu:
        raise ConfigError(
            "accelerate launch: got sharded weights (FSDP 2) on CPUs, allowed on GPUs; data parallelism on both"
        )
    state = PartialState(cpu=cpu)
    if state.process_index > 0:
        for number in (signal.SIGTERM, signal.SIGHUP):  # all of them get it: rank 0 says what happens
            signal.signal(number, signal.SIG_IGN)
    return Ranks(
        rank=state.process_index,
        size=state.num_processes,
        device=str(state.device),
        sharded=sharded,
        group=dist.new_group(backend="gloo", timeout=_PATIENCE),
    )


def leave(ranks: Ranks) -> None:
    """Leaves the process group, at the end."""
    if ranks.size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()


def keep_types(accelerator: Any) -> None:
    """Has sharded weights gathered, and their gradients reduced and summed, in the weights' own type, as in one
    process: autocast alone computes in bfloat16.

    With bf16, accelerate gives FSDP2 a policy that does all of this in bfloat16, and rounds to it what the network
    returns. transformers reduces gradients once per optimizer step; until then each rank would hold all of them, in
    the type that it computes in. And autocast keeps what it has cast, which is the whole network in a forward pass.
    """
    from accelerate.utils import AutocastKwargs

    accelerator.state.fsdp_plugin.mixed_precision_policy = None
    accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
    accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")


@dataclass(frozen=True, kw_only=True)
class RankedSource:
    """Rows for every rank, from a source that only rank 0 has.

    Args:
        source: rank 0's; nothing elsewhere (see `Ranks.on_main`).
        gather: called on every rank before rows are asked for (see `full_weights`).
    """

    ranks: Ranks
    source: "RowSource"
    gather: Callable[[], None] = lambda: None
    shared: bool = False

    def rows(self, step: int) -> "StepRows":
        """See `RowSource`.

        Raises:
            Terminated: rank 0 got a signal to end; on every rank.
        """
        self.gather()

        def work() -> "StepRows":
            with TERMINATION.interruptible():
                return self.source.rows(step)

        return self.ranks.broadcast(work)

    def updated(self, version: int) -> None:
        if self.ranks.is_main:
            self.source.updated(version)


class FullWeights(NamedTuple):
    """The network as rank 0 has it.

    Args:
        network: the one that is trained or, where its weights are sharded, a copy in this machine's memory; on
            the other ranks only in the first case.
        gather: brings a copy up to date; to be called by every rank.
    """

    network: "PreTrainedModel"
    gather: Callable[[], None]


def full_weights(network: "PreTrainedModel", ranks: Ranks) -> FullWeights:
    """To be called before anything shards or patches `network`."""
    if not ranks.sharded:
        return FullWeights(network, lambda: None)
    twin: Any = ranks.on_main(lambda: copy.deepcopy(network))

    def gather() -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        # Everybody gives its part; only rank 0 gets anything.
        weights = get_model_state_dict(
            network, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        ranks.on_main(lambda: twin.load_state_dict(weights))

    return FullWeights(twin, gather)
