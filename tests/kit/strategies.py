"""Strategies of hypothesis: any segment, and any trace."""

from enum import Enum
from types import NoneType
from typing import Any, get_args, get_type_hints

from hypothesis import strategies as st

from aipo.trace import Role, Segment, StopReason, Trace, segment

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
IDS = st.integers(-(2**31), 2**31 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(0, 9),
    float: st.floats(0, 1e6),
    bool: st.booleans(),
    dict[str, Any]: st.dictionaries(TEXT, JSON, max_size=3),
    dict[str, str]: st.dictionaries(TEXT, TEXT, max_size=2),
    dict[str, float]: st.dictionaries(TEXT, FINITE, max_size=3),
    tuple[int, ...]: st.lists(IDS, max_size=3).map(tuple),
}


def of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field with this annotation."""
    args = get_args(hint)
    if hint in _LEAVES:
        return _LEAVES[hint]
    if NoneType in args:
        return st.none() | of(args[0])
    if args:
        return st.lists(of(args[0]), max_size=3).map(tuple)
    return st.sampled_from(hint) if issubclass(hint, Enum) else built(hint)


def built(noun: type, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(noun)
    return st.builds(noun, **{name: fields[name] if name in fields else of(hints[name]) for name in hints})


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    role = draw(st.sampled_from(Role))
    ids = draw(st.lists(IDS, min_size=role is Role.POLICY, max_size=5))
    same = {"min_size": len(ids), "max_size": len(ids)}
    logprobs = st.lists(st.floats(-(2.0**99), 0, width=32), **same)
    return segment(
        role,
        draw(TEXT),
        ids,
        logprobs=draw(logprobs if role is Role.POLICY else st.none() | logprobs),
        entropies=draw(st.none() | st.lists(st.floats(0, 100, width=32), **same)),
        policy_version=draw(of(int | None)),
        policy=draw(TEXT),
    )


def _trace(stop: StopReason) -> st.SearchStrategy[Trace]:
    number = st.none() if stop.failed else st.none() | FINITE
    return built(
        Trace,
        stop_reason=st.just(stop),
        reward=number,
        advantage=number,
        seed=st.integers(0, 2**63 - 1),
        segments=st.lists(segments(), max_size=3).map(tuple),
        schema_version=st.just(1),
    )


TRACES = st.sampled_from(StopReason).flatmap(_trace)
