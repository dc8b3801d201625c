"""Which weights a replay looks through: those of a checkpoint, the trained ones, or those of the start."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aipo.config.build_policy import adapted, build_local, build_network, build_tokenizer
from aipo.config.load import Config
from aipo.errors import RunError, TraceError, one_of
from aipo.policies.lora import base_of, restore_adapter
from aipo.replay.recordings import Recordings
from aipo.run import RunFolder
from aipo.train.resume import whole_checkpoints

if TYPE_CHECKING:
    from aipo.policies.local.policy import LocalPolicy

NEAREST = "nearest"


@dataclass(frozen=True, slots=True)
class Weights:
    """A model to load, and how many optimiser steps of the run are behind it (None: it is not the run's)."""

    path: str
    version: int | None

    @property
    def name(self) -> str:
        """What tables call it."""
        return "start" if self.version == 0 else Path(self.path).name

    def checked(self, run: RunFolder) -> "Weights":
        """Itself, if it can be loaded: nothing that a recorded configuration names is run to make it again.

        Raises:
            RunError: it would have to be.
        """
        if ":" in self.path and not Path(self.path).is_dir():
            raise RunError(
                f"the policy that {run.path} started from: got {self.path!r}, allowed a folder or hub name; "
                "name one with policy.model=FOLDER, or other weights with --checkpoint"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which weights for which generation.

    Args:
        run: the run that the traces are from.
        name: `nearest` (the newest checkpoint that is not younger than the generation), `start`, `model` (the
            trained policy), or a folder.
        updates: optimiser steps per generation.
        start: the policy before its first step.
    """

    run: RunFolder
    name: str
    updates: int
    start: Weights

    def at(self, generation: int) -> Weights:
        """The weights to look through at what was sampled in `generation`.

        Raises:
            RunError: there are none of that name.
        """
        if self.name != NEAREST:
            return self._named()
        older = [w for w in self._known() if (w.version or 0) <= generation * self.updates]
        newest = max(older, key=lambda w: w.version or 0)
        return newest.checked(self.run)

    def own(self) -> list[int]:
        """Generations that were sampled with exactly these weights."""
        known = self._known() if self.name == NEAREST else [self._named()]
        versions = sorted(w.version for w in known if w.version is not None)
        return [version // self.updates for version in versions if version % self.updates == 0]

    def _known(self) -> list[Weights]:
        whole = whole_checkpoints(self.run)
        return [self.start, *(Weights(str(path), version) for version, path in whole.items())]

    def _named(self) -> Weights:
        if self.name == "start":
            return self.start.checked(self.run)
        path = self.run.model if self.name == "model" else Path(self.name)
        if not (path / "config.json").is_file():
            raise RunError(
                f"--checkpoint: got {self.name!r}, allowed nearest, start, model or a folder with a model, looked at "
                f"{path}"
            )
        known = {Path(w.path).resolve(): w for w in self._known()}
        return known.get(path.resolve(), Weights(str(path), None))


def start_of(run: RunFolder, config: Config, *, named: bool = False) -> Weights:
    """The policy that the run started from: what its manifest says, or else its configuration (`named`: this one)."""
    recorded = None if named else run.read_manifest().get("model")
    return Weights(str(recorded or config.policy.model), 0)


def load_weights(config: Config, weights: Weights, recordings: Recordings) -> "LocalPolicy":
    """The policy that looks at these recordings; ids beyond its vocabulary are left out from now on.

    Raises:
        LoadError: there is no model.
        RunError: the run did not keep its tokenizer.
        TraceError: the policy has another tokenizer than the traces.
    """
    from aipo.replay.restore import recorded_tokenizer

    policy = _policy(config, weights)
    got, allowed = policy.tokenizer.fingerprint, recorded_tokenizer(recordings).fingerprint
    if got != allowed:
        raise TraceError(
            one_of(f"tokenizer of {weights.path}", got, allowed, f"traces of {recordings.folder}")
        )
    policy.advance(weights.version or 0)
    recordings.vocabulary = int(policy.model.config.get_text_config().vocab_size)
    return policy


def _policy(config: Config, weights: Weights) -> "LocalPolicy":
    """Where the run trained an adapter, its checkpoints hold nothing else, and its trained policy has none."""
    from aipo.policies.local.policy import LocalPolicy

    base = base_of(weights.path)
    if base is None and weights.version != 0:
        return build_local(config, weights.path)
    network = adapted(config, build_network(config, base or weights.path))
    if base is not None:
        restore_adapter(network, weights.path)
    return LocalPolicy(network, build_tokenizer(weights.path), max_batch=config.policy.max_batch)
