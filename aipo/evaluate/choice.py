"""Which policy is evaluated or tried: that of a run, one before training, or one behind an address."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from aipo.config.build import Experiment, load_experiment
from aipo.errors import ConfigError, RunError
from aipo.evaluate.endpoint import Endpoint
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.workers.pool import open_workers
from aipo.run import RunFolder
from aipo.trace import Mode
from aipo.util.console import stage

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

    @contextmanager
    def open(
        self, experiment: Experiment, home: Path, progress: Progress, *, run_id: str, suppressed: bool
    ) -> Generator[RolloutEngine]:
        """What makes its rollouts.

        Args:
            home: folder where weights wait for servers.
            suppressed: some with suppressed tags, each of which has to be one token.

        Raises:
            AipoError: the policy cannot be made or loaded, or its servers do not answer.
        """
        forbidden = None if suppressed else ()
        if self.endpoint is not None:
            yield experiment.engine(self.endpoint.open(experiment), run_id=run_id, forbidden_ids=forbidden)
            return
        making = experiment.policy.making
        model = (
            experiment.build_model(stage(progress, making)) if self.run is None else RunFolder(self.run).model
        )
        # Servers do the sampling; here the weights are only needed to push them and to probe.
        served = experiment.policy.engine == "vllm" and experiment.policy.vllm.sync == "disk"
        network = experiment.network(model, device="cpu" if served else None)
        with ExitStack() as stack:
            sampler = stack.enter_context(experiment.open_policy(network, experiment.tokenizer(model), home))
            engine = experiment.engine(sampler.policy, run_id=run_id, forbidden_ids=forbidden)
            builds = experiment.worker_builds(model, sampler.policy, run_id)
            engine = stack.enter_context(open_workers(builds, engine))
            sampler.refresh()
            yield engine
