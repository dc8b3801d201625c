"""Every metric that is logged: its name, its formula and one line of text.

Logging anything else is an error. A name may have a variable part in braces (`reward/{kind}`), which
stands for one part between slashes.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aipo.errors import TrainError
from aipo.trace import Mode, Role, Trace


class Metric(NamedTuple):
    """The formula of a metric, and a line that explains it."""

    formula: str
    text: str


METRICS: dict[str, Metric] = {
    # one optimizer step, per role of token: policy, agent, distilled
    "tokens/{role}": Metric("n = Σ 1", "Number of trained tokens of this role."),
    "entropy/{role}": Metric("Σ H(π_t) / n", "Mean entropy (nats) of the policy at these tokens."),
    "probability/{role}": Metric("Σ π_t / n", "Mean probability that the policy gives these tokens."),
    "weight/{role}": Metric("Σ |A|·w_t / n", "Mean weight of ∇log π. Near 0, these tokens teach nothing."),
    "loss_share/{role}": Metric(
        "Σ |term_t| / Σ_all |term_t|", "Share of this role in the sum of the absolute loss terms."
    ),
    "ratio/policy": Metric("Σ π_t/π_old,t / n", "Mean importance ratio; 1 on the first pass."),
    "clip/policy": Metric(
        "Σ clipped_t / n", "Share of policy tokens whose gradient the clip removed or bounded."
    ),
    "clip/agent": Metric(
        "Σ clipped_t / n", "Share of agent tokens whose weight was changed by the bounds or the trust region."
    ),
    "kl": Metric(
        "Σ r_t·k3_t / n", "Mean KL to the reference policy on policy tokens; only with `method.beta` > 0."
    ),
    "importance": Metric(
        "Σ c_t / n", "Mean weight c that corrects the train/inference mismatch (TIS); only where it is on."
    ),
    "clip/importance": Metric(
        "Σ [c_t ≠ π_old,t/μ_t] / n", "Share of policy tokens whose weight c was truncated or masked."
    ),
    "ess": Metric(
        "(Σ c_t)² / (n · Σ c_t²)",
        "Effective sample size of the weights c, as a share of n; 1 without mismatch.",
    ),
    "mismatch/mean": Metric(
        "Σ |log π_old − log μ| / n",
        "Train/inference mismatch: mean difference of the log-probs of sampler and trainer, for the same weights.",
    ),
    "mismatch/max": Metric(
        "max |log π_old − log μ|", "The largest such difference of a single policy token."
    ),
    "loss": Metric(
        "Σ_b 1/denominator_b · Σ_t term_bt", "The loss, averaged over the logged optimizer steps."
    ),
    "grad_norm": Metric("‖∇‖₂", "Norm of the gradient before clipping."),
    "learning_rate": Metric(
        "schedule(step)", "The scheduled learning rate, before it is scaled by the active share."
    ),
    "epoch": Metric("optimizer step / optimizer steps per rollout step", "Rollout steps trained so far."),
    "step_time": Metric(
        "seconds", "Duration of one optimizer step; the first of a rollout step includes sampling."
    ),
    # one rollout step
    "active_share": Metric(
        "rollouts with A ≠ 0 / scored rollouts",
        "Share of rollouts that teach. With `scale_by_active` the learning rate is multiplied by it.",
    ),
    "zero_variance": Metric(
        "groups with A = 0 throughout / groups", "Share of groups in which no rollout has an advantage."
    ),
    "rows/{kind}": Metric(
        "count", "Training rows by kind: as sampled, distilled, and distilled rows that could not be built."
    ),
    "rollouts/{kind}": Metric(
        "count",
        "Rollouts by kind: assisted (with agents), solo, suppressed (solo, cannot write consult tags), expert "
        "(demonstrations). `failed` counts those of any kind that have no reward.",
    ),
    "reward/{kind}": Metric("Σ R / scored rollouts", "Mean reward of the rollouts of this kind."),
    "reward_part/{part}/{kind}": Metric(
        "Σ part / scored rollouts", "Mean of one named part of the reward, by kind of rollout."
    ),
    "solo/{split}": Metric(
        "Σ R / scored rollouts",
        "Mean reward of solo rollouts, by split of the training mixture. A falling line shows forgetting.",
    ),
    "consults/{agent}": Metric(
        "consults / assisted rollouts",
        "Mean number of consults of this agent. `unknown` counts names that are no agent.",
    ),
    "consult_errors/{agent}": Metric(
        "consults with an error / consults", "Share of consults that ended with an error."
    ),
    "agent_failures/{agent}": Metric(
        "failed consults / consults that reached it",
        "Share of requests that the agent itself failed to answer.",
    ),
    "calls/{agent}": Metric("count", "Calls of the agent's chat model, failed attempts included."),
    "call_errors/{agent}": Metric("calls with an error / calls", "Share of calls that failed or timed out."),
    "tokens_in/{agent}": Metric(
        "Σ tokens", "Prompt tokens of the agent's chat model, as reported by its server."
    ),
    "tokens_out/{agent}": Metric(
        "Σ tokens", "Completion tokens of the agent's chat model, as reported by its server."
    ),
    "latency/{quantile}/{agent}": Metric(
        "p50, p95, p99 of seconds", "Quantiles of the duration of the agent's answered calls."
    ),
    "cost/{agent}": Metric("Σ tokens · price", "Cost of the agent's calls; only if prices are configured."),
    "known/{agent}": Metric(
        "Σ [μ_t known] / n",
        "Share of the agent's tokens, tags included, with a log-prob by its own model; only for `ratio`.",
    ),
    "length/{role}": Metric("Σ tokens / rollouts", "Mean number of tokens of this role in a rollout."),
    "seconds/rows": Metric(
        "seconds", "Time to produce the rows of a rollout step: sampling, scoring, advantages."
    ),
}

KINDS = ("assisted", "solo", "suppressed", "expert")
"""The kinds of rollouts; see `Trace.kind`."""

SUMMARY = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss")
"""Names that the Hugging Face trainer logs once, at the end of training. They belong to no optimizer step."""


_PERCENTS = (50, 95, 99)


def solo_splits(names: Iterable[str]) -> list[str]:
    """The splits that have a metric `solo/{split}` among `names`; empty if there is only one."""
    splits = sorted({name.removeprefix("solo/") for name in names if name.startswith("solo/")})
    return splits if len(splits) > 1 else []


def check_declared(names: Iterable[str]) -> None:
    """Refuses a metric that `METRICS` does not declare.

    Raises:
        TrainError: names the metric.
    """
    patterns = [pattern.split("/") for pattern in METRICS]
    for name in names:
        if name not in METRICS and not any(_fits(name.split("/"), pattern) for pattern in patterns):
            raise TrainError(f"metric: got {name!r}, allowed those declared in aipo.method.metrics.METRICS")


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(parts) == len(pattern) and all(
        wanted.startswith("{") or part == wanted for part, wanted in zip(parts, pattern, strict=True)
    )


def loss_metrics(
    sums: Mapping[str, Mapping[str, float]], mismatch_max: float, *, kl: bool = True, importance: bool = True
) -> dict[str, float]:
    """The metrics of one optimizer step from its sums. A metric without tokens is left out.

    Args:
        sums: role to quantity (`aipo.method.loss.QUANTITIES`) to its sum over tokens.
        kl, importance: whether the loss has these parts.
    """
    everything = math.fsum(role["loss"] for role in sums.values())
    values: dict[str, float] = {}
    for role, total in sums.items():
        count = total["tokens"]
        values[f"tokens/{role}"] = count
        if count:
            values |= {f"{name}/{role}": total[name] / count for name in ("entropy", "probability", "weight")}
            values[f"loss_share/{role}"] = total["loss"] / everything if everything else 0.0
    if count := sums["policy"]["tokens"]:
        values |= {f"{name}/policy": sums["policy"][name] / count for name in ("ratio", "clip")}
        values |= {"kl": sums["policy"]["kl"] / count} if kl else {}
        values |= _correction(sums["policy"]) if importance else {}
    if count := sums["agent"]["tokens"]:
        values["clip/agent"] = sums["agent"]["clip"] / count
    if count := sums["policy"]["mismatch_tokens"]:
        values |= {"mismatch/mean": sums["policy"]["mismatch"] / count, "mismatch/max": mismatch_max}
    return values


def _correction(sums: Mapping[str, float]) -> dict[str, float]:
    count, total, squares = sums["tokens"], sums["importance"], sums["importance_squared"]
    share = total**2 / (count * squares) if squares else 0.0
    effective = min(share, 1.0)  # rounding lifts 1 above 1
    return {"importance": total / count, "ess": effective, "clip/importance": sums["cut"] / count}


def rollout_metrics(traces: Sequence[Trace], agents: Collection[str] = ()) -> dict[str, float]:
    """The metrics of the rollouts of one rollout step, by kind, agent and role.

    Args:
        agents: names that a policy may ask for; it can write any other, and they count as `unknown`.
    """
    kinds = {kind: [t for t in traces if t.kind == kind] for kind in KINDS}
    metrics = {f"rollouts/{kind}": float(len(own)) for kind, own in kinds.items()}
    metrics["rollouts/failed"] = float(sum(trace.reward is None for trace in traces))
    for kind, own in kinds.items():
        scored = [trace for trace in own if trace.reward is not None]
        if scored:
            metrics[f"reward/{kind}"] = _mean(t.reward for t in scored if t.reward is not None)
        for part in sorted({part for trace in scored for part in trace.reward_parts}):
            values = (t.reward_parts[part] for t in scored if part in t.reward_parts)
            metrics[f"reward_part/{part}/{kind}"] = _mean(values)
    metrics |= _solo(traces)
    consults = [consult for trace in traces for consult in trace.consults]
    names = [consult.agent if consult.agent in agents else "unknown" for consult in consults]
    for agent in (*agents, "unknown"):
        errors = [c.error is not None for c, name in zip(consults, names, strict=True) if name == agent]
        if kinds["assisted"]:  # where nobody may ask, that nobody did says nothing
            metrics[f"consults/{agent}"] = len(errors) / len(kinds["assisted"])
        if errors:
            metrics[f"consult_errors/{agent}"] = _mean(errors)
    for agent in agents:
        metrics |= _agent_metrics(agent, traces)
    for role in Role:
        if traces:
            metrics[f"length/{role}"] = _mean(trace.count(role) for trace in traces)
    return metrics


def _solo(traces: Iterable[Trace]) -> dict[str, float]:
    """Mean reward of solo rollouts by split; `/` in the name of a split becomes `_`."""
    rewards = defaultdict[str, list[float]](list)
    for trace in traces:
        if trace.mode is Mode.SOLO and trace.reward is not None and "split" in trace.task:
            rewards[str(trace.task["split"]).replace("/", "_")].append(trace.reward)
    return {f"solo/{split}": _mean(own) for split, own in sorted(rewards.items())}


def _agent_metrics(agent: str, traces: Sequence[Trace]) -> dict[str, float]:
    """The metrics of one agent: consults that reached it, and calls of its chat model."""
    came = [c for trace in traces for c in trace.consults if c.agent == agent and c.reached]
    visits = (visit for trace in traces for visit in trace.visits)
    calls = [call for visit in visits for call in visit.calls if call.agent == agent]
    metrics = {f"calls/{agent}": float(len(calls))}
    if came:
        metrics[f"agent_failures/{agent}"] = _mean(consult.failed for consult in came)
    if calls:
        metrics[f"call_errors/{agent}"] = _mean(call.error is not None for call in calls)
    sums = {
        "tokens_in": [call.tokens_in for call in calls],
        "tokens_out": [call.tokens_out for call in calls],
        "cost": [call.cost for call in calls],
    }
    for name, values in sums.items():
        if known := [value for value in values if value is not None]:
            metrics[f"{name}/{agent}"] = math.fsum(known)
    told = (s for trace in traces for s in trace.segments if s.role is Role.AGENT and s.source == agent)
    if logprobs := [s.logprobs for s in told if s.logprobs is not None]:
        metrics[f"known/{agent}"] = float(np.isfinite(np.concatenate(logprobs)).mean())
    if seconds := [call.seconds for call in calls if call.error is None]:
        for percent, value in zip(_PERCENTS, np.percentile(seconds, _PERCENTS), strict=True):
            metrics[f"latency/p{percent}/{agent}"] = float(value)
    return metrics


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def page() -> str:
    """The page of all metrics, METRICS.md beside this file."""
    cells = [(f"`{name}`", metric.formula, metric.text) for name, metric in METRICS.items()]
    rows = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in cells]
    lines = [_HEAD, "| name | formula | meaning |", "|---|---|---|", *(f"| {row} |" for row in rows)]
    return "\n".join(lines) + "\n"


_HEAD = """# Metrics

<!-- Generated: python -m aipo.method.metrics > aipo/method/METRICS.md -->

One line per optimizer step in `metrics.jsonl`, and to every tracker in `run.report_to`. The `step` of a line counts
optimizer steps, from 1. The `step` of a trace counts rollout steps, from 0; each has `train.minibatches` ·
`train.passes` optimizer steps.

π is the policy that is trained, π_old the same with the weights that sampled, μ the distribution that was sampled from,
w the coefficient of an agent's token, A the advantage, R the reward, n the number of tokens of that role.
"""

if __name__ == "__main__":
    print(page(), end="")
