"""Draws what agents' tokens are worth: weights.png, beside this file, for its README.

    python tests/benchmarks/draw_weights.py

For every coefficient and every rule for A < 0 the weight w of A·∇log π, and w·(1 − π), by which the token's own logit
moves; against π, on one scale. Weights are those that the loss uses.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from sheet import write_sheet
from torch import Tensor

from aipo.method.agent_weights import COEFFICIENTS, NEGATIVES, Probabilities, agent_weights
from aipo.method.settings import MethodSettings
from aipo.render.charts import Chart, Line

FILE = Path(__file__).with_name("weights.png")
COLUMNS, SIZE = 3, (3.4, 1.9)
MU = 0.5
LOG_PI = torch.linspace(-4, 0, 161, dtype=torch.float64)

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


def panel(title: str, note: str, weight: Callable[[Tensor], Tensor]) -> Chart:
    pi = 10**LOG_PI
    w = weight(pi[None])[0]
    x = LOG_PI.tolist()
    lines = [
        Line(name="w", colour="c1", x=x, y=w.tolist()),
        Line(name="w·(1 − π)", colour="c2", x=x, y=(w * (1 - pi)).tolist()),
    ]
    top = 2.0 if w.max() > 1 else 1.0
    return Chart(title=title, lines=lines, x_label="log₁₀ π", y_label=note, y_range=(0.0, top))


def weighed(method: MethodSettings, advantage: float, pi: Tensor) -> Tensor:
    mu = torch.full_like(pi, MU)
    return agent_weights(Probabilities(pi, mu, pi), torch.tensor([[advantage]]), method).weights


def panels() -> list[Chart]:
    up = [
        panel(f"{name}, A > 0", NOTES.get(name, ""), partial(weighed, MethodSettings(coefficient=name), 1.0))
        for name in COEFFICIENTS
    ]
    down = [
        panel(
            f"A < 0, rule {name}",
            "c = 0.1" if name == "floor" else "",
            partial(weighed, MethodSettings(coefficient="constant", negative=name), -1.0),
        )
        for name in NEGATIVES
        if name != SAME
    ]
    return [*up, *down]


def main() -> None:
    write_sheet(FILE, [panel.data() for panel in panels()], columns=COLUMNS, size=SIZE)


if __name__ == "__main__":
    main()
