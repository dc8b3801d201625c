"""The style sheet that Python writes: what reports and notebooks use too, and the producers' colours."""

from aipo.render import graph_svg as draw
from aipo.render import shown as render


def palette() -> str:
    """Producers' colours as variables and chips, then the styles of traces and graphs."""
    values, chips = "", ""
    for name, (light, dark) in render.COLOURS.items():
        values += f"--{name}:light-dark({light[0]},{dark[0]});--{name}-bg:light-dark({light[1]},{dark[1]});"
        chips += f".chip.{name}{{color:var(--{name});background:var(--{name}-bg);box-shadow:none}}"
    return "\n".join([f":root{{{values}}}", chips, render.STYLE, draw.STYLE, ""])
