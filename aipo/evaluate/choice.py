"""Which policy is evaluated or tried: that of a run, one before training, or one behind an address."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from aipo.config.build import Experiment, load_experiment
from aipo.errors import ConfigError, RunError
from aipo.evaluate.endpoint import Endpoint
from aipo.policies import Policy
from aipo.rollout.branching.waves import RolloutResult
from aipo.rollout.engine import OnTrace, RolloutEngine
from aipo.rollout.spec import RolloutSpec
from aipo.rollout.workers.pool import open_workers
from aipo.run import RunFolder
from aipo.trace import Mode
from aipo.util.console import stage

if TYPE_CHECKING:
    from aipo.policies.vllm.policy import VLLMPolicy

SETTINGS: dict[str, tuple[Mode, bool]] = {
    "solo": (Mode.SOLO, False),
    "suppressed": (Mode.SOLO, True),
    "assisted": (Mode.ASSISTED, False),
}
"""By name: with agents or without, and whether the consult tags are suppressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChoice:
    """One policy, and the configuration around it.

    Args:
        run: a run folder: its trained policy.
        config: preset or YAML file: the policy before training; None = `aipo_distil`.
        endpoint: a served model in its place.
    """

    run: Path | None
    config: str | None
    endpoint: Endpoint | None

    def __post_init__(self) -> None:
        if self.run is not None and (self.config is not None or self.endpoint is not None):
            other = "--endpoint" if self.config is None else f"--config {self.config}"
            raise ConfigError(
                f"policy: got --run {self.run} and {other}, allowed one of them (a run has its own)"
            )

    @property
    def settings(self) -> Mapping[str, tuple[Mode, bool]]:
        """Those of `SETTINGS` under which it can be rolled out."""
        text_only = self.endpoint is not None and self.endpoint.text_only
        return {"solo": (Mode.TEXT, False)} if text_only else SETTINGS

    def load(self, overrides: Iterable[str]) -> Experiment:
        """The configuration around it. What is known to fail is refused before time is spent on the policy.

        Raises:
            RunError: no run there, or one without a trained policy.
            AipoError: settings, files, devices or servers that are wrong or missing.
        """
        if self.run is None:
            experiment = load_experiment(self.config or "aipo_distil", overrides)
            experiment.check_single("this command")
        else:
            folder = RunFolder.open(self.run)
            experiment = load_experiment(str(folder.config), overrides, of_run=True)
            experiment.check_single(f"--run {self.run}")
            if not folder.model.is_dir():
                raise RunError(
                    f"--run: got {self.run}, which has no trained policy yet, allowed a finished run"
                )
        if self.endpoint is None:
            experiment.check_machine()
            experiment.check_servers(hub=self.run is None)
        elif self.endpoint.text_only:
            experiment = experiment.with_settings({"evaluate.settings": ("solo",)})
        experiment = experiment.for_evaluation()
        _ = experiment.graphs
        return experiment

    def described(self, experiment: Experiment) -> dict[str, Any]:
        """Which policy it is, for the record of an evaluation: samples of two are never mixed."""
        if (endpoint := self.endpoint) is not None:
            return {
                "endpoint": endpoint.url,
                "model": endpoint.model,
                "tokenizer": endpoint.tokenizer and str(endpoint.tokenizer),
            }
        if self.run is not None:
            return {"run": str(self.run), "weights": _written_at(RunFolder(self.run).model)}
        policy = experiment.policy
        weights = _written_at(Path(policy.model))
        return {
            "config": self.config,
            "model": policy.model,
            "options": dict(policy.options),
            "weights": weights,
        }

    @contextmanager
    def open(
        self,
        experiments: Sequence[Experiment],
        home: Path,
        progress: Progress,
        *,
        run_id: str,
        suppressed: bool,
    ) -> Generator[RolloutEngine]:
        """What makes its rollouts.

        Args:
            experiments: with the same policy; several for data sets that have an environment or settings of their own.
            home: folder where weights wait for servers.
            suppressed: some with suppressed tags, each of which has to be one token.

        Raises:
            AipoError: the policy cannot be made or loaded, or its servers do not answer.
        """
        first, forbidden = experiments[0], None if suppressed else ()
        if self.endpoint is not None:
            yield routed(experiments, self.endpoint.open(first), run_id, forbidden)
            return
        making = first.policy.making
        model = first.build_model(stage(progress, making)) if self.run is None else RunFolder(self.run).model
        # Servers do the sampling; here the weights are only needed to push them and to probe.
        served = first.policy.engine == "vllm" and first.policy.vllm.sync == "disk"
        network = first.network(model, device="cpu" if served else None)
        with ExitStack() as stack:
            sampler = stack.enter_context(first.open_policy(network, first.tokenizer(model), home))
            engine = routed(experiments, sampler.policy, run_id, forbidden)
            builds = first.worker_builds(model, sampler.policy, run_id)
            if len(experiments) > 1:
                builds = [
                    partial(_worker, build, [e.share_of(n) for e in experiments], run_id)
                    for n, build in enumerate(builds)
                ]
            engine = stack.enter_context(open_workers(builds, engine))
            sampler.refresh()
            yield engine


@dataclass(frozen=True, kw_only=True)
class RoutedEngine(RolloutEngine):
    """One queue of rollouts for several data sets. Each rolls out in an engine of its own: its environment, graph and
    sampling settings; the most rollouts in flight are those of this one.

    Args:
        routes: by split.
    """

    routes: Mapping[str, RolloutEngine]

    async def rollout(self, spec: RolloutSpec, on_trace: OnTrace) -> RolloutResult:
        """See `RolloutEngine.rollout`."""
        return await self.routes[spec.task.split].rollout(spec, on_trace)


def routed(
    experiments: Sequence[Experiment], policy: Policy, run_id: str, forbidden_ids: tuple[int, ...] | None
) -> RolloutEngine:
    """The engine of an experiment, or one for several, whose evaluated splits have different names."""
    engines = [e.engine(policy, run_id=run_id, forbidden_ids=forbidden_ids) for e in experiments]
    first = engines[0]
    if len(engines) == 1:
        return first
    routes = {
        split: engine
        for experiment, engine in zip(experiments, engines, strict=True)
        for split in experiment.evaluation.splits
    }
    given: dict[str, Any] = {field.name: getattr(first, field.name) for field in fields(first)}
    return RoutedEngine(**given, routes=routes)


def _worker(
    build: "Callable[[], tuple[RolloutEngine, VLLMPolicy]]", experiments: Sequence[Experiment], run_id: str
) -> "tuple[RolloutEngine, VLLMPolicy]":
    """What a worker process builds for several data sets."""
    _, policy = build()
    return routed(experiments, policy, run_id, None), policy


def _written_at(folder: Path) -> int | None:
    """When the weights in a folder were written, in nanoseconds since 1970; None where there are none."""
    return max((file.stat().st_mtime_ns for file in folder.glob("*.safetensors")), default=None)
