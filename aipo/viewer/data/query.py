"""The query string of a run page as filters, order and page number, and back.

All choices of a reader are in the address, so that it can be sent to somebody else. The filters are those of
`aipo/trace/filters.py`. A value that makes no sense is ignored, and the page says so.

    ?kind=assisted&step=10..20&agent=verify&sort=consults  ⇄  Query(where=Filter(...), sort="consults", ...)
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from aipo.errors import ConfigError, one_of
from aipo.trace.filters import Filter, parse_filter
from aipo.trace.index import GROUP_ORDERS, TRACE_ORDERS
from aipo.util.text import clean

ORDERS: Mapping[str, Sequence[str]] = {"groups": tuple(GROUP_ORDERS), "traces": tuple(TRACE_ORDERS)}
DEFAULT_ORDER = {"groups": "interesting", "traces": "newest"}
FIELDS = (
    "text",
    "step",
    "task",
    "kind",
    "agent",
    "reward",
    "stop",
    "failed",
    "flawed",
    "reason",
    "error",
    "group",
)
_OTHERS = ("view", "sort", "page")
_WHERE = "the address of this page"
_LONGEST = 500
_LARGEST = 1e15


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The selection that a run page shows.

    Args:
        filters: the filters in use by their names in the address, as they were typed.
        where: the same as one filter.
        view: `groups` or `traces`.
        sort: one of the orders of the view.
        page: counted from 1.
        problems: a sentence for each value that makes no sense.
    """

    filters: Mapping[str, str] = field(default_factory=dict[str, str])
    where: Filter = field(default_factory=Filter)
    view: str = "groups"
    sort: str = "interesting"
    page: int = 1
    problems: tuple[str, ...] = ()

    def params(self) -> dict[str, str]:
        """Names and values of a query string, without the defaults."""
        others = {
            "view": "" if self.view == "groups" else self.view,
            "sort": "" if self.sort == DEFAULT_ORDER[self.view] else self.sort,
            "page": "" if self.page == 1 else str(self.page),
        }
        return {**self.filters, **{name: value for name, value in others.items() if value}}

    def link(self, *, without: Collection[str] = (), **changed: str | int) -> str:
        """Relative address of the list with another `view`, `sort` or `page` (by default 1), or without some filters."""
        if "view" in changed and changed["view"] != self.view:
            changed = {"sort": DEFAULT_ORDER[str(changed["view"])], **changed}
        params = replace(self, **{"page": 1, **changed}).params()
        return f"?{urlencode({name: v for name, v in params.items() if name not in without})}#rollouts"

    @property
    def cleared(self) -> str:
        """Relative address of this page without any filter."""
        return self.link(without=FIELDS)

    @property
    def chips(self) -> list[tuple[str, str, str]]:
        """(name, value, address without it) of each filter in use."""
        return [(name, value, self.link(without=[name])) for name, value in self.filters.items()]


def parse(params: Mapping[str, str]) -> Query:
    """The query of `params`; never fails."""
    given = {name: value.strip() for name, value in params.items() if value.strip()}
    names = (*FIELDS, *_OTHERS)
    problems = [one_of("filter", name, ", ".join(names), _WHERE) for name in params if name not in names]

    def choice(name: str, allowed: Sequence[str]) -> str | None:
        value = given.get(name)
        if value is None or value in allowed:
            return value
        problems.append(one_of(name, value, ", ".join(allowed), _WHERE))
        return None

    filters: dict[str, str] = {}
    conditions: dict[str, Any] = {}
    for name in (name for name in FIELDS if name in given):
        try:
            conditions |= _condition(name, given[name])
            filters[name] = given[name]
        except ConfigError as error:
            problems.append(f"{name}: {str(error).partition(': ')[2]}, in {_WHERE}")
    view = choice("view", tuple(ORDERS)) or "groups"
    sort = choice("sort", ORDERS[view]) or DEFAULT_ORDER[view]
    page = given.get("page", "1")
    if not re.fullmatch("[1-9][0-9]{0,8}", page):
        problems.append(one_of("page", page, "a number from 1", _WHERE))
        page = "1"
    where = Filter(**conditions)
    return Query(filters=filters, where=where, view=view, sort=sort, page=int(page), problems=tuple(problems))


def _condition(name: str, value: str) -> dict[str, Any]:
    """One argument of a `Filter`.

    Raises:
        ConfigError: a value that makes no sense, or one that DuckDB cannot compare.
    """
    if len(value) > _LONGEST:
        raise ConfigError(f"{name}: got {len(value)} characters, allowed at most {_LONGEST}")
    if clean(value) != value:
        raise ConfigError(f"{name}: got {value!r}, allowed text that UTF-8 can hold")
    part = getattr(parse_filter([f"{name}={value}"]), name)
    ends = part if isinstance(part, tuple) else ()
    if not all(end is None or abs(end) <= _LARGEST for end in ends):
        raise ConfigError(f"{name}: got {value!r}, allowed a number, or a range like 3..7, ..7, 3..")
    return {name: part}
