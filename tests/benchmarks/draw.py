"""Draws the pictures of READMEs with matplotlib. Needs the extra `plots`.

    python tests/benchmarks/draw.py weights.png
    python tests/benchmarks/draw.py comparison.png tests/benchmarks/matrix_final.yaml
    python tests/benchmarks/draw.py tests/benchmarks/matrix_final.png tests/benchmarks/matrix_final.json
    python tests/benchmarks/draw.py unknown.png runs/final power mask

Without a second file: what agents' tokens are worth. For every coefficient and every rule for A < 0 it shows the weight w of
A·∇log π, and w·(1 − π), by which the token's own logit moves; against π. Weights are those that the loss uses.

With a matrix: the charts of a comparison, of the runs that are there. With a JSON file: the charts whose data it has.

With a folder of runs, FOLDER/ARM/SEED, and names of arms (default: all): what training did to agents' tokens that the policy
did not know, whose probability was below 0.1 when a reply with them was first trained on. A line for each arm: the median of
its finished seeds, in a band from the least to the most.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from matplotlib.axes import Axes
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from aipo.compare.curves import Curve, band, cost_charts, learning_charts, pass_at_charts
from aipo.compare.matrix import read_matrix
from aipo.compare.results import read_results
from aipo.compare.standings import compute_standings
from aipo.method.agent_weights import COEFFICIENTS, NEGATIVES, Probabilities, agent_weights
from aipo.method.rows import Code
from aipo.method.settings import MethodSettings
from aipo.render.charts import COLOURS, Chart, Line
from aipo.render.colours import THEME

COLUMNS, WIDTH, HEIGHT = 3, 3.4, {"comparison": 2.3, "weights": 1.9, "unknown": 2.6}
"""Charts in a row, and inches of each."""
MU = 0.5
UNKNOWN = 0.1
"""The policy does not know a token whose probability is below this."""
Reply = tuple[str, tuple[int, ...]]
"""An agent, and the ids that it put into a context."""
LOG_PI = torch.linspace(-4, 0, 161, dtype=torch.float64)
NOTES = {
    "luffy": "γ = 0.1",
    "rlplus": "π_old = π, as in a rollout step's first optimizer step",
    "floor": "c = 0.3",
    "power": "α = 0.5, c = 0.1",
    "constant": "c = 1",
    "echo": "0.05, of ∇log π whatever A is",
    "ratio": f"μ = {MU:g}, at most 2",
}


def comparison(file: Path) -> Sequence[Mapping[str, Any]]:
    """The data of all charts of a comparison's page."""
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    matrix = read_matrix(file)
    results = read_results(matrix)
    standings = compute_standings(matrix, results)
    charts = [*learning_charts(matrix, results), *cost_charts(matrix, results, {})]
    return [chart.data() for chart in (*charts, *pass_at_charts(matrix, standings, {}))]


def unknown(folder: Path, arms: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    """The data of two charts of unknown agents' tokens: over training, and since each reply was first met."""
    arms = arms or sorted(path.name for path in folder.iterdir() if path.is_dir())
    by_arm = {
        arm: [unknown_curves(run) for run in sorted((folder / arm).iterdir()) if (run / "model").is_dir()]
        for arm in arms
    }

    def chart(title: str, x_label: str, which: int) -> Chart:
        lines = [
            band(
                [pair[which] for pair in pairs],
                name=f"{arm} ({len(pairs)})",
                colour=f"c{1 + i % (COLOURS - 1)}",
            )
            for i, (arm, pairs) in enumerate(by_arm.items())
        ]
        return Chart(
            title=title,
            lines=lines,
            x_label=x_label,
            y_label="mean π of unknown agents' tokens",
            y_range=(0.0, 1.0),
        )

    charts = [
        chart("Over training, met before", "rollout step", 0),
        chart("Since first met", "rollout steps later", 1),
    ]
    return [one.data() for one in charts]


def unknown_curves(run: Path) -> tuple[Curve, Curve]:
    """Mean π of the agents' tokens that were unknown when their reply was first trained on, by rollout step (without those
    that are met for the first time in it), and by rollout steps since then."""
    firsts: dict[Reply, tuple[int, npt.NDArray[np.bool_]]] = {}
    by_step, by_age = defaultdict[int, list[float]](list), defaultdict[int, list[float]](list)
    for step, reply, pi in trained_replies(run):
        first, mask = firsts.setdefault(reply, (step, pi < UNKNOWN))
        values = pi[mask].tolist()
        by_age[step - first] += values
        if step > first:
            by_step[step] += values
    by_step_curve, by_age_curve = (
        [(float(x), fmean(values)) for x, values in sorted(points.items()) if values]
        for points in (by_step, by_age)
    )
    return by_step_curve, by_age_curve


def trained_replies(run: Path) -> Iterator[tuple[int, Reply, npt.NDArray[np.float64]]]:
    """Each reply that was trained on: rollout step, agent with token ids, and π of them before the first update."""
    for file in sorted((run / "token_stats").glob("step-*.parquet")):
        rows = pq.read_table(
            file, columns=["trace_id", "kind", "step", "update", "segments", "codes", "logprobs"]
        )
        traces = pq.read_table(run / "traces" / file.name, columns=["trace_id", "segments"]).to_pylist()
        segments = {trace["trace_id"]: trace["segments"] for trace in traces}
        seen = set[tuple[str, str]]()
        for row in sorted(rows.to_pylist(), key=itemgetter("update")):
            if (row["trace_id"], row["kind"]) in seen:
                continue
            seen.add((row["trace_id"], row["kind"]))
            places, codes = np.array(row["segments"]), np.array(row["codes"])
            for i in np.unique(places[codes == Code.AGENT]):
                said = segments[row["trace_id"]][i]
                pi = np.exp(np.array(row["logprobs"], float)[places == i])
                yield row["step"], (said["source"], tuple(said["token_ids"])), pi


def weights() -> Sequence[Mapping[str, Any]]:
    """The data of a chart for each coefficient and rule; the rule `same` has the pictures of the coefficients."""
    charts = [
        weight_chart(
            f"{name}, A > 0", NOTES.get(name, ""), partial(weigh, MethodSettings(coefficient=name), 1.0)
        )
        for name in COEFFICIENTS
    ]
    for name in [name for name in NEGATIVES if name != "same"]:
        method = MethodSettings(coefficient="constant", negative=name)
        note = "c = 0.1" if name == "floor" else ""
        charts.append(weight_chart(f"A < 0, rule {name}", note, partial(weigh, method, -1.0)))
    return [chart.data() for chart in charts]


def weigh(method: MethodSettings, advantage: float, pi: Tensor) -> Tensor:
    mu = torch.full_like(pi, MU)
    return agent_weights(Probabilities(pi, mu, pi), torch.tensor([[advantage]]), method).weights


def weight_chart(title: str, note: str, weight: Callable[[Tensor], Tensor]) -> Chart:
    pi = 10**LOG_PI
    w = weight(pi[None])[0]
    x = LOG_PI.tolist()
    lines = [
        Line(name="w", colour="c1", x=x, y=w.tolist()),
        Line(name="w·(1 − π)", colour="c2", x=x, y=(w * (1 - pi)).tolist()),
    ]
    top = 2.0 if w.max() > 1 else 1.0
    return Chart(title=title, lines=lines, x_label="log₁₀ π", y_label=note, y_range=(0.0, top))


def write_sheet(path: Path, charts: Sequence[Mapping[str, Any]], height: float) -> None:
    """Draws charts row by row.

    Args:
        path: a PNG file. Its text `Charts` has the titles.
        charts: data as `aipo.render.charts.Chart.data` gives it.
        height: of each, in inches.
    """
    columns = min(COLUMNS, len(charts))
    rows = -(-len(charts) // columns)
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 9, "axes.titleweight": "bold"})
    figure, axes = plt.subplots(rows, columns, figsize=(columns * WIDTH, rows * height), squeeze=False)
    for place, chart in zip(axes.flat, charts, strict=False):
        draw(place, chart)
    for place in axes.flat[len(charts) :]:
        place.set_axis_off()
    legends = [place.get_legend_handles_labels() for place in axes.flat]
    by_name = {
        name: handle for handles, names in legends for handle, name in zip(handles, names, strict=True)
    }
    figure.legend(by_name.values(), by_name.keys(), loc="lower center", ncols=8, frameon=False)
    figure.tight_layout(rect=(0, 0.3 / (rows * height), 1, 1))
    pixels = BytesIO()
    figure.savefig(pixels, dpi=95, format="png")
    # A palette of few colours makes the file a third as large.
    picture = Image.open(pixels).convert("RGB")
    picture = picture.quantize(80, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    titles = PngInfo()
    titles.add_text("Charts", "\n".join(chart["title"] for chart in charts))
    picture.save(path, optimize=True, pnginfo=titles)
    print(f"{path}, {path.stat().st_size / 1000:.0f} kB")


def draw(place: Axes, chart: Mapping[str, Any]) -> None:
    place.set_title(chart["title"], loc="left", pad=15)
    place.text(0, 1.05, chart["y_label"], transform=place.transAxes, fontsize=7, color=THEME["soft"][0])
    place.set_xlabel(chart["x_label"])
    for line in chart["lines"]:
        colour = THEME[line["colour"]][0]
        if not line["joined"]:
            place.scatter(line["x"], line["y"], s=9, color=colour, label=line["name"])
            continue
        style = ":" if line["colour"] == "c0" else "--" if int(line["colour"][1:]) > 5 else "-"
        place.plot(line["x"], line["y"], style, color=colour, linewidth=1.2, label=line["name"])
        if "low" in line:
            place.fill_between(line["x"], line["low"], line["high"], color=colour, alpha=0.12, linewidth=0)
    if chart["log"]:
        place.set_xscale("log", base=2)
        place.set_xticks(sorted({x for line in chart["lines"] for x in line["x"]}))
        place.xaxis.set_major_formatter("{x:g}")
    if chart["y_range"]:
        low, high = chart["y_range"]
        place.set_ylim(low, high + 0.02 * (high - low))
    place.grid(axis="y", color=THEME["line"][0], linewidth=0.6)
    place.spines[["top", "right", "left"]].set_visible(False)
    place.tick_params(length=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the PNG file to write")
    parser.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        help="a matrix, the data of its charts, or a folder of runs",
    )
    parser.add_argument("arms", metavar="ARM", nargs="*", help="with a folder: the arms to draw")
    given = parser.parse_args()
    if given.file is None:
        charts, kind = weights(), "weights"
    elif given.file.is_dir():
        charts, kind = unknown(given.file, given.arms), "unknown"
    else:
        charts, kind = comparison(given.file), "comparison"
    write_sheet(given.out, charts, HEIGHT[kind])


if __name__ == "__main__":
    main()
