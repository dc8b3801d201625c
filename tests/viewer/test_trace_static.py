"""What the page of a trace loads: colours that can be read on, and KaTeX with its licence."""

import re
from importlib.resources import files

import pytest

from kit.handmade import contrast

STATIC = files("aipo.viewer").joinpath("static")
CSS = STATIC.joinpath("trace.css").read_text(encoding="utf-8")
HEATS = re.findall(r"heat-\d \{ --heat: light-dark\((#\w{6}), (#\w{6})\)", CSS)
INKS = ("#1b2027", "#e4e8ee")


@pytest.mark.parametrize("theme", [0, 1])
def test_text_can_be_read_on_every_heat_of_two_scales(theme: int) -> None:
    assert len(HEATS) == 20
    assert [heat for heat in HEATS if contrast(INKS[theme], heat[theme]) < 4.5] == []


def test_katex_comes_with_its_licence() -> None:
    licence = STATIC.joinpath("KATEX-LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("The MIT License")
    assert licence.strip() in STATIC.joinpath("katex.min.js").read_text(encoding="utf-8")


def test_scripts_never_write_markup() -> None:
    for name in ("trace.js", "tokens.js", "heat.js", "formulas.js"):
        script = STATIC.joinpath(name).read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script), name
