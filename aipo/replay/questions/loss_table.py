"""What a replay of the loss says, as a table with a row for each setting and a CSV file with all numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aipo.replay.output import ReplayReport, ReplayTable, mean, number, percent, write_csv
from aipo.replay.questions.loss import Outcome

_ROLES = ("policy", "agent", "distilled")


@dataclass(frozen=True, slots=True)
class SettingMeans:
    """One setting: means over the optimiser steps in which there was something to mean."""

    setting: str
    values: Mapping[str, float]
    shares: Mapping[str, float]

    @classmethod
    def of(cls, setting: str, outcomes: Sequence[Outcome]) -> "SettingMeans":
        rows = [_flat(outcome) for outcome in outcomes if outcome.setting == setting]
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: mean(row.get(name) for row in rows) for name in names}
        values = {name: value for name, value in means.items() if value is not None}
        # A part that a step does not have counts 0 there.
        steps = sum("grad_norm" in row for row in rows)
        parts = dict.fromkeys(part for o in outcomes if o.setting == setting for part in o.parts)
        totals = {p: sum(row.get(f"gradient_share/{p}", 0.0) for row in rows) for p in parts}
        return cls(setting, values, {p: total / steps for p, total in totals.items()} if steps else {})


def summaries(outcomes: Sequence[Outcome]) -> list[SettingMeans]:
    """One for each setting, in order."""
    return [SettingMeans.of(name, outcomes) for name in dict.fromkeys(o.setting for o in outcomes)]


def largest_difference(outcomes: Iterable[Outcome]) -> tuple[int, float] | None:
    """Optimiser steps that training logged with the same setting and weights, and the largest |Δ loss|."""
    gaps = [abs(o.loss - o.online["loss"]) for o in outcomes if "loss" in o.online]
    return (len(gaps), max(gaps)) if gaps else None


def report(outcomes: Sequence[Outcome], steps: str) -> ReplayReport:
    """A row for each setting; and a second table for the agents one by one, where there are several."""
    settings = {
        "steps": steps,
        "optimiser steps": str(len({o.update for o in outcomes})),
        "weights": ", ".join(dict.fromkeys(o.weights for o in outcomes)),
    }
    if gap := largest_difference(outcomes):
        settings["training logged"] = f"the same loss in {gap[0]} steps, up to {gap[1]:.1e}"
    means = summaries(outcomes)
    columns = {
        "loss": [number(s.values.get("loss")) for s in means],
        "|∇|": [number(s.values.get("grad_norm")) for s in means],
        **{role: [percent(s.shares.get(role)) for s in means] for role in _ROLES},
        "|A|·w": [number(s.values.get("weight/agent")) for s in means],
        "clip": [percent(s.values.get("clip/policy")) for s in means],
    }
    tables = [_table("policy, agent, distilled: shares of the gradient", columns, means)]
    agents = sorted({part for s in means for part in s.shares if part.startswith("agent/")})
    if len(agents) > 1:
        shares = {
            part.removeprefix("agent/"): [percent(s.shares.get(part)) for s in means] for part in agents
        }
        tables.append(_table("share of the gradient, by agent", shares, means))
    return ReplayReport(
        question="loss",
        settings=settings,
        tables=tables,
        notes=[
            "means over optimiser steps; |∇|: norm of the gradient before clipping; |A|·w: mean weight of an agent's "
            "token; clip: share of policy tokens that are clipped",
            "the share of a part is g_part·g/|g|²: shares add up to 100 %, and one that pulls the other way is below 0",
        ],
        values=[asdict(outcome) for outcome in outcomes],
    )


def write_outcomes(file: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes a CSV file with a line for each setting and optimiser step.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    lines: list[dict[str, Any]] = [
        {"setting": o.setting, "step": o.step, "update": o.update, "weights": o.weights, **_flat(o)}
        for o in outcomes
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    write_csv(file, names, [[line.get(name, "") for name in names] for line in lines])


def _table(title: str, columns: Mapping[str, Sequence[str]], means: Sequence[SettingMeans]) -> ReplayTable:
    rows = [[s.setting, *(cells[i] for cells in columns.values())] for i, s in enumerate(means)]
    return ReplayTable(title, ["setting", *columns], rows)


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
