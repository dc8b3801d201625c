"""Types of the fixtures for real servers."""

from collections.abc import Callable
from typing import NamedTuple

from aipo.config.load import Config
from kit.agents_app import Faults

HEAD_DIM = 32
"""Size of an attention head; vLLM has no smaller one on CPUs."""

Configure = Callable[..., Config]


class Agents(NamedTuple):
    """A server of the miniature's agents."""

    url: str
    faults: Faults
