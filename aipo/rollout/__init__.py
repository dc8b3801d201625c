"""Rollouts: the classes that graphs, agents and environments use, and the engine that runs them."""

from aipo.rollout.agent import Agent, AgentSpec, AgentState
from aipo.rollout.chat.model import policy_chat
from aipo.rollout.context import ChatModel, RolloutContext
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.env import Env, Score, Task
from aipo.rollout.graph import RolloutState, check_graph
from aipo.rollout.prompt import Prompt
from aipo.rollout.spec import RolloutSpec, derive_seed

__all__ = [
    "Agent",
    "AgentSpec",
    "AgentState",
    "ChatModel",
    "Env",
    "Prompt",
    "RolloutContext",
    "RolloutEngine",
    "RolloutSpec",
    "RolloutState",
    "Score",
    "Task",
    "check_graph",
    "derive_seed",
    "policy_chat",
]
