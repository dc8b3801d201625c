"""The address of a run page and what it asks for, both ways."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.trace.filters import KINDS, Filter
from aipo.viewer.data.query import FIELDS, parse

VALUES = st.sampled_from([*KINDS, "3", "0.5..", "-1..7", "yes", "eos", "traces", "tokens", "a&b=<é> /#"])


@pytest.mark.parametrize(
    ("params", "where"),
    [
        ({}, Filter()),
        ({"step": "12"}, Filter(step=(12, 12))),
        ({"step": "3..7"}, Filter(step=(3, 7))),
        ({"step": "..7"}, Filter(step=(None, 7))),
        ({"reward": "-1..0.5"}, Filter(reward=(-1.0, 0.5))),
        ({"reward": "0.5.."}, Filter(reward=(0.5, None))),
        ({"kind": "suppressed", "agent": "verify"}, Filter(kind="suppressed", agent="verify")),
        ({"failed": "no", "stop": "length"}, Filter(failed=False, stop="length")),
        ({"text": "  a <b> ", "task": "hard/", "error": "Boom", "group": "00001-000"},
         Filter(text="a <b>", task="hard/", error="Boom", group="00001-000")),
        ({"step": "", "kind": " "}, Filter()),
    ],
)  # fmt: skip
def test_names_and_values_become_a_filter(params: dict[str, str], where: Filter) -> None:
    query = parse(params)
    assert query.where == where
    assert query.problems == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", "soon"), ("step", "1.5"), ("step", ".."), ("step", "7..3"), ("step", "9" * 400),
        ("reward", "nan"), ("reward", "1e999"), ("reward", "1..2..3"),
        ("kind", "alone"), ("stop", "boredom"), ("failed", "perhaps"), ("view", "rows"),
        ("sort", "-reward"),  # an order of traces, not of groups
        ("page", "0"), ("page", "-1"), ("page", "١"),
        ("text", "x" * 501), ("text", "\ud800"), ("setp", "3"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_left_out_and_said(name: str, value: str) -> None:
    query = parse({name: value, "agent": "verify"})
    assert query.where == Filter(agent="verify")
    assert (query.view, query.sort, query.page) == ("groups", "interesting", 1)
    (problem,) = query.problems
    assert name in problem and "got" in problem and "allowed" in problem


def test_an_order_belongs_to_its_view() -> None:
    query = parse({"view": "traces", "sort": "-reward", "page": "3"})
    assert (query.sort, query.page, query.problems) == ("-reward", 3, ())
    assert query.link(view="groups") == "?#rollouts"
    assert query.link(sort="newest") == "?view=traces#rollouts"
    assert query.link(page=4) == "?view=traces&sort=-reward&page=4#rollouts"


def test_each_filter_can_be_taken_away() -> None:
    query = parse({"step": "3..7", "kind": "solo", "text": "a&b", "page": "2"})
    assert query.chips == [
        ("text", "a&b", "?step=3..7&kind=solo#rollouts"),
        ("step", "3..7", "?text=a%26b&kind=solo#rollouts"),
        ("kind", "solo", "?text=a%26b&step=3..7#rollouts"),
    ]
    assert query.cleared == "?#rollouts"


@given(st.dictionaries(st.sampled_from([*FIELDS, "page", "view", "sort"]), st.text() | VALUES))
def test_no_address_is_an_error_and_what_a_query_shows_has_an_address(params: dict[str, str]) -> None:
    query = parse(params)
    assert parse(query.params()) == replace(query, problems=())
