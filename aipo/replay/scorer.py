"""Log-probs by agents' own models, as they were recorded: the `aipo.rollout.context.Scorer` of a replay."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from aipo.replay.reuse import recorded_error
from aipo.rollout.context import UNSCORED, Scorer
from aipo.trace import Role, Segment, Trace


class ReplayScorer:
    """Says again what was said of the same ids; what was not recorded the live scorer says, or nobody knows it.

    Args:
        agent: whose.
        source: the recorded rollout.
        live: asked where the recording does not answer; None = nobody.
    """

    def __init__(self, agent: str, source: Trace, live: Scorer | None) -> None:
        self._live = live
        replies = [
            (source.segments[consult.reply_segment], consult.error)
            for consult in source.consults
            if consult.agent == agent and consult.reply is not None
        ]
        self._left = [(s, e) for s, e in replies if s.role is Role.AGENT and s.logprobs is not None]
        self.recorded = bool(self._left)

    async def score(
        self, messages: Sequence[Mapping[str, str]], token_ids: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """See `aipo.rollout.context.Scorer.score`. What went wrong then goes wrong again."""
        ids = np.array(token_ids, np.int32)
        for n, (said, error) in enumerate(self._left):
            place = _place(said, ids)
            if place is None or said.logprobs is None:
                continue
            del self._left[n]
            _, wrong, text = (error or "").partition(UNSCORED)
            if wrong:
                raise recorded_error(text, retried=False)
            return said.logprobs[place : place + len(ids)]
        if self._live is not None:
            return await self._live.score(messages, token_ids)
        return np.full(len(ids), np.nan, np.float32)


def _place(said: Segment, ids: npt.NDArray[np.int32]) -> int | None:
    """Where `ids` stand in a segment."""
    places = range(len(said) - len(ids) + 1)
    return next((p for p in places if np.array_equal(said.token_ids[p : p + len(ids)], ids)), None)
