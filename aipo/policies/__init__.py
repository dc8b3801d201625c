"""Whoever continues token ids: the seam `Policy.sample`, and what samples behind it."""

from aipo.policies.base import Completion, Policy, Sampling, Tokenizer

__all__ = ["Completion", "Policy", "Sampling", "Tokenizer"]
