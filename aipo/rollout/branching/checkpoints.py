"""States of a graph in front of the turns behind a reply, and rollouts that go on from them.

LangGraph hands every checkpoint of a graph to its checkpointer. This one keeps a copy of those in which a reply is the last
segment. A fork is a new run of the graph from such a copy. So every graph can be forked whose state can be pickled.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.graph.state import CompiledStateGraph

from aipo.errors import GraphError
from aipo.policies.sample_digests import SampleDigests
from aipo.rollout.recorder import RolloutRecorder
from aipo.rollout.spec import ForkStart
from aipo.trace import Role, Segment, Trace, Visit, turns_behind_replies
from aipo.trace.arrays import packed, unpacked
from aipo.trace.segment import REPLIES


class ForkSaver(BaseCheckpointSaver[int]):
    """The checkpointer of one rollout, which can be forked and can be a fork itself.

    Args:
        start: what it goes on from; None = it begins anew.
        record, samples: of the rollout; where it goes on, they get what led there.
    """

    config: ClassVar[RunnableConfig] = {"configurable": {"thread_id": "rollout"}}

    def __init__(self, start: ForkStart | None, record: RolloutRecorder, samples: SampleDigests) -> None:
        super().__init__()
        self._record = record
        self._states: dict[int, bytes] = {}  # by number of segments
        self._start: tuple[Checkpoint, CheckpointMetadata] | None = None
        self._shared = 0
        if start is not None:
            start_checkpoint: tuple[Checkpoint, CheckpointMetadata] = unpacked(start.state)
            self._start, state = start_checkpoint, start_checkpoint[0]["channel_values"]
            record.begin(state, start.visits)
            segments: Sequence[Segment] = state["segments"]
            self._shared = len(segments)
            for place, piece in enumerate(segments):
                if piece.role is Role.POLICY:
                    samples.add(segments[:place], piece)

    @property
    def goes_on(self) -> bool:
        """Whether the rollout is a fork."""
        return self._start is not None

    def watched(
        self, graph: CompiledStateGraph[Any, Any, Any, Any]
    ) -> CompiledStateGraph[Any, Any, Any, Any]:
        """The same graph with this checkpointer."""
        watched = copy(graph)
        watched.checkpointer = self
        return watched

    def check(self) -> None:
        """Refuses a rollout that cannot be forked where it should.

        Raises:
            GraphError: several policies, or a turn that is sampled in the step that appended the reply before it.
        """
        for place in self._turns():
            if place not in self._states or self._record.begun_before(place) is None:
                raise GraphError(
                    f"turn of the policy at segment {place}: got no state of the graph between it and the reply before it, "
                    "allowed a graph that appends a reply in one step and samples in a later one (method.plan=branching "
                    "forks rollouts there)"
                )

    def starts(self, trace: Trace) -> Mapping[int, ForkStart]:
        """What forks of the rollout can go on from, by the number of tokens before the turn; none if it has failed."""
        if trace.failed:
            return {}
        starts: dict[int, ForkStart] = {}
        for place in self._turns():
            visits = trace.visits[: self._record.begun_before(place)]
            tokens = sum(map(len, trace.segments[:place]))
            starts[tokens] = ForkStart(self._states[place], tuple(_earlier(visits, trace.seconds)))
        return starts

    def _turns(self) -> list[int]:
        """The turns behind a reply that are the rollout's own; a fork's first one is its parent's to fork."""
        segments: Sequence[Segment] = self._record.state.get("segments", ())
        if len(policies := {piece.policy for piece in segments}) > 1:
            raise GraphError(
                f"policies of the graph: got {sorted(policies)} with method.plan=branching, allowed one"
            )
        return [place for place in turns_behind_replies(segments) if place > self._shared]

    # What LangGraph asks

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint to begin with. Sub-graphs begin anew: none was running."""
        if self._start is None or _namespace(config):
            return None
        checkpoint, metadata = self._start
        return CheckpointTuple(_at(config, checkpoint), checkpoint, metadata, None, [])

    async def aput(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: Any
    ) -> RunnableConfig:
        """Keeps the state of the root graph if a reply is its last segment.

        Raises:
            GraphError: a value of the state cannot be copied; names its key.
        """
        segments: Sequence[Any] = checkpoint["channel_values"].get("segments", ())
        last = segments[-1] if segments else None
        if not _namespace(config) and isinstance(last, Segment) and last.role in REPLIES:
            self._states[len(segments)] = _copied(checkpoint, metadata)
        return _at(config, checkpoint)

    async def aput_writes(self, *args: Any, **kwargs: Any) -> None:
        """Writes of single nodes are not needed: a fork runs the next nodes itself."""


def _earlier(visits: Sequence[Visit], seconds: float) -> Iterator[Visit]:
    """Visits, with times since the end of a rollout that took so many seconds."""
    for visit in visits:
        calls = tuple(replace(call, started=call.started - seconds) for call in visit.calls)
        yield replace(visit, started=visit.started - seconds, calls=calls)


def _copied(checkpoint: Checkpoint, metadata: CheckpointMetadata) -> bytes:
    for key, value in checkpoint["channel_values"].items():
        try:
            packed(value)
        except Exception as error:  # whatever a graph keeps in its state
            raise GraphError(
                f"state key {key!r}: got {type(value).__name__}, which cannot be copied ({error}), allowed what pickle takes: "
                "with method.plan=branching, forks go on from a copy of the state"
            ) from error
    return packed((checkpoint, metadata))


def _namespace(config: RunnableConfig) -> str:
    return config.get("configurable", {}).get("checkpoint_ns", "")


def _at(config: RunnableConfig, checkpoint: Checkpoint) -> RunnableConfig:
    place = config.get("configurable", {})
    names = ("thread_id", "checkpoint_ns")
    return {
        "configurable": {**{name: place.get(name, "") for name in names}, "checkpoint_id": checkpoint["id"]}
    }
