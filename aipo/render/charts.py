"""Charts as data: Python says what is in a chart, `static/charts.js` draws it with uPlot (hover, zoom, light and dark).

A page has one `<figure data-chart="N">` for each chart, one block of data, the style sheets and the scripts. The
viewer serves them as files; a page that stands alone has them inside (`inline_assets`).
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from markupsafe import Markup

from aipo.render.templating import json_block, static_text

SCRIPTS = ("uPlot.iife.min.js", "charts.js", "chart_tools.js")
STYLES = ("uPlot.min.css", "charts.css")
COLOURS = 12
"""`c0` to `c11` are CSS variables of the page; so are `k0` to `k5`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One named line.

    Args:
        colour: name of a CSS variable, such as `c1`.
        x, y: points in order of x; None in `y` is a gap.
        band: (low, high) around each point, or none.
        raw: the same line before smoothing. It is drawn faintly, and the pointer shows both values.
        joined: False: points that no line goes through, in any order.
        dashed: drawn with dashes; colours from `c6` on always are.
    """

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float | None]
    band: Sequence[tuple[float, float]] = ()
    raw: Sequence[float | None] = ()
    joined: bool = True
    dashed: bool = False

    @property
    def empty(self) -> bool:
        return all(value is None for value in self.y)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Lines over one horizontal axis.

    Args:
        x_range: what the horizontal axis shows at least, so that small multiples share it.
        y_range: what the vertical axis shows; None: from 0 (or less) to the data's end.
        log: the horizontal axis counts doublings, for pass@k.
    """

    title: str
    lines: Sequence[Line]
    x_label: str
    y_label: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    log: bool = False

    def data(self) -> dict[str, Any]:
        """The chart as data for charts.js. Lines without a value are left out."""
        shown = {field.name: getattr(self, field.name) for field in fields(self)}
        return shown | {"lines": [_line_data(line) for line in self.lines if not line.empty]}


def _line_data(line: Line) -> dict[str, Any]:
    dash = line.dashed or (line.colour.startswith("c") and int(line.colour[1:]) > 5)
    rest: dict[str, Any] = {}
    if line.raw and list(line.raw) != list(line.y):
        rest["raw"] = _rounded(line.raw)
    if line.band:
        rest["low"], rest["high"] = (_rounded(ends) for ends in zip(*line.band, strict=True))
    return {
        "name": line.name,
        "colour": line.colour,
        "x": _rounded(line.x),
        "y": _rounded(line.y),
        "joined": line.joined,
        "dash": [7, 4] if dash else [2, 4] if line.colour == "c0" else [],
        **rest,
    }


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    """To 6 significant digits; what is not finite is a gap."""
    return [None if v is None or not math.isfinite(v) else float(f"{v:.6g}") for v in values]


def figure(number: int, chart: Chart) -> Markup:
    """The place of chart `number` on a page, with its title; the script fills it."""
    html = '<figure class="chart" data-chart="{}"><figcaption><b>{}</b> <span>{}</span></figcaption></figure>'
    return Markup(html).format(number, chart.title, chart.y_label)


def data_block(charts: Sequence[Chart], **page: Any) -> Markup:
    """The data of all charts of a page, in the order of their numbers.

    Args:
        page: what else charts.js takes: `spans` ([first, last] step of each point), `sync` (one pointer for all
            charts), `hint` (a line under the values).
    """
    return json_block("charts-data", {**page, "charts": [chart.data() for chart in charts]})


def inline_assets() -> Mapping[str, Markup]:
    """`style`, `scripts` and `policy` (a Content-Security-Policy that allows these scripts) of a self-contained page."""
    scripts = [static_text(name) for name in SCRIPTS]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    return {
        "style": Markup("\n".join(static_text(name) for name in STYLES)),
        "scripts": Markup("\n".join(f"<script>{text}</script>" for text in scripts)),
        "policy": Markup(f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}"),
    }


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, at steps of 1, 2 or 5 × 10ⁿ."""
    size = max(abs(low), abs(high), 1.0)
    span = high - low if high - low > 1e-9 * size else size  # a range that nobody could see is a point
    rough = span / about
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1.0, 2.0, 5.0, 10.0) if m * scale >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def smooth(values: Sequence[float | None], window: int | None = None) -> list[float | None]:
    """Centred moving average; gaps stay gaps and count nowhere.

    Args:
        window: the number of neighbours, odd; default: a tenth of all values.
    """
    half = len(values) // 20 if window is None else window // 2
    averages: list[float | None] = []
    for i, value in enumerate(values):
        near = [v for v in values[max(0, i - half) : i + half + 1] if v is not None]
        averages.append(None if value is None else sum(near) / len(near))
    return averages
