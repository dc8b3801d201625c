"""From a configuration to the objects that it names, in one place: an `Experiment`.

Training, evaluation, replay, comparison, doctor and worker processes start from it. Nothing outside this room sees
the configuration's classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aipo.config.build_graphs import GraphBuilder
from aipo.config.load import resolve
from aipo.method.credit import Credited, assign_credit
from aipo.method.plan import GROWTHS, grow_group, plan_rollouts
from aipo.policies import Policy, Sampling
from aipo.policies.tags import Tags
from aipo.rollout.branching.waves import Grow
from aipo.rollout.demonstration import TEACHER
from aipo.rollout.engine import OnTrace, RolloutEngine
from aipo.rollout.env import Task, weights_with_noted
from aipo.rollout.run_limits import AskWatch, CostLimit, FailureRateLimit
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Trace

if TYPE_CHECKING:
    from aipo.method.step_rows import StepRows
    from aipo.policies.vllm.policy import VLLMPolicy


def load_experiment(name: str, overrides: Iterable[str] = (), *, of_run: bool = False) -> "Experiment":
    """The experiment of a preset or a YAML file, with `a.b=value` overrides; the last one wins.

    Args:
        of_run: the file is one that a run has recorded, perhaps with names of before (see `aipo.recorded`).

    Raises:
        ConfigError: no such preset or file, not YAML, an unknown key, a wrong value.
    """
    config, layers = resolve(name, overrides, of_run=of_run)
    experiment = Experiment(config, name)
    experiment.dropped = tuple(layers.dropped)
    return experiment


class Experiment(GraphBuilder):
    """Everything that a configuration names: the settings as values, and what is built from them.

    Its settings are in `build_settings`, its policy in `build_policy`, environment, graph and agents in
    `build_graphs`. Here are the rollouts, and the method.
    """

    # Rollouts

    def engine(
        self,
        policy: Policy | Mapping[str, Policy],
        *,
        run_id: str,
        forbidden_ids: tuple[int, ...] | None = None,
    ) -> RolloutEngine:
        """Everything that a rollout needs.

        Args:
            policy: the one, or those that learn together, by name.
            forbidden_ids: ids that rollouts with suppressed tags cannot write; None = those of the consult tags.
        """
        rollout = self.rollout
        policies = policy if isinstance(policy, Mapping) else {"policy": policy}
        tokenizer = next(iter(policies.values())).tokenizer
        return RolloutEngine(
            graph=self.graphs.graph,
            env=self.env,
            policies=policies,
            chats=self.scored_chats(),
            sampling=Sampling(temperature=rollout.temperature, max_tokens=rollout.max_tokens),
            forbidden_ids=self.forbidden_ids(tokenizer) if forbidden_ids is None else forbidden_ids,
            refuse_control=rollout.control_tokens == "refuse",
            reward_weights=weights_with_noted(self.env, rollout.reward_weights),
            deadline=rollout.deadline,
            concurrency=rollout.concurrency,
            run_id=run_id,
            fingerprints=self.graphs.fingerprints,
        )

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

    def worker(self, model: Path | str, vocabulary: int, run_id: str) -> "tuple[RolloutEngine, VLLMPolicy]":
        """The engine and the policy of a worker process, whose share of `policy.vllm` this is.

        Args:
            model: folder or hub name of the tokenizer.
            vocabulary: how many ids the network has.
        """
        policy = self.served_policy(self.tokenizer(model), vocabulary)
        return self.engine(policy, run_id=run_id), policy

    def guards(self, cost_file: Path, warn: Callable[[str], None]) -> OnTrace:
        """What looks at every finished rollout and stops the run at a limit.

        Args:
            cost_file: the run's file of what its agents cost.
            warn: told, once, that the policy never asks.

        Raises:
            LimitError: the cost so far has reached the limit.
        """
        chats = {TEACHER: self.warmup.teacher, **self.agents}
        priced = [name for name, chat in chats.items() if chat.prices is not None]
        cost = CostLimit(cost_file, self.rollout.cost_limit, priced)
        failures, asks = FailureRateLimit(self.rollout.failure_limit), AskWatch(warn)

        def watch(trace: Trace) -> None:
            cost.add(trace)
            failures.add(trace)
            asks.add(trace)

        return watch

    # Method

    def plan(self, tasks: Sequence[Task], step: int) -> list[RolloutSpec]:
        """Tasks and rollout step → the rollouts to be made."""
        steps, group_size = self.train.steps, self.train.group_size
        return plan_rollouts(
            tasks, self.method, step=step, steps=steps, group_size=group_size, seed=self.seed
        )

    def growth(self, vocabulary: int) -> Grow | None:
        """What says which rollouts a group gets next; None where groups do not grow.

        Args:
            vocabulary: number of the tokenizer's ids.
        """
        if self.method.plan not in GROWTHS:
            return None
        sizes = {"steps": self.train.steps, "group_size": self.train.group_size, "vocabulary": vocabulary}
        return partial(grow_group, self.method, **sizes)

    def credit(self, traces: Sequence[Trace], peers: Sequence[Trace] = ()) -> Credited:
        """Rewards → advantages.

        Args:
            peers: those of other policies that learn together with the one of `traces`, whose part is all that is returned.
        """
        credited = assign_credit([*traces, *peers], self.method)
        return credited.of_policy(traces[0].policy) if traces and peers else credited

    def rows(
        self,
        credited: Credited,
        tags: Tags,
        metrics: Mapping[str, float] | None = None,
        agents: Sequence[str] | None = None,
    ) -> "StepRows":
        """Credited traces → the rows of one rollout step.

        Args:
            tags: those of `tags`, which no distilled row has.
            metrics: to be logged besides the step's own.
            agents: whose consults are counted one by one; None = the configured ones.
        """
        from aipo.method.step_rows import step_rows

        names = tuple(self.agents) if agents is None else agents
        return step_rows(credited, self.method, tags=tags, agents=names, metrics=metrics)
