"""Binds every sampled segment to the context behind which it was sampled.

A log-prob is true of one context only. A graph appends segments as it likes, so two parallel nodes can sample from the
same context and append one behind the other, or a node can cut, reorder or repeat what was sampled. Such a trace holds
log-probs of other contexts than it shows; it is refused when the rollout ends.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aipo.errors import TraceError
from aipo.trace import Role, Segment


class SampleDigests:
    """The digests of one rollout: for each sampled segment one of the ids before it and its ids, and one with its
    log-probs and its version, too."""

    def __init__(self) -> None:
        self._ids: set[bytes] = set()
        self._whole: set[bytes] = set()
        self._hashed: dict[str, tuple[list[Segment], Any]] = {}  # by policy: its last context, and the hash

    def add(self, context: Sequence[Segment], sampled: Segment) -> None:
        """Remembers that `sampled` was sampled behind `context`, the segments of its policy."""
        ids = _with_ids(self._hash(context, sampled.policy), sampled)
        self._ids.add(ids.digest())
        self._whole.add(_whole(ids, sampled))

    def _hash(self, context: Sequence[Segment], policy: str) -> Any:
        """The hash of the ids of a context; those that the policy's last context had, too, are not hashed again."""
        start, before = self._hashed.get(policy, ([], hashlib.blake2b(digest_size=16)))
        # Segments never change: the same objects have the same ids.
        if len(start) > len(context) or any(a is not b for a, b in zip(start, context, strict=False)):
            start, before = [], hashlib.blake2b(digest_size=16)
        after = before.copy()
        for piece in context[len(start) :]:
            after.update(_bytes(piece.token_ids))
        self._hashed[policy] = (list(context), after)
        return after

    def check(self, segments: Sequence[Segment], where: str) -> None:
        """Checks the contexts of one policy at the end of a rollout.

        Raises:
            TraceError: a policy segment was not sampled so, behind exactly the ids before it; what was sampled has another
                role; or the prompt is there again.
        """
        before, history = hashlib.blake2b(digest_size=16), 0
        for index, piece in enumerate(segments):
            if piece.history != history:
                before, history = hashlib.blake2b(digest_size=16), piece.history
            ids = _with_ids(before, piece)
            if piece.role is Role.POLICY and _whole(ids, piece) not in self._whole:
                raise TraceError(
                    f"segment {index} of {where}: got {len(piece)} tokens of {piece.source!r} that were not sampled behind "
                    "the segments before it, allowed what context.sample() returned, unchanged and right behind the "
                    "segments that it was given (no two nodes may sample for one policy at the same time)"
                )
            if piece.role is not Role.POLICY and ids.digest() in self._ids:
                raise TraceError(
                    f"segment {index} of {where}: got the role {piece.role.value} for {len(piece)} tokens that the policy "
                    "sampled, allowed policy: the role says who produced a segment"
                )
            before.update(_bytes(piece.token_ids))
        prompts = [(index, piece) for index, piece in enumerate(segments) if piece.role is Role.PROMPT]
        for place, (index, piece) in enumerate(prompts):
            if any(piece is earlier for _, earlier in prompts[:place]):
                raise TraceError(
                    f"segment {index} of {where}: got the prompt once more, allowed each segment once (a node, or a graph "
                    "that is a node, returns the segments that it adds, not its whole state)"
                )


def _with_ids(before: Any, piece: Segment) -> Any:
    """The hash of a segment's ids behind hashed ids."""
    ids = before.copy()
    ids.update(b"\x1f".join((piece.policy.encode(), _bytes(piece.token_ids))))
    return ids


def _whole(ids: Any, sampled: Segment) -> bytes:
    """The digest of a sampled segment whose ids are hashed."""
    whole = ids.copy()
    whole.update(b"\x1f".join((b"", _bytes(sampled.logprobs), str(sampled.policy_version).encode())))
    return whole.digest()


def _bytes(array: npt.NDArray[Any] | None) -> bytes:
    return b"" if array is None else np.ascontiguousarray(array).tobytes()
