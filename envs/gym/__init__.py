"""Procedural reasoning tasks: the families of reasoning-gym."""

from envs.gym.env import Gym

__all__ = ["Gym"]
