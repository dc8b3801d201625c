"""The miniature: a task family on which a 0.3 M-parameter policy shows the whole idea in minutes."""

from envs.miniature.task import Facts, Miniature

__all__ = ["Facts", "Miniature"]
