"""Calls of the policy by nodes that are not async: they wait in their threads for the loop that all rollouts run in."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class SyncCalls:
    """The waiting calls of one rollout."""

    loop: asyncio.AbstractEventLoop | None = None
    _waiting: set[Future[Any]] = field(default_factory=set[Future[Any]])

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which runs in the loop."""
        assert self.loop is not None, "the engine sets it before the graph runs"
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        self._waiting.add(future)
        try:
            return future.result()
        finally:
            self._waiting.discard(future)

    def close(self) -> None:
        """Ends those that still wait: the rollout has ended."""
        for future in list(self._waiting):
            future.cancel()
