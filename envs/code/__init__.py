"""Programs that are judged by tests: LiveCodeBench, HumanEval, MBPP."""

from envs.code.env import Code

__all__ = ["Code"]
