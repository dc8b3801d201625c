"""Whoever continues token ids: the seam `Policy.sample`, and what samples behind it."""

from aipo.policies.base import Completion, Policy, SampleRequest, Sampling, Tokenizer

__all__ = ["Completion", "Policy", "SampleRequest", "Sampling", "Tokenizer"]
