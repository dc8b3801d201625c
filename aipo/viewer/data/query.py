"""The query string of a run page as filters, order and page number, and back.

All choices of a reader are in the address, so that it can be sent to somebody else. The filters are those of
`aipo/trace/filters.py`. A value that makes no sense is ignored, and the page says so.

    ?kind=assisted&step=10..20&agent=verify&sort=consults  ⇄  Query(where=Filter(...), sort="consults", ...)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

from aipo.errors import ConfigError, one_of
from aipo.trace.filters import Filter, parse_filter
from aipo.trace.index import GROUP_ORDERS, TRACE_ORDERS
from aipo.util.text import clean

ORDERS: Mapping[str, Sequence[str]] = {"groups": tuple(GROUP_ORDERS), "traces": tuple(TRACE_ORDERS)}
DEFAULT_ORDER = {"groups": "interesting", "traces": "newest"}
FIELDS = ("text", "step", "task", "kind", "agent", "reward", "stop", "failed", "error", "group")
_OTHERS = ("view", "sort", "page")
_WHERE = "the address of this page"
_LONGEST = 500
_LARGEST = 1e15


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The selection that a run page shows.

    Args:
        where: which traces.
        view: `groups` or `traces`.
        sort: one of the orders of the view.
        page: counted from 1.
        problems: a sentence for each value that makes no sense.
    """

    where: Filter = field(default_factory=Filter)
    view: str = "groups"
    sort: str = "interesting"
    page: int = 1
    problems: tuple[str, ...] = ()

    def params(self) -> dict[str, str]:
        """Names and values of a query string, without the defaults."""
        params = params_of(self.where)
        if self.view != "groups":
            params["view"] = self.view
        if self.sort != DEFAULT_ORDER[self.view]:
            params["sort"] = self.sort
        if self.page != 1:
            params["page"] = str(self.page)
        return params

    def link(self, **changed: str | int) -> str:
        """Relative address of this page with another `view`, `sort` or `page`; by default page 1."""
        if "view" in changed and changed["view"] != self.view:
            changed = {"sort": DEFAULT_ORDER[str(changed["view"])], **changed}
        return address(replace(self, **{"page": 1, **changed}).params())

    def without(self, name: str) -> str:
        """Relative address of this page without the filter `name`."""
        params = replace(self, page=1).params()
        return address({key: value for key, value in params.items() if key != name})

    @property
    def cleared(self) -> str:
        """Relative address of this page without any filter."""
        return address(replace(self, where=Filter(), page=1).params())

    @property
    def chips(self) -> list[tuple[str, str, str]]:
        """(name, value, address without it) of each filter in use."""
        return [(name, value, self.without(name)) for name, value in params_of(self.where).items()]


def address(params: Mapping[str, str]) -> str:
    """Relative address of the page, scrolled to its list."""
    return f"?{urlencode(params)}#rollouts"


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

    where = Filter()
    for name in FIELDS:
        try:
            where = _add(where, name, given[name]) if name in given else where
        except ConfigError as error:
            problems.append(f"{name}: {str(error).partition(': ')[2]}, in {_WHERE}")
    view = choice("view", tuple(ORDERS)) or "groups"
    sort = choice("sort", ORDERS[view]) or DEFAULT_ORDER[view]
    page = given.get("page", "1")
    if not re.fullmatch("[1-9][0-9]{0,8}", page):
        problems.append(one_of("page", page, "a number from 1", _WHERE))
        page = "1"
    return Query(where=where, view=view, sort=sort, page=int(page), problems=tuple(problems))


def _add(where: Filter, name: str, value: str) -> Filter:
    """`where` and one more filter.

    Raises:
        ConfigError: a value that makes no sense, or one that DuckDB cannot compare.
    """
    if len(value) > _LONGEST:
        raise ConfigError(f"{name}: got {len(value)} characters, allowed at most {_LONGEST}")
    if clean(value) != value:
        raise ConfigError(f"{name}: got {value!r}, allowed text that UTF-8 can hold")
    key = {"kind": "mode"}.get(name, name)
    part = getattr(parse_filter([f"{key}={value}"]), key)
    ends = part if isinstance(part, tuple) else ()
    if not all(end is None or abs(end) <= _LARGEST for end in ends):
        raise ConfigError(f"{name}: got {value!r}, allowed a number, or a range like 3..7, ..7, 3..")
    return replace(where, **{key: part})


def params_of(where: Filter) -> dict[str, str]:
    """The inverse of `parse` for a filter."""
    values = {
        "text": where.text,
        "step": None if where.step is None else _range_text(where.step),
        "task": where.task,
        "kind": where.mode,
        "agent": where.agent,
        "reward": None if where.reward is None else _range_text(where.reward),
        "stop": where.stop,
        "failed": None if where.failed is None else ("yes" if where.failed else "no"),
        "error": where.error,
        "group": where.group,
    }
    return {name: value for name, value in values.items() if value is not None}


def _range_text(ends: tuple[float | None, float | None]) -> str:
    low, high = (None if end is None else repr(end).removesuffix(".0") for end in ends)
    return low if low is not None and low == high else f"{low or ''}..{high or ''}"
