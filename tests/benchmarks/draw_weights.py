"""Draws what agents' tokens are worth: weights.svg, beside this file, for its README.

    python tests/benchmarks/draw_weights.py

For every coefficient and every rule for A < 0 the weight w of A·∇log π, and w·(1 − π), by which the token's own logit
moves; against π, on one scale. Weights are those that the loss uses.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from aipo.chart import HEIGHT, STYLE, WIDTH, Line, chart
from aipo.coefficients import COEFFICIENTS, Known
from aipo.weighing import NEGATIVES, Weighing, agent_weights

FILE = Path(__file__).with_name("weights.svg")
COLUMNS, SCALE = 3, 0.8
MU = 0.5
LOG_PI = torch.linspace(-4, 0, 161, dtype=torch.float64)

COLOURS = (
    ":root{--page:#fff;--ink:#1b2027;--soft:#5b6470;--line:#e1e5ea;--c1:#0a66b7;--c2:#a34a00}"
    "@media (prefers-color-scheme:dark){:root{--page:#0f1217;--ink:#e4e8ee;--soft:#98a2b0;--line:#272d36;"
    "--c1:#6db5f5;--c2:#f0a35e}}"
)
NOTES = {
    "luffy": "γ = 0.1",
    "rlplus": "π_old = π, as in a generation's first step",
    "floor": "c = 0.3",
    "power": "α = 0.5, c = 0.1",
    "constant": "c = 1",
    "echo": "0.05, of ∇log π whatever A is",
    "ratio": f"μ = {MU:g}, at most 2",
}
SAME = "same"
"""The rule whose pictures are those of the coefficients."""


def panel(title: str, note: str, weight: Callable[[Tensor], Tensor]) -> str:
    pi = 10**LOG_PI
    w = weight(pi[None])[0]
    x = LOG_PI.tolist()
    lines = [
        Line(name="w", colour="c1", x=x, y=w.tolist()),
        Line(name="w·(1 − π)", colour="c2", x=x, y=(w * (1 - pi)).tolist()),
    ]
    top = 2.0 if w.max() > 1 else 1.0
    return chart(lines, title=title, x_label="log₁₀ π", y_label=note, y_range=(0.0, top))


def weighed(how: Weighing, advantage: float, pi: Tensor) -> Tensor:
    mu = torch.full_like(pi, MU)
    return agent_weights(Known(pi, mu, pi), torch.tensor([[advantage]]), how).weights


def panels() -> list[str]:
    up = [
        panel(f"{name}, A > 0", NOTES.get(name, ""), partial(weighed, Weighing(coefficient=name), 1.0))
        for name in COEFFICIENTS
    ]
    down = [
        panel(
            f"A < 0, rule {name}",
            "" if rule.value is None else f"c = {rule.value:g}",
            partial(weighed, Weighing(negatives=name), -1.0),
        )
        for name, rule in NEGATIVES.items()
        if name != SAME
    ]
    return [*up, *down]


def main() -> None:
    drawn = panels()
    wide, high = WIDTH * SCALE, HEIGHT * SCALE
    rows = -(-len(drawn) // COLUMNS)
    placed = [
        svg.replace(
            "<svg ",
            f'<svg x="{i % COLUMNS * wide:g}" y="{i // COLUMNS * (high + 12):g}" width="{wide:g}" height="{high:g}" ',
            1,
        )
        for i, svg in enumerate(drawn)
    ]
    size = f"{COLUMNS * wide + 24:g} {rows * (high + 12) + 12:g}"
    style = STYLE.replace(".chart{width:100%;height:auto;display:block}", "")
    FILE.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -12 {size}"><style>{COLOURS}{style}</style>'
        f'<rect x="-12" y="-12" width="100%" height="100%" style="fill:var(--page)"/>{"".join(placed)}</svg>\n',
        encoding="utf-8",
    )
    print(FILE)


if __name__ == "__main__":
    main()
