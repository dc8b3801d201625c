"""Untrusted programs, run where they can harm nothing: bubblewrap, limits of the kernel, a filter of system calls."""

from envs.isolation.limits import DEFAULT_LIMITS, Limits, Outcome
from envs.isolation.run import Isolation

__all__ = ["DEFAULT_LIMITS", "Isolation", "Limits", "Outcome"]
