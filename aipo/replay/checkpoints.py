"""Which weights a replay uses: those of a checkpoint, the trained ones, or those of the start."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from aipo.config.build import Experiment
from aipo.errors import RunError, TraceError, one_of
from aipo.policies.lora import base_of, restore_adapter
from aipo.replay.recordings import Recordings
from aipo.run import RunFolder
from aipo.train.checkpoints import Checkpoint, Problem, checkpoints, newest_whole, problems

if TYPE_CHECKING:
    from aipo.policies.local.policy import LocalPolicy

NEAREST, EXACT = "nearest", "exact"


@dataclass(frozen=True, slots=True)
class Weights:
    """A model to load, and how many optimizer steps of the run it has had (None: it is not the run's)."""

    path: str
    version: int | None

    @property
    def name(self) -> str:
        """The name in tables."""
        return "start" if self.version == 0 else Path(self.path).name

    def checked(self, run: RunFolder) -> "Weights":
        """Itself, if it is a folder or hub name: no recorded code is run to make the model again.

        Raises:
            RunError: it is made by a function.
        """
        if ":" in self.path and not Path(self.path).is_dir():
            raise RunError(
                f"the policy that {run.path} started from: got {self.path!r}, allowed a folder or hub name; "
                "name one with policy.model=FOLDER, or other weights with --checkpoint"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which weights for which rollout step.

    Args:
        run: the run that the traces are from.
        name: `exact` (those that sampled the rollout step), `nearest` (the newest checkpoint that is not younger than
            the rollout step), `start`, `model` (the trained policy), or a folder.
        optimizer_steps: per rollout step.
        start: the policy before its first step.
        leave_out: told of each checkpoint that is not whole, and why.
    """

    run: RunFolder
    name: str
    optimizer_steps: int
    start: Weights
    leave_out: Callable[[str, object], None] = lambda *_: None

    @classmethod
    def of(
        cls, recordings: Recordings, experiment: Experiment, name: str, overrides: Sequence[str]
    ) -> "Choice":
        """The choice for an experiment of a run; `policy.model=` among its overrides replaces the start."""
        return cls(
            run=recordings.run,
            name=name,
            optimizer_steps=experiment.train.optimizer_steps,
            start=start_of(recordings.run, experiment, overrides),
            leave_out=recordings.leave_out,
        )

    def at(self, step: int) -> Weights:
        """The weights for the traces of a rollout step.

        Raises:
            RunError: there are none of that name; with `exact`, none that sampled the step.
        """
        if self.name not in (NEAREST, EXACT):
            return self._named()
        version = step * self.optimizer_steps
        older = [one for one in self._checkpoints if one.version <= version]
        found = newest_whole(older, self._problem)
        for broken in found.broken:
            self.leave_out(broken.name, broken.reason)
        one = found.checkpoint
        weights = self.start if one is None else Weights(str(one.path), one.version)
        if self.name == EXACT and weights.version != version:
            kept = ", ".join(map(str, self.sampled_steps()))
            raise RunError(
                f"weights that sampled step {step}: got none ({'; '.join(map(str, found.broken)) or 'their checkpoint is gone'}), "
                f"allowed steps whose weights there are (--steps: {kept}), or --checkpoint nearest, which takes those of "
                f"{weights.name} here, in {self.run.path}"
            )
        return weights.checked(self.run)

    def sampled_steps(self) -> list[int]:
        """Rollout steps that were sampled with exactly these weights."""
        whole = [one.version for one in self._checkpoints if self._problem(one) is None]
        versions = [0, *whole] if self.name in (NEAREST, EXACT) else [self._named().version]
        steps = [divmod(version, self.optimizer_steps) for version in versions if version is not None]
        return [step for step, rest in steps if rest == 0]

    @cached_property
    def _checkpoints(self) -> list[Checkpoint]:
        return [one for one in checkpoints(self.run) if one.loadable]

    @cached_property
    def _problem(self) -> Problem:
        return problems(checkpoints(self.run))

    def _named(self) -> Weights:
        if self.name == "start":
            return self.start.checked(self.run)
        path = self.run.model if self.name == "model" else Path(self.name)
        if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise RunError(
                f"--checkpoint: got {self.name!r}, allowed exact, nearest, start, model or a folder with a model, looked "
                f"at {path}"
            )
        of_run = {one.path.resolve(): Weights(str(one.path), one.version) for one in self._checkpoints}
        return of_run.get(path.resolve(), Weights(str(path), None))


def start_of(run: RunFolder, experiment: Experiment, overrides: Sequence[str] = ()) -> Weights:
    """The policy that the run started from: what the overrides name, or the manifest, or the configuration."""
    named = any(word.startswith("policy.model=") for word in overrides)
    recorded = None if named else run.read_manifest().get("model")
    model = recorded or experiment.policy.model
    return Weights(str(model if recorded or ":" in model else experiment.build_model()), 0)


def load_weights(experiment: Experiment, weights: Weights, recordings: Recordings) -> "LocalPolicy":
    """The policy with these weights. From now on, traces with ids beyond its vocabulary are left out.

    Raises:
        LoadError: there is no model.
        RunError: the run did not keep its tokenizer.
        TraceError: the policy has another tokenizer than the traces.
    """
    from aipo.replay.restore import recorded_tokenizer

    policy = _policy(experiment, weights)
    got, allowed = policy.tokenizer.fingerprint, recorded_tokenizer(recordings).fingerprint
    if got != allowed:
        raise TraceError(
            one_of(f"tokenizer of {weights.path}", got, allowed, f"traces of {recordings.folder}")
        )
    policy.advance(weights.version or 0)
    recordings.vocabulary = int(policy.model.config.get_text_config().vocab_size)
    return policy


def _policy(experiment: Experiment, weights: Weights) -> "LocalPolicy":
    """Where the run trained an adapter, its checkpoints hold nothing else, and its trained policy has none."""
    from aipo.policies.local.policy import LocalPolicy

    base = base_of(weights.path)
    if base is None and weights.version != 0:
        return experiment.local_policy(weights.path)
    tokenizer = experiment.tokenizer(weights.path)
    network = experiment.adapted(experiment.network(base or weights.path), tokenizer)
    if base is not None:
        restore_adapter(network, weights.path)
    return LocalPolicy(network, tokenizer, max_batch=experiment.policy.max_batch)
