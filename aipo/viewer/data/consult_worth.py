"""Does asking help? The table of `aipo replay consults --group`, for the page of a run."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from aipo.trace import Consult
from aipo.viewer.data.run import RunView
from aipo.viewer.data.run_summary import section

if TYPE_CHECKING:
    from aipo.replay.output import ReplayTable

_ROLLOUTS = """
SELECT trace_id, group_id, task_id, step, mode, reward, task->>'cluster',
    list_transform(consults, lambda c: {agent: c.agent, reply: CASE WHEN c.reply IS NOT NULL THEN '' END}),
    len(consults) - len(agents)
FROM traces WHERE group_id IN (SELECT group_id FROM summaries WHERE len(agents) > 0) ORDER BY step, group_id, "index"
"""
_NOT_READ: dict[str, Any] = {"request": None, "request_segment": 0, "request_start": None, "reply_segment": 0}


class _Rollout(NamedTuple):
    """A rollout without its tokens and texts; see `aipo.replay.questions.consult_worth.AskingRollout`."""

    trace_id: str
    group_id: str
    task_id: str
    step: int
    mode: str
    reward: float | None
    task: Mapping[str, Any]
    consults: Sequence[Consult]
    shared_consults: int  # `agents` has the own ones only


@lru_cache(maxsize=8)
def consult_worth(run: RunView, agents: tuple[str, ...], version: object) -> "ReplayTable | None":
    """A row for each agent that was asked; None where there is no consult to compare with a rollout without one.

    Args:
        agents: the known ones.
        version: the table is made anew when it has changed.

    Raises:
        TraceError: a file of traces cannot be read.
    """
    rollouts = [
        _Rollout._make(
            [*facts, {"cluster": cluster}, [Consult(**_NOT_READ, **one) for one in consults], shared]
        )
        for *facts, cluster, consults, shared in run.index.sql(_ROLLOUTS)[1]
    ]
    if not rollouts:
        return None
    # It imports LangGraph, which a run without agents need not wait for.
    from aipo.replay.questions.consult_worth import Tally, against_group, table

    worths = [*against_group(rollouts, agents)]
    if not worths:
        return None
    tally = Tally(agents)
    tally.add(rollouts, worths)
    seed = section(run.config(), "run").get("seed")
    return table(tally.agents(seed if isinstance(seed, int) else 0))
