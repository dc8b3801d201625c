"""Names in run folders that were recorded before a setting, a metric or a kind of rollout got its present name.

Only readers of run folders come here. A configuration that somebody writes has to have the present names.
"""

import re
from collections.abc import Mapping
from typing import Any

_SETTINGS = {
    "rollout.forbid_tags": "rollout.suppress_tags",
    "rollout.spending_limit": "rollout.cost_limit",
    "rollout.outage_limit": "rollout.failure_limit",
    "method.forbid_share": "method.suppress_share",
    "method.distil": "method.distil_weight",
    "method.distil_forbid": "method.distil_suppress",
    "method.kl": "method.beta",
    "method.correction": "method.importance_mode",
    "method.correction_cap": "method.importance_cap",
    "method.max_drift": "method.max_mismatch",
    "train.lessons": "train.token_stats",
}
_IMPORTED = {"aipo.frozen:frozen": "aipo.rollout.reference_chat:reference"}
_MODULES = {
    "envs.miniature_agents": "envs.miniature.agents",
    "envs.miniature_lessons": "envs.miniature.curriculum",
    "envs.miniature_model": "envs.miniature.model",
    "envs.math_items": "envs.file.items",
    "envs.math_verdict": "envs.math.verdict",
    "envs.gym_families": "envs.gym.families",
    "envs.gym_items": "envs.gym.items",
}
_MINIATURE = {"asides": "distractors", "aside_error_rate": "distractor_error_rate"}
_METRICS = {"drift": "mismatch", "alone": "solo", "outage": "agent_failures"}
_KINDS = {"forbidden": "suppressed", "forbid": "suppressed"}


def settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration with the present names."""
    named = {key: dict(value) if isinstance(value, Mapping) else value for key, value in recorded.items()}
    for before, now in _SETTINGS.items():
        (section, key), name = before.split("."), now.rpartition(".")[2]
        found = named.get(section)
        if isinstance(found, dict) and key in found:
            named[section] = {name if k == key else k: value for k, value in found.items()}
    method, evaluation, agents = named.get("method"), named.get("evaluate"), named.get("agents")
    if isinstance(method, dict) and isinstance(clip := method.pop("coefficient_clip", None), list):
        method["coefficient_clip_low"], method["coefficient_clip_high"] = clip
    if isinstance(method, dict) and method.get("negative_value") in (None, 0.1):
        method.pop("negative_value", None)  # what it still is; another value is refused by name
    if isinstance(evaluation, dict) and isinstance(kinds := evaluation.get("settings"), list):
        evaluation["settings"] = [kind(name) for name in kinds]
    if isinstance(policy := named.get("policy"), dict):
        named["policy"] = _with_model(policy)
    if isinstance(agents, dict):
        named["agents"] = {name: _as_it_spoke(_with_model(agent)) for name, agent in agents.items()}
    return named


def manifest(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded manifest with the present name of its preset. Before manifests said which command made the run, `aipo` was
    the preset that is `aipo_distil` now."""
    before = "command" not in recorded and recorded.get("preset") == "aipo"
    return {**recorded, "preset": "aipo_distil"} if before else dict(recorded)


def imported(name: str) -> str:
    """The present name of what a configuration imports, `module:function`."""
    module, colon, function = name.partition(":")
    return _IMPORTED.get(name, f"{_MODULES.get(module, module)}{colon}{function}" if colon else name)


def chat_settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recorded call of a chat model with the present name of its class."""
    named = dict(recorded)
    if isinstance(name := named.get("class"), str):
        named["class"] = imported(name)
    return named


def metric(name: str) -> str:
    """The present name of a metric."""
    first, slash, rest = name.partition("/")
    name = f"{_METRICS.get(first, first)}{slash}{rest}"
    return re.sub(r"^(rollouts|reward|reward_part/.+)/forbidden$", r"\1/suppressed", name)


def evaluation(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded evaluation, split → setting → result, with the present names of settings."""
    return {
        split: {kind(name): result for name, result in results.items()}
        if isinstance(results, Mapping)
        else results
        for split, results in recorded.items()
    }


def kind(name: str) -> str:
    """The present name of a kind of rollout, which is also a setting of evaluations."""
    return _KINDS.get(name, name)


def _as_it_spoke(agent: Any) -> Any:
    """A section `agents.NAME`: before thinking was taken out of replies, it was a part of them."""
    return {"thinking": {}, **agent} if isinstance(agent, Mapping) else agent


def _with_model(section: Any) -> Any:
    """A section `policy` or `agents.NAME` with the present names of its model and of the model's options."""
    model = section.get("model") if isinstance(section, Mapping) else None
    if not isinstance(model, str):
        return section
    named = {**section, "model": imported(model)}
    if named["model"].startswith("envs.miniature.") and isinstance(
        options := section.get("options"), Mapping
    ):
        named["options"] = {
            _MINIATURE.get(key, key): "distractors" if (key, value) == ("course", "asides") else value
            for key, value in options.items()
        }
    return named
