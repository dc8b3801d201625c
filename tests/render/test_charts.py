"""Charts as data: what the script is given is what the numbers say. How it draws them is in test_charts_browser."""

import base64
import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment

from aipo.render.charts import Chart, Line, data_block, figure, inline_assets, nice_ticks, smooth
from aipo.render.templating import json_block


def test_a_chart_holds_its_lines_and_leaves_empty_ones_out() -> None:
    values = {"name": "a", "colour": "c1", "x": [1, 2], "y": [0.5, None], "raw": [0.25, None]}
    lines = [Line(**values, band=[(0.4, 0.6), (0.3, 0.7)]), Line(name="none", colour="c2", x=[1], y=[None])]
    axes = {"title": "t", "x_label": "step", "y_label": "reward", "x_range": (0, 2), "log": True}
    line = {**values, "joined": True, "dash": [], "low": [0.4, 0.3], "high": [0.6, 0.7]}
    assert Chart(**axes, lines=lines).data() == {**axes, "y_range": None, "lines": [line]}


@pytest.mark.parametrize(("colour", "dash"), [("c0", [2, 4]), ("c1", []), ("c6", [7, 4]), ("k5", [])])
def test_the_first_policy_is_dotted_and_colours_beyond_six_are_dashed(colour: str, dash: list[int]) -> None:
    line = Line(name="a", colour=colour, x=[1], y=[1.0])
    assert Chart(title="", lines=[line], x_label="").data()["lines"][0]["dash"] == dash


def test_what_is_not_finite_is_a_gap_and_raw_values_are_not_said_twice() -> None:
    y = [float("nan"), 1 / 3, float("inf")]
    line = Line(name="a", colour="c1", x=[1, 2, 3], y=y, raw=y)
    (data,) = Chart(title="", lines=[line], x_label="").data()["lines"]
    assert data["y"] == [None, 0.333333, None] and "raw" not in data


def test_a_figure_and_its_data_have_one_number_and_a_hostile_title_is_text() -> None:
    chart = Chart(title="</b><script>", lines=[], x_label="step")
    assert "<script" not in figure(3, chart) and 'data-chart="3"' in figure(3, chart)
    block = data_block([chart], sync=True)
    assert "</b>" not in block and '{"sync":true,"charts":[{"title":' in block


NAMES = st.text(st.characters(), max_size=80)  # lone surrogates too


@given(st.recursive(NAMES | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(NAMES, v)))
def test_data_in_a_page_cannot_end_its_element(value: object) -> None:
    inside = str(json_block("data", value)).removeprefix('<script type="application/json" id="data">')
    inside = inside.removesuffix("</script>")
    assert not set("<>&\u2028\u2029") & set(inside)
    assert json.loads(inside) == value


def test_data_in_a_page_is_not_escaped_twice() -> None:
    page = Environment(autoescape=True).from_string("{{ it }}")
    html = page.render(it=json_block('a"b', ["</script>", "&"]))
    assert html == '<script type="application/json" id="a&#34;b">["\\u003c/script\\u003e","\\u0026"]</script>'
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_block("data", float("nan"))


def test_a_page_that_stands_alone_allows_its_own_scripts_and_no_other() -> None:
    assets = inline_assets()
    scripts = re.findall(r"(?s)<script>(.*?)</script>", assets["scripts"])
    assert len(scripts) == 3 and "uPlot" in scripts[0] and "</" not in scripts[1]
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in assets["policy"]
    assert "default-src 'none'" in assets["policy"] and "url(" not in assets["style"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 240, [0, 50, 100, 150, 200, 250]),
        (1, 7, [0, 2, 4, 6, 8]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_enclose_the_range(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(1.0, abs(low) + span)
    assert 2 <= len(ticks) <= 12
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack


def test_smoothing_is_a_centred_mean() -> None:
    assert smooth([0, 3, 6, 9], 3) == [1.5, 3, 6, 7.5]
    assert smooth([0, None, 6], 3) == [0, None, 6]
    assert smooth([1, 2], 1) == [1, 2]
