"""What the page of a trace loads: colours that can be read on, and KaTeX with its licence."""

import re
from importlib.resources import files

import pytest

STATIC = files("aipo.viewer").joinpath("static")
CSS = STATIC.joinpath("trace.css").read_text(encoding="utf-8")
HEATS = re.findall(r"heat-\d \{ --heat: light-dark\((#\w{6}), (#\w{6})\)", CSS)
INKS = ("#1b2027", "#e4e8ee")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2, 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_there_are_two_scales_of_ten_steps() -> None:
    assert len(HEATS) == 20


@pytest.mark.parametrize("theme", [0, 1])
def test_text_can_be_read_on_every_heat(theme: int) -> None:
    for heat in HEATS:
        assert contrast(INKS[theme], heat[theme]) >= 4.5, heat


def test_katex_comes_with_its_licence() -> None:
    licence = STATIC.joinpath("KATEX-LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("The MIT License")
    assert licence.strip() in STATIC.joinpath("katex.min.js").read_text(encoding="utf-8")


def test_scripts_never_write_markup() -> None:
    for name in ("trace.js", "tokens.js", "heat.js", "formulas.js"):
        script = STATIC.joinpath(name).read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script), name
