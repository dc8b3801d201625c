"""Policies: everything that continues token ids, behind one method, `Policy.sample`."""

from aipo.policies.base import Completion, Policy, SampleRequest, Sampling, Tokenizer

__all__ = ["Completion", "Policy", "SampleRequest", "Sampling", "Tokenizer"]
