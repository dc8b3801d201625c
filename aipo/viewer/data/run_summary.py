"""The summary of a run: its method, model, tasks, files and scores.

Everything comes from the run folder's own files. A folder without them (somebody's traces) has less to say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aipo.compare.sections import SETTINGS
from aipo.util.text import counted
from aipo.viewer.data.run_files import Scores, Splits


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
class ScoreTable:
    """A table of pass@k; without lines when nothing was evaluated.

    Args:
        columns: (setting, its label, its k).
        lines: (split, evaluation, scores by setting).
    """

    columns: Sequence[tuple[str, str, Sequence[int]]]
    lines: Sequence[tuple[str, str, Mapping[str, Scores]]]


def head(
    config: Mapping[str, Any], manifest: Mapping[str, Any], warmup: Mapping[str, Any] | None = None
) -> RunSummary:
    """The summary as far as `config` and `manifest` have it.

    Args:
        warmup: how often the policy asks before and after a warm-up.
    """
    if not config:
        return RunSummary()
    method = section(config, "method")
    plan = str(method.get("plan", "?"))
    shares = [
        ("assist_share", "assisted"),
        ("assist_share_end", "by the end"),
        ("suppress_share", "suppressed"),
        ("suppress_share_end", "by the end"),
    ]
    mixed = [
        f"{share:.0%} {word}"
        for key, word in shares
        if isinstance(share := method.get(key), int | float)
        and (share or key != "suppress_share" or method.get("suppress_share_end"))
    ]
    if isinstance(steps_to_half := method.get("grant_steps"), int | float):
        mixed.append(f"requests granted with {steps_to_half:g}/({steps_to_half:g} + step)")
    if plan == "expert":
        mixed.append(f"{method.get('demonstrations') or 1} demonstrated")
    if manifest.get("command") == "warmup":
        plan = f"warmup, taught by {section(section(config, 'warmup'), 'teacher').get('model', 'env')}"
    train = section(config, "train")
    tasks, rollouts = train.get("tasks_per_step"), train.get("group_size")
    size = None
    if isinstance(tasks, int) and isinstance(rollouts, int):
        size = f"{counted(tasks, 'task')} × {counted(rollouts, 'rollout')}"
    facts = {
        "objective": method.get("objective"),
        "model": manifest.get("model") or section(config, "policy").get("model"),
        "tasks": section(config, "env").get("name"),
        "a step": size,
        "seed": section(config, "run").get("seed"),
        "held-out tasks on which it asks": _asking(warmup or {}),
    }
    return RunSummary(
        method=[
            ("graph", str(section(config, "graph").get("name")).rpartition(":")[2]),  # the function's name
            ("plan", f"{plan} ({', '.join(mixed)})" if mixed else plan),
            ("credit", str(method.get("credit", "?"))),
            ("coefficient", ", ".join([str(method.get("coefficient", "?")), *_of_agents(method)])),
        ],
        facts=[(name, str(value)) for name, value in facts.items() if value is not None],
        steps=steps if isinstance(steps := train.get("steps"), int) else None,
    )


def _of_agents(method: Mapping[str, Any]) -> list[str]:
    """The coefficients of agents that have their own, as `verify mask`."""
    agents = section(method, "agents")
    return [f"{name} {section(agents, name).get('coefficient', '?')}" for name in agents]


def _asking(warmup: Mapping[str, Any]) -> str | None:
    shares = [section(warmup, when).get("asking") for when in ("before", "after")]
    shown = [f"{share:.0%}" for share in shares if isinstance(share, int | float)]
    return " → ".join(shown) or None


def origins(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, file, fingerprint) of graphs and prompts, as the manifest has them."""
    return [
        (str(what), str(entry.get("file", "")), str(entry.get("fingerprint", "")))
        for what, entry in section(manifest, "files").items()
        if isinstance(entry, dict)
    ]


def score_table(evaluations: Mapping[str, Splits]) -> ScoreTable:
    """pass@k of each evaluation, a line for each of its splits. k are the smallest and the largest of all."""
    names = dict.fromkeys(split for splits in evaluations.values() for split in splits)
    lines = [
        (split, name, splits[split])
        for split in names
        for name, splits in evaluations.items()
        if split in splits
    ]
    columns: list[tuple[str, str, Sequence[int]]] = []
    for setting, label in SETTINGS.items():
        scored = [scores[setting].pass_at for _, _, scores in lines if setting in scores]
        ks = sorted({k for values in scored for k, value in values.items() if value is not None})
        if ks:  # with agents only the smallest
            columns.append((setting, label, ks[:1] if setting == "assisted" else sorted({ks[0], ks[-1]})))
    return ScoreTable(columns, lines)


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
