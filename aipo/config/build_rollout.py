"""What makes rollouts, as a configuration names it: the engine, and the guards that stop a run."""

from pathlib import Path

from aipo.config.build_chat import scored_chats
from aipo.config.build_graphs import Graphs, build_env
from aipo.config.build_policy import forbidden_ids
from aipo.config.schema import Config
from aipo.policies import Policy, Sampling
from aipo.rollout.engine import OnTrace, RolloutEngine
from aipo.rollout.env import Env
from aipo.rollout.run_limits import CostLimit, FailureRateLimit
from aipo.trace import Trace


def build_engine(
    config: Config, graphs: Graphs, policy: Policy, *, run_id: str, env: Env | None = None
) -> RolloutEngine:
    """Everything that a rollout needs."""
    return RolloutEngine(
        graph=graphs.graph,
        env=env or build_env(config),
        policies={"policy": policy},
        chats=scored_chats(config, graphs.chats),
        sampling=Sampling(temperature=config.rollout.temperature, max_tokens=config.rollout.max_tokens),
        forbidden_ids=forbidden_ids(config, policy),
        reward_weights=config.rollout.reward_weights,
        deadline=config.rollout.deadline,
        concurrency=config.rollout.concurrency,
        run_id=run_id,
        fingerprints=graphs.fingerprints,
    )


def build_guards(config: Config, spending: Path) -> OnTrace:
    """What looks at every finished rollout, and stops the run where a limit is reached.

    Args:
        spending: the run's file of what was spent.

    Raises:
        LimitError: what was spent before has reached the limit.
    """
    priced = [name for name, agent in config.agents.items() if agent.prices is not None]
    spent = CostLimit(spending, config.rollout.cost_limit, priced)
    outage = FailureRateLimit(config.rollout.failure_limit)

    def watch(trace: Trace) -> None:
        spent.add(trace)
        outage.add(trace)

    return watch
