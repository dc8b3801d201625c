"""What a replay of the loss says: a table, numbers for others (CSV, JSON) and a page with figures."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from aipo.render.charts import Line, chart, nice_ticks
from aipo.replay.bars import Bar, bars
from aipo.replay.page import COLOURS, Page, Section, write_page
from aipo.replay.questions.loss import Outcome
from aipo.replay.terminal import known_mean, numbers
from aipo.util.files import write_json, write_text

_ROLES = ("policy", "agent", "distilled")
_ROLE_COLOURS = {"policy": "k3", "distilled": "k5"}
_AGENT_COLOURS = ("k0", "k1", "k2", "k4", "c1", "c2")
_CURVES = {
    "loss": "loss",
    "grad_norm": "norm of the gradient",
    "weight/agent": "mean |A|·w of agent tokens",
    "clip/policy": "share of policy tokens clipped",
}


@dataclass(frozen=True, slots=True)
class Summary:
    """One setting: means over the optimiser steps in which there was something to mean."""

    setting: str
    values: Mapping[str, float]
    shares: Mapping[str, float]

    @classmethod
    def of(cls, setting: str, outcomes: Sequence[Outcome]) -> "Summary":
        own = [_flat(outcome) for outcome in outcomes if outcome.setting == setting]
        names = dict.fromkeys(name for values in own for name in values)
        means = {name: known_mean(values.get(name) for values in own) for name in names}
        known = {name: value for name, value in means.items() if value is not None}
        # A part that a step does not have has no share of it.
        steps = sum("grad_norm" in values for values in own)
        parts = dict.fromkeys(part for o in outcomes if o.setting == setting for part in o.parts)
        totals = {p: sum(values.get(f"gradient_share/{p}", 0.0) for values in own) for p in parts}
        return cls(setting, known, {p: total / steps for p, total in totals.items()} if steps else {})


def summaries(outcomes: Sequence[Outcome]) -> list[Summary]:
    """One for each setting, in order."""
    return [Summary.of(name, outcomes) for name in dict.fromkeys(o.setting for o in outcomes)]


def largest_difference(outcomes: Iterable[Outcome]) -> tuple[int, float] | None:
    """Optimiser steps that training logged with the same setting and weights, and the largest |Δ loss|."""
    gaps = [abs(o.loss - o.online["loss"]) for o in outcomes if "loss" in o.online]
    return (len(gaps), max(gaps)) if gaps else None


def tables(outcomes: Sequence[Outcome]) -> list[Table]:
    """A line for each setting; and a second table for the agents one by one, where there are several."""
    made = summaries(outcomes)
    agents = sorted({part for s in made for part in s.shares if part.startswith("agent/")})
    columns = {name.removeprefix("∇ "): cells for name, cells in _columns(made, _ROLES).items()}
    shown = [_table(columns, made, title="policy, agent, distilled: shares of the gradient")]
    if len(agents) > 1:
        shares = {
            part.removeprefix("agent/"): [_percent(s.shares.get(part)) for s in made] for part in agents
        }
        shown.append(_table(shares, made, title="share of the gradient, by agent"))
    return shown


def write_outcomes(folder: Path, outcomes: Sequence[Outcome], facts: Mapping[str, str]) -> None:
    """Writes loss.json (everything), loss.csv (a line per setting and optimiser step) and loss.html.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    write_json(folder / "loss.json", [asdict(outcome) for outcome in outcomes])
    flat: list[dict[str, Any]] = [
        {"setting": o.setting, "step": o.step, "update": o.update, "weights": o.weights, **_flat(o)}
        for o in outcomes
    ]
    names = list(dict.fromkeys(name for line in flat for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(flat)
    write_text(folder / "loss.csv", text.getvalue())
    write_page(folder / "loss.html", _page(outcomes, facts))


def share_bars(outcomes: Sequence[Outcome]) -> str:
    """Who moves the policy: shares of the gradient, a bar for each setting."""
    made = summaries(outcomes)
    parts = dict.fromkeys(part for summary in made for part in summary.shares if part != "agent")
    agents = [part for part in sorted(parts) if part.startswith("agent/")]
    colours = {part: _ROLE_COLOURS[part] for part in _ROLE_COLOURS if part in parts}
    colours |= {part: _AGENT_COLOURS[i % len(_AGENT_COLOURS)] for i, part in enumerate(agents)}
    return bars(
        [Bar(name=s.setting, parts={p: s.shares[p] for p in colours if p in s.shares}) for s in made],
        title="Shares of the gradient",
        colours=colours,
    )


def curves(outcomes: Sequence[Outcome]) -> list[str]:
    """Small multiples over optimiser steps, a line for each setting; a letter stands for its name."""
    names = list(dict.fromkeys(o.setting for o in outcomes))
    parts = sorted({part for o in outcomes for part in o.parts if part != "agent"})
    wanted = {**_CURVES, **{f"gradient_share/{part}": f"share of the gradient: {part}" for part in parts}}
    drawn: list[str] = []
    for key, title in wanted.items():
        lines = [_line(i, name, key, outcomes) for i, name in enumerate(names)]
        seen = [value for line in lines for value in line.y if value is not None]
        if seen:
            ticks = nice_ticks(min(0.0, *seen), max(0.0, *seen))
            drawn.append(
                chart(lines, title=title, x_label="optimiser step", y_label="", y_range=(ticks[0], ticks[-1]))
            )
    return drawn


def _page(outcomes: Sequence[Outcome], facts: Mapping[str, str]) -> Page:
    made = summaries(outcomes)
    keys = [COLOURS[i % len(COLOURS)] for i in range(len(made))]
    sections = [
        Section(
            title="Settings",
            text="Means over optimiser steps. |∇| is the norm of the gradient before clipping; ∇ policy, agent, "
            "distilled are the shares of each role in it. |A|·w is the mean weight of an agent's token, clip the "
            "share of policy tokens that the clip takes out.",
            **_cells(made, _columns(made, _ROLES)),
            keys=keys,
        )
    ]
    parts = sorted({part for summary in made for part in summary.shares if part != "agent"})
    if parts:
        shares = {part: [_percent(s.shares.get(part)) for s in made] for part in parts}
        section = Section(
            title="Whose tokens the step comes from",
            text="The share of a part is g_part·g/|g|², mean over optimiser steps: shares add up to 100 %, and a part "
            "that pulls the other way is below 0.",
            **_cells(made, shares),
            keys=keys,
            figures=[share_bars(outcomes)],
        )
        sections.append(section)
    text = "One point per optimiser step, through the weights that are named above; letters are those of the tables."
    sections.append(Section(title="Step by step", text=text, figures=curves(outcomes)))
    return Page(title="The loss again", facts=facts, sections=sections)


def _cells(made: Sequence[Summary], columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    rows = [(f"{_letter(i)}  {s.setting}", *(own[i] for own in columns.values())) for i, s in enumerate(made)]
    return {"columns": ["setting", *columns], "rows": rows}


def _columns(made: Sequence[Summary], parts: Iterable[str]) -> dict[str, list[str]]:
    return {
        "loss": [_number(s.values.get("loss")) for s in made],
        "|∇|": [_number(s.values.get("grad_norm")) for s in made],
        **{f"∇ {part}": [_percent(s.shares.get(part)) for s in made] for part in parts},
        "|A|·w": [_number(s.values.get("weight/agent")) for s in made],
        "clip": [_percent(s.values.get("clip/policy")) for s in made],
    }


def _table(columns: Mapping[str, Sequence[str]], made: Sequence[Summary], title: str) -> Table:
    rows = [[s.setting, *(cells[i] for cells in columns.values())] for i, s in enumerate(made)]
    return numbers(["setting", *columns], rows, title=title)


def _flat(outcome: Outcome) -> dict[str, float]:
    values = {"loss": outcome.loss, **({} if outcome.grad_norm is None else {"grad_norm": outcome.grad_norm})}
    values |= outcome.metrics
    for name, part in outcome.parts.items():
        values |= {
            f"tokens/{name}": float(part.tokens),
            f"weight/{name}": part.weight,
            f"clip/{name}": part.clip,
        }
        measured = {"gradient_norm": part.norm, "gradient_share": part.share}
        values |= {f"{key}/{name}": value for key, value in measured.items() if value is not None}
    return values | {f"online/{name}": value for name, value in outcome.online.items()}


def _line(i: int, name: str, key: str, outcomes: Sequence[Outcome]) -> Line:
    own = [o for o in outcomes if o.setting == name]
    # A part that a step does not have has no share of it.
    nothing = 0.0 if key.startswith("gradient_share/") else None
    values = [_flat(o).get(key, nothing if o.grad_norm else None) for o in own]
    return Line(name=_letter(i), colour=COLOURS[i % len(COLOURS)], x=[o.update for o in own], y=values)


def _letter(i: int) -> str:
    return chr(ord("A") + i % 26) + ("" if i < 26 else str(i // 26))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
