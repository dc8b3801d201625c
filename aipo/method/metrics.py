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
    """How a metric is computed, and what it tells."""

    formula: str
    text: str


METRICS: dict[str, Metric] = {
    # one optimiser step, per role of token: policy, agent, distilled
    "tokens/{role}": Metric("n = Σ 1", "Tokens of this role in the rows that were trained."),
    "entropy/{role}": Metric("Σ H(π_t) / n", "Mean entropy (nats) where these tokens stand."),
    "probability/{role}": Metric("Σ π_t / n", "Mean probability of these tokens: how well they are known."),
    "weight/{role}": Metric("Σ |A|·w_t / n", "Mean weight of ∇log π: near 0 means that nothing is learned."),
    "loss_share/{role}": Metric("Σ |term_t| / Σ_all |term_t|", "Share of the loss's absolute value."),
    "ratio/policy": Metric("Σ π_t/π_old,t / n", "Mean importance ratio; 1 on the first pass."),
    "clip/policy": Metric(
        "Σ clipped_t / n", "Share of policy tokens whose gradient the clip took away, or bounded."
    ),
    "clip/agent": Metric(
        "Σ clipped_t / n", "Share of agent tokens whose weight bounds or trust region changed."
    ),
    "kl": Metric("Σ r_t·k3_t / n", "Mean KL to the reference model on policy tokens; only with a KL term."),
    "importance": Metric(
        "Σ c_t / n", "Mean correction c of π_old/μ from sampler to trainer; only where it is on."
    ),
    "clip/importance": Metric(
        "Σ [c_t ≠ π_old,t/μ_t] / n", "Share of policy tokens whose correction was truncated, or masked."
    ),
    "ess": Metric(
        "(Σ c_t)² / (n · Σ c_t²)",
        "Effective share of the policy tokens under that correction; 1 is on-policy.",
    ),
    "mismatch/mean": Metric(
        "Σ |log π_old − log μ| / n", "Sampler against trainer on policy tokens, same weights; 0 is exact."
    ),
    "mismatch/max": Metric("max |log π_old − log μ|", "The worst token of it."),
    "loss": Metric("Σ_b 1/denominator_b · Σ_t term_bt", "The loss, mean of the logged steps."),
    "grad_norm": Metric("‖∇‖₂", "Norm of the gradient before clipping."),
    "learning_rate": Metric("schedule(step)", "Before it is scaled by the active share."),
    "epoch": Metric("step / updates per generation", "Generations trained so far."),
    "step_time": Metric("seconds", "One optimiser step, rollouts included."),
    # one generation
    "active_share": Metric(
        "rollouts with A ≠ 0 / scored rollouts",
        "What the learning rate is scaled by, with `scale_by_active`; with the credit `reward` the share that was right.",
    ),
    "zero_variance": Metric("groups with A = 0 throughout / groups", "Groups that teach nothing."),
    "rows/{kind}": Metric("count", "Rows: sampled, distilled, and distillable ones that could not be cut."),
    "rollouts/{kind}": Metric(
        "count", "Rollouts: assisted, solo, forbidden (solo, tags masked), expert (demonstrations), failed."
    ),
    "reward/{kind}": Metric("Σ R / scored rollouts", "Mean reward, per kind of rollout."),
    "reward_part/{part}/{kind}": Metric("Σ part / scored rollouts", "Mean of one named part of the reward."),
    "solo/{split}": Metric(
        "Σ R / scored rollouts", "Of rollouts alone, per split of the mixture: what falls is being forgotten."
    ),
    "consults/{agent}": Metric(
        "consults / assisted rollouts", "How often an agent is asked; `unknown` is none of ours."
    ),
    "consult_errors/{agent}": Metric("consults with an error / consults", "How often asking goes wrong."),
    "agent_failures/{agent}": Metric(
        "failed consults / consults that came to it", "Requests that the agent itself failed to answer."
    ),
    "calls/{agent}": Metric("count", "Calls of its chat model, failed attempts included."),
    "call_errors/{agent}": Metric("calls with an error / calls", "How often a call fails or is cut off."),
    "tokens_in/{agent}": Metric("Σ tokens", "Read by its chat model, as far as the server says so."),
    "tokens_out/{agent}": Metric("Σ tokens", "Written by its chat model, as far as the server says so."),
    "latency/{quantile}/{agent}": Metric(
        "p50, p95, p99 of seconds", "Of answered calls: half, 95 % and 99 % of them were no slower."
    ),
    "cost/{agent}": Metric("Σ tokens · price", "What its calls cost; only where it has prices."),
    "known/{agent}": Metric(
        "Σ [μ_t known] / n",
        "Share of its tokens, tags included, with its own model's log-prob; only for `ratio`.",
    ),
    "length/{role}": Metric("Σ tokens / rollouts", "Mean tokens of a rollout that this role produced."),
    "seconds/rows": Metric("seconds", "Time to obtain a generation's rows: rollouts, scoring, credit."),
}

KINDS = ("assisted", "solo", "suppressed", "expert")
"""Of rollouts; see `Trace.kind`."""

SUMMARY = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss")
"""What the Hugging Face trainer logs once, at the end; it is no step's metric."""


_PERCENTS = (50, 95, 99)


def solo_splits(names: Iterable[str]) -> list[str]:
    """The splits that `solo/{split}` tells apart among `names`; none where there is only one."""
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
    """Metrics from a step's sums; what no token speaks of is left out.

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
    """What a generation's rollouts looked like, per kind, agent and role.

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
    metrics |= _alone(traces)
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


def _alone(traces: Iterable[Trace]) -> dict[str, float]:
    """Mean reward by split, which a name of metrics may not divide any further."""
    rewards = defaultdict[str, list[float]](list)
    for trace in traces:
        if trace.mode is Mode.SOLO and trace.reward is not None and "split" in trace.task:
            rewards[str(trace.task["split"]).replace("/", "_")].append(trace.reward)
    return {f"solo/{split}": _mean(own) for split, own in sorted(rewards.items())}


def _agent_metrics(agent: str, traces: Sequence[Trace]) -> dict[str, float]:
    """What asking one agent came to."""
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
