"""The index: which traces there are, listed, filtered and searched; and any one of them, whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb

from aipo.errors import ConfigError, RunError, TraceError, one_of
from aipo.trace.arrow import Stored
from aipo.trace.duckdb_views import Tables
from aipo.trace.filters import EVERYTHING, FAILED, Filter, condition
from aipo.trace.journal import read_journal
from aipo.trace.store import read_file

_ORDER = 'step, group_id, "index", trace_id'
TRACE_ORDERS = {
    "step": _ORDER,
    "newest": 'step DESC, group_id, "index", trace_id',
    "reward": f"reward NULLS FIRST, {_ORDER}",
    "-reward": f"reward DESC NULLS LAST, {_ORDER}",
    "tokens": f"tokens DESC, {_ORDER}",
    "consults": f"len(agents) DESC, {_ORDER}",
}
GROUP_ORDERS = {
    "interesting": "reward_max > reward_min DESC NULLS LAST, failed DESC, consults DESC, step DESC, group_id",
    "step": "step, group_id",
    "newest": "step DESC, group_id",
    "mixed": "reward_max - reward_min DESC NULLS LAST, step DESC, group_id",
    "failed": "failed DESC, step DESC, group_id",
    "consults": "consults DESC, step DESC, group_id",
}


@dataclass(frozen=True, slots=True)
class Summary:
    """One trace without its tokens. `agents` has one name per consult; `kind` is its mode, or `suppressed`; `flawed` as
    in `aipo.trace.filters`."""

    trace_id: str
    group_id: str
    task_id: str
    step: int
    index: int
    kind: str
    question: str | None
    answer: str | None
    reward: float | None
    reason: str | None
    advantage: float | None
    stop_reason: str
    error: str | None
    agents: list[str]
    consult_errors: int
    tokens: int
    policy_tokens: int
    agent_tokens: int
    started: float
    seconds: float
    parent_id: str | None
    flawed: bool | None
    sealed: bool


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one task in one step, counted."""

    group_id: str
    task_id: str
    question: str | None
    step: int
    traces: int
    scored: int
    failed: int
    assisted: int
    consults: int
    reward_mean: float | None
    reward_min: float | None
    reward_max: float | None


_GROUP = f"""SELECT group_id, any_value(task_id), any_value(question), min(step) AS step, count(*) AS traces,
count(reward), count(*) FILTER ({FAILED}) AS failed, count(*) FILTER (kind = 'assisted'),
sum(len(agents))::BIGINT AS consults, avg(reward), min(reward) AS reward_min, max(reward) AS reward_max"""
_FIELDS = ", ".join(f'"{name}"' for name in Summary.__dataclass_fields__)
_SUMMARIES = f"SELECT {_FIELDS} FROM summaries"


class TraceIndex(Tables):
    """Traces of one folder (see `aipo.trace.store.traces_in`), listed, filtered and searched."""

    def count(self, where: Filter = EVERYTHING) -> int:
        """Number of traces that match."""
        clause, values = condition(where)
        return self.all(f"SELECT count(*) FROM summaries WHERE {clause}", values)[0][0]

    def traces(
        self, where: Filter = EVERYTHING, *, order: str = "step", limit: int = 100, offset: int = 0
    ) -> list[Summary]:
        """Traces that match, from `offset` on.

        Raises:
            ConfigError: an order that there is not.
        """
        clause, values = condition(where)
        by = _known(order, TRACE_ORDERS)
        return self._summaries(f"{clause} ORDER BY {by} LIMIT ? OFFSET ?", [*values, limit, offset])

    def groups(
        self, where: Filter = EVERYTHING, *, order: str = "interesting", limit: int = 50, offset: int = 0
    ) -> list[Group]:
        """Groups in which a trace matches; counted are all of their traces.

        Raises:
            ConfigError: an order that there is not.
        """
        clause, values = condition(where)
        chosen = f"group_id IN (SELECT group_id FROM summaries WHERE {clause})"
        by = _known(order, GROUP_ORDERS)
        query = f"{_GROUP} FROM summaries WHERE {chosen} GROUP BY group_id ORDER BY {by} LIMIT ? OFFSET ?"
        return [Group(*row) for row in self.all(query, [*values, limit, offset])]

    def group_count(self, where: Filter = EVERYTHING) -> int:
        """In how many groups a trace matches."""
        clause, values = condition(where)
        query = f"SELECT count(DISTINCT group_id) FROM summaries WHERE {clause}"
        return self.all(query, values)[0][0]

    def of_groups(self, group_ids: Sequence[str]) -> dict[str, list[Summary]]:
        """All traces of these groups, by group and index."""
        groups: dict[str, list[Summary]] = {group_id: [] for group_id in group_ids}
        for summary in self._summaries(f"list_contains(?, group_id) ORDER BY {_ORDER}", [list(group_ids)]):
            groups[summary.group_id].append(summary)
        return groups

    def matching(self, where: Filter, group_ids: Sequence[str]) -> set[str]:
        """Ids of the traces of these groups that match."""
        clause, values = condition(where)
        query = f"SELECT trace_id FROM summaries WHERE list_contains(?, group_id) AND {clause}"
        return {row[0] for row in self.all(query, [list(group_ids), *values])}

    def steps(self) -> tuple[int, int] | None:
        """The first and the last step; None while there are no traces."""
        ((first, last),) = self.all("SELECT min(step), max(step) FROM summaries")
        return None if first is None else (first, last)

    def agents(self) -> tuple[str, ...]:
        """Every agent that was asked, known or not."""
        return self._names("SELECT DISTINCT unnest(agents) AS name FROM summaries ORDER BY name")

    def stops(self) -> tuple[str, ...]:
        """Every reason why a rollout ended."""
        return self._names("SELECT DISTINCT stop_reason AS name FROM summaries ORDER BY name")

    def summary(self, trace_id: str) -> Summary | None:
        """One trace's summary."""
        return next(iter(self._summaries("trace_id = ?", [trace_id])), None)

    def neighbours(self, trace_id: str) -> tuple[str | None, str | None]:
        """The traces before and after, by step, group and index."""
        place = f"(SELECT ({_ORDER}) FROM summaries WHERE trace_id = ?)"
        back = ", ".join(f"{name} DESC" for name in _ORDER.split(", "))
        queries = (
            f"SELECT trace_id FROM summaries WHERE ({_ORDER}) < {place} ORDER BY {back} LIMIT 1",
            f"SELECT trace_id FROM summaries WHERE ({_ORDER}) > {place} ORDER BY {_ORDER} LIMIT 1",
        )
        before, after = (self.all(query, [trace_id]) for query in queries)
        return (before[0][0] if before else None, after[0][0] if after else None)

    def stored(self, trace_id: str) -> Stored:
        """One trace whole, with its texts.

        Raises:
            TraceError: there is none of this id, or its file cannot be read.
        """
        problem: Exception = TraceError(
            one_of("trace", trace_id, "an id that `aipo traces` lists", str(self.folder))
        )
        seen = -1
        while seen != (seen := self.refresh()):  # a step may be sealed, or done over, while we look
            rows = self.all("SELECT file, start FROM summaries WHERE trace_id = ?", [trace_id])
            try:
                stored = _read(Path(rows[0][0]), rows[0][1], trace_id) if rows else None
            except (FileNotFoundError, TraceError) as error:
                problem = error
            else:
                if stored is not None:
                    return stored
        raise problem

    def sql(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Any query of DuckDB; the view `traces` has all columns of all traces.

        Raises:
            RunError: DuckDB refuses it; with its reason.
        """
        if not query.strip(" ;\n"):
            raise RunError(f"--sql: got {query!r}, allowed a query of DuckDB")
        try:
            return self.query(query)
        except duckdb.Error as error:
            raise RunError(f"--sql: got {query!r}, allowed a query of DuckDB: {error}") from error

    def _summaries(self, clause: str, values: Sequence[object]) -> list[Summary]:
        return [Summary(*row) for row in self.all(f"{_SUMMARIES} WHERE {clause}", values)]

    def _names(self, query: str) -> tuple[str, ...]:
        return tuple(row[0] for row in self.all(query))


def _read(path: Path, start: int, trace_id: str) -> Stored | None:
    """The trace in a file, or behind a byte of a journal; None if it is not there any more."""
    journal = path.suffix != ".parquet"
    stored = (
        [one for one, _ in islice(read_journal(path, start), 1)] if journal else read_file(path, trace_id)
    )
    return stored[0] if stored and stored[0].trace.trace_id == trace_id else None


def _known(order: str, orders: Mapping[str, str]) -> str:
    if order not in orders:
        raise ConfigError(f"order: got {order!r}, allowed {', '.join(orders)}")
    return orders[order]
