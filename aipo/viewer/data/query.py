"""The query string of a run page and the question it asks of the index, both ways.

Everything that a reader has chosen is in the address, so that it can be sent to somebody else. What makes no
sense is left out and said on the page; a mistyped address is no reason for a blank one.

    ?kind=assisted&step=10..20&agent=verify&sort=consults  ⇄  Query(where=Filter(...), sort="consults", ...)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar
from urllib.parse import urlencode

from aipo.errors import ConfigError, one_of
from aipo.trace import StopReason
from aipo.trace.filters import KINDS, Filter, parse_range
from aipo.trace.index import GROUP_ORDERS, TRACE_ORDERS

ORDERS: Mapping[str, Sequence[str]] = {"groups": tuple(GROUP_ORDERS), "traces": tuple(TRACE_ORDERS)}
DEFAULT_ORDER = {"groups": "interesting", "traces": "newest"}
FIELDS = ("text", "step", "task", "kind", "agent", "reward", "stop", "failed", "error", "group")
_OTHERS = ("view", "sort", "page")
_WHERE = "the address of this page"
_LONGEST = 500
_LARGEST = 1e15

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is asked for.

    Args:
        where: which traces.
        view: `groups` or `traces`.
        sort: one of the orders of the view.
        page: counted from 1.
        problems: what of the address made no sense, a sentence each.
    """

    where: Filter = field(default_factory=Filter)
    view: str = "groups"
    sort: str = "interesting"
    page: int = 1
    problems: tuple[str, ...] = ()

    def params(self) -> dict[str, str]:
        """As names and values of a query string; what is as by default is left out."""
        params = params_of(self.where)
        if self.view != "groups":
            params["view"] = self.view
        if self.sort != DEFAULT_ORDER[self.view]:
            params["sort"] = self.sort
        if self.page != 1:
            params["page"] = str(self.page)
        return params

    def link(self, **changed: str | int) -> str:
        """Relative address of this page with `view`, `sort` or `page` changed; else it begins on page 1."""
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
    """Relative address of the page, at its list: nobody who chooses rows wants to scroll to them again."""
    return f"?{urlencode(params)}#rollouts"


def parse(params: Mapping[str, str]) -> Query:
    """The query of `params`; never fails."""
    reader = _Reader(params)
    where = Filter(
        step=reader.read("step", _steps),
        task=reader.read("task", _text),
        group=reader.read("group", _text),
        agent=reader.read("agent", _text),
        mode=reader.read("kind", _one_of(KINDS)),
        reward=reader.read("reward", _rewards),
        stop=reader.read("stop", _one_of([str(stop) for stop in StopReason])),
        failed=reader.read("failed", lambda value: _one_of(("yes", "no"))(value) == "yes"),
        error=reader.read("error", _text),
        text=reader.read("text", _text),
    )
    view = reader.read("view", _one_of(tuple(ORDERS))) or "groups"
    sort = reader.read("sort", _one_of(ORDERS[view])) or DEFAULT_ORDER[view]
    page = reader.read("page", _page) or 1
    reader.refuse_strangers()
    return Query(where=where, view=view, sort=sort, page=page, problems=tuple(reader.problems))


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


class _Reader:
    """Reads values one by one and keeps what was wrong with them."""

    def __init__(self, params: Mapping[str, str]) -> None:
        self._params = params
        self.problems: list[str] = []

    def read(self, name: str, convert: Callable[[str], T]) -> T | None:
        """The value called `name`, or None when it is missing, empty or wrong."""
        value = self._params.get(name, "").strip()
        if not value:
            return None
        try:
            return convert(value)
        except ValueError as error:  # ConfigError is one
            self.problems.append(one_of(name, value, error, _WHERE))
            return None

    def refuse_strangers(self) -> None:
        known = (*FIELDS, *_OTHERS)
        self.problems += [
            one_of("filter", name, ", ".join(known), _WHERE) for name in self._params if name not in known
        ]


def _text(value: str) -> str:
    if len(value) > _LONGEST:
        raise ConfigError(f"at most {_LONGEST} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError("text that UTF-8 can hold") from None
    return value


def _one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    def choose(value: str) -> str:
        if value not in allowed:
            raise ConfigError(", ".join(allowed))
        return value

    return choose


def _page(value: str) -> int:
    if not value.isascii() or not value.isdigit() or not int(value[:9]) >= 1 or len(value) > 9:
        raise ConfigError("a number from 1")
    return int(value)


def _steps(value: str) -> tuple[int | None, int | None]:
    low, high = _range("step", value, int)
    return (None if low is None else int(low), None if high is None else int(high))


def _rewards(value: str) -> tuple[float | None, float | None]:
    return _range("reward", value, float)


def _range(name: str, value: str, number: type[int] | type[float]) -> tuple[float | None, float | None]:
    """Two ends, of which one is given, neither beyond what the index can compare, in order."""
    allowed = "a number, or a range like 3..7, ..7, 3.., the smaller number first"
    try:
        low, high = parse_range(name, value, number)
    except ConfigError:
        raise ConfigError(allowed) from None
    given = [end for end in (low, high) if end is not None]
    if not given or not all(abs(end) <= _LARGEST for end in given) or given != sorted(given):
        raise ConfigError(allowed)
    return low, high


def _range_text(ends: tuple[float | None, float | None]) -> str:
    low, high = (None if end is None else repr(end).removesuffix(".0") for end in ends)
    return low if low is not None and low == high else f"{low or ''}..{high or ''}"
