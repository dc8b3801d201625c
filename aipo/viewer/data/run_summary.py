"""The summary of a run: its method, model, tasks, files and scores.

Everything comes from the run folder's own files. A folder without them (somebody's traces) has less to say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aipo.compare.sections import SETTINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The head of a run page.

    Args:
        method: (choice, option) for graph, plan, credit and coefficient.
        facts: (name, value) of objective, model, tasks, size of a step and seed.
        steps: how many steps the configuration asks for; None if it does not say.
    """

    method: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """One file that the run used."""

    what: str
    file: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Score:
    """One pass@k and its 95 % interval, if it has one."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """The scores of one evaluation on one split, by label."""

    split: str
    evaluation: str
    cells: Mapping[str, Score]


@dataclass(frozen=True, slots=True)
class Scores:
    """A table of pass@k; empty when nothing was evaluated."""

    labels: Sequence[str]
    lines: Sequence[ScoreLine]

    @property
    def settings(self) -> Mapping[str, Sequence[str]]:
        """Labels by their setting, which stands before the last comma."""
        groups: dict[str, list[str]] = {}
        for label in self.labels:
            groups.setdefault(label.rpartition(", ")[0], []).append(label)
        return groups


def head(config: Mapping[str, Any], manifest: Mapping[str, Any] | None) -> RunSummary:
    """The summary as far as `config` and `manifest` have it."""
    if not config:
        return RunSummary()
    method = section(config, "method")
    plan = str(method.get("plan", "?"))
    shares = [
        ("assist_share", "assisted"),
        ("assist_share_end", "by the end"),
        ("suppress_share", "suppressed"),
    ]
    mixed = [f"{method[key]:.0%} {word}" for key, word in shares if isinstance(method.get(key), int | float)]
    if plan == "expert":
        mixed.append(f"{method.get('demonstrations') or 1} demonstrated")
    train = section(config, "train")
    facts = {
        "objective": method.get("objective"),
        "model": (manifest or {}).get("model") or section(config, "policy").get("model"),
        "tasks": section(config, "env").get("name"),
        "a step": _product(train.get("tasks_per_step"), train.get("group_size")),
        "seed": section(config, "run").get("seed"),
    }
    return RunSummary(
        method=[
            ("graph", _last(section(config, "graph").get("name"))),
            ("plan", f"{plan} ({', '.join(mixed)})" if mixed else plan),
            ("credit", str(method.get("credit", "?"))),
            ("coefficient", str(method.get("coefficient", "?"))),
        ],
        facts=[(name, str(value)) for name, value in facts.items() if value is not None],
        steps=steps if isinstance(steps := train.get("steps"), int) else None,
    )


def origins(manifest: Mapping[str, Any] | None) -> list[Origin]:
    """Files of graphs and prompts with their fingerprints, as the manifest has them."""
    files = section(manifest or {}, "files")
    return [
        Origin(what, str(_of(entry, "file")), str(_of(entry, "fingerprint"))) for what, entry in files.items()
    ]


def scores(evaluations: Mapping[str, Any]) -> Scores:
    """pass@k of each evaluation, a line for each of its splits."""
    measured = {name: _read_scores(evaluation) for name, evaluation in evaluations.items()}
    keys = list(dict.fromkeys(key for scored in measured.values() for key in scored))
    lines: list[ScoreLine] = []
    for split in dict.fromkeys(split for split, _, _ in keys):
        labels: dict[str, tuple[str, str, int]] = {}
        for setting, label in SETTINGS.items():
            ks = sorted(k for s, t, k in keys if (s, t) == (split, setting))
            # The smallest and the largest; with agents only the smallest.
            for k in ks[:1] if setting == "assisted" else sorted({*ks[:1], *ks[-1:]}):
                labels[f"{label}, pass@{k}"] = (split, setting, k)
        for name, scored in measured.items():
            cells = {label: scored[key] for label, key in labels.items() if key in scored}
            lines += [ScoreLine(split, name, cells)] if cells else []
    return Scores(tuple(dict.fromkeys(label for line in lines for label in line.cells)), lines)


def _read_scores(evaluation: Mapping[str, Any]) -> dict[tuple[str, str, int], Score]:
    """By split, setting and k, every pass@k that was measured."""
    return {
        (split, setting, int(k)): Score(value, tuple(ends) if (ends := result["interval"].get(k)) else None)
        for split, settings in evaluation.items()
        for setting, result in settings.items()
        for k, value in result["pass_at"].items()
        if value is not None
    }


def agent_names(config: Mapping[str, Any], consulted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Agents in the order of their colours, and names without an agent that the policy consulted."""
    names = sorted(map(str, section(config, "agents"))) or sorted(
        name for name in consulted if name != "unknown"
    )
    return names, sorted({*consulted} - {*names, ""})


def section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping at `key`; empty if there is none."""
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def _of(entry: object, key: str) -> object:
    return entry.get(key, "") if isinstance(entry, dict) else entry if key == "file" else ""


def _last(name: object) -> str:
    """The function's name of `graphs.consult:consult` or `my/graph.py:mine`."""
    return str(name).rpartition(":")[2]


def _product(tasks: object, rollouts: object) -> str | None:
    return None if tasks is None or rollouts is None else f"{tasks} tasks × {rollouts} rollouts"
