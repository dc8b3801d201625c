"""Every metric that is logged: its name, its formula and one line of text.

Logging anything else is an error. A name may have a variable part in braces (`reward/{kind}`), which
stands for one part between slashes.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from aipo.errors import TrainError
from aipo.method.rows import Code
from aipo.method.settings import MethodSettings
from aipo.trace import Fault, Mode, Role, Trace


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
    "loss_share/{role}": Metric("Σ |term_t| / Σ_all |term_t|", "Share of this role in the absolute loss."),
    "{quantity}/agent/{agent}": Metric(
        "as above, over the agent's tokens",
        "Tokens, entropy, probability, weight, loss share or clip of one agent; only of those in `method.agents`.",
    ),
    "ratio/policy": Metric("Σ π_t/π_old,t / n", "Mean importance ratio; 1 on the first pass."),
    "clip/policy": Metric("Σ clipped_t / n", "Share of policy tokens whose gradient the clip changed."),
    "clip/agent": Metric("Σ clipped_t / n", "Share of agent tokens that bounds or trust region changed."),
    "kl": Metric("Σ r_t·k3_t / n", "Mean KL to the reference policy (policy tokens), with `method.beta`."),
    "kl/rehearsed": Metric(
        "Σ k3_t / n", "Mean KL from the policy before training to the policy, at rehearsed tokens."
    ),
    "importance": Metric("Σ c_t / n", "Mean weight c against the train/inference mismatch (TIS), if on."),
    "clip/importance": Metric("Σ [c_t ≠ π_old,t/μ_t] / n", "Share of tokens whose c is truncated or masked."),
    "ess": Metric(
        "(Σ c_t)² / (n · Σ c_t²)",
        "Effective sample size of c as a share of n; 1 without mismatch.",
    ),
    "mismatch/mean": Metric(
        "Σ |log π_old − log μ| / n",
        "Train/inference mismatch: mean difference of the log-probs of sampler and trainer, for the same weights.",
    ),
    "mismatch/max": Metric("max |log π_old − log μ|", "Largest such difference of a single policy token."),
    "loss": Metric("Σ_b 1/denominator_b · Σ_t term_bt", "The loss, mean over the logged optimizer steps."),
    "grad_norm": Metric("‖∇‖₂", "Norm of the gradient before clipping."),
    "learning_rate": Metric("schedule(step)", "The scheduled rate, before it is scaled by the active share."),
    "epoch": Metric("optimizer step / optimizer steps per rollout step", "Rollout steps trained so far."),
    "step_time": Metric("seconds", "One optimizer step; the first of a rollout step includes sampling."),
    # one rollout step
    "active_share": Metric(
        "rollouts with A ≠ 0 / scored rollouts",
        "Share of rollouts that teach. With `scale_by_active` the learning rate is multiplied by it.",
    ),
    "note/{name}": Metric("mean", "A number that the graph notes: graphs/README.md, rollout/chat/README.md."),
    "zero_variance": Metric("groups with A = 0 throughout / groups", "Share of groups without an advantage."),
    "rows/{kind}": Metric(
        "count",
        "Training rows: as sampled; distilled; rehearsed; `uncut` (could not be distilled); with `method.agent_prompt=solo` also "
        "`exchanged` (agents' tokens behind the solo prompt) and `unexchanged` (learned behind their own, because the "
        "group has no solo prompt).",
    ),
    "rollouts/{kind}": Metric(
        "count",
        "Rollouts by kind: assisted (with agents), solo, suppressed (solo, cannot write consult tags), expert, taught (by the "
        "teacher of `aipo warmup`); of any kind: failed (no reward), forked (what they share with others is counted once).",
    ),
    "reward/{kind}": Metric("Σ R / scored rollouts", "Mean reward of the rollouts of this kind."),
    "reward_part/{part}/{kind}": Metric("Σ part / scored rollouts", "Mean of one part of the reward."),
    "solo/{split}": Metric(
        "Σ R / scored rollouts",
        "Mean reward of solo rollouts, by split of the training mixture. A falling line shows forgetting.",
    ),
    "consults/{agent}": Metric(
        "consults / assisted rollouts",
        "Mean number of consults of this agent. `unknown` counts names that are no agent.",
    ),
    "consult_errors/{agent}": Metric("consults with an error / consults", "Share of consults with an error."),
    "agent_failures/{agent}": Metric(
        "failed consults / consults that reached it",
        "Share of requests that the agent itself failed to answer.",
    ),
    "grant": Metric("h / (h + rollout step - 1)", "Probability that a request is granted (`grant_steps`)."),
    "cached": Metric(
        "cached / context tokens", "Share of contexts in the prefix cache, where groups have forks."
    ),
    "declined/{agent}": Metric(
        "declined consults / consults that were declined or reached it",
        "Share of requests that were not granted, with `method.grant_steps`.",
    ),
    "calls/{agent}": Metric("count", "Calls of the agent's chat model, failed attempts included."),
    "call_errors/{agent}": Metric("calls with an error / calls", "Share of calls that failed or timed out."),
    "cut/{agent}": Metric(
        "replies cut by their server / answered calls",
        "Share of replies that a limit on their tokens ended (`finish_reason: length`).",
    ),
    "silent/{agent}": Metric("silent / answered calls", "Share of replies that are empty or only thinking."),
    "tokens_in/{agent}": Metric("Σ tokens", "Prompt tokens of the agent's chat model, as its server says."),
    "tokens_out/{agent}": Metric("Σ tokens", "Completion tokens of the agent's model, as its server says."),
    "call_seconds/{agent}": Metric("Σ seconds", "Duration of the agent's calls, failed attempts included."),
    "latency/{quantile}/{agent}": Metric("p50, p95, p99 of seconds", "Duration of answered calls."),
    "cost/{agent}": Metric("Σ tokens · price", "Cost of the agent's calls; only if prices are configured."),
    "known/{agent}": Metric(
        "Σ [μ_t known] / n",
        "Share of the agent's tokens, tags included, with a log-prob by its own model; only for `ratio`.",
    ),
    "length/{role}": Metric("Σ tokens / rollouts", "Mean number of tokens of this role in a rollout."),
    "seconds/rows": Metric("seconds", "Time to make a rollout step's rows: sampling, scoring, advantages."),
}

ROLES = {code.name.lower(): code for code in (Code.POLICY, Code.AGENT, Code.DISTILLED, Code.REHEARSED)}
"""The tokens that are trained, each kind with metrics of its own."""


def agent_role(name: str) -> str:
    """The tokens of one agent, which are among those of the role `agent`."""
    return f"agent/{name}"


def roles_of(method: MethodSettings) -> tuple[str, ...]:
    """What a method has metrics of: `ROLES`, and each agent with coefficient settings of its own."""
    return (*ROLES, *map(agent_role, method.agents))


QUANTITIES = (
    "tokens", "entropy", "probability", "weight", "loss", "ratio", "clip", "kl", "importance", "importance_squared", "cut",
    "mismatch", "mismatch_tokens",
)  # fmt: skip
"""What the loss sums over the tokens of each role."""

KINDS = ("assisted", "solo", "suppressed", "expert")
"""The kinds of rollouts; see `Trace.kind`."""

_SAMPLED = tuple(role for role in Role if role is not Role.TEACHER)
"""The roles in rollouts that a policy samples."""

SUMMARY = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss")
"""Names that the Hugging Face trainer logs once, at the end of training. They belong to no optimizer step."""


def solo_splits(names: Iterable[str]) -> list[str]:
    """The splits that have a metric `solo/{split}` among `names`; empty if there is only one."""
    splits = sorted({name.removeprefix("solo/") for name in names if name.startswith("solo/")})
    return splits if len(splits) > 1 else []


def check_declared(names: Iterable[str]) -> None:
    """Refuses a metric that `METRICS` does not declare.

    Raises:
        TrainError: names the metric.
    """
    declared = "|".join(re.sub(r"{\w+}", "[^/]+", name) for name in METRICS)
    for name in names:
        if not re.fullmatch(declared, name):
            raise TrainError(f"metric: got {name!r}, allowed those declared in aipo.method.metrics.METRICS")


def loss_metrics(
    sums_R_K: Sequence[Sequence[float]], mismatch_max: float, method: MethodSettings
) -> dict[str, float]:
    """The metrics of one optimizer step from its sums (see `LossOutput`). A metric without tokens is left out."""
    rows = zip(roles_of(method), sums_R_K, strict=True)
    sums = {role: dict(zip(QUANTITIES, row, strict=True)) for role, row in rows}
    if not sums["rehearsed"]["tokens"]:
        del sums["rehearsed"]
    everything = math.fsum(total["loss"] for role, total in sums.items() if role in ROLES)
    values = {f"tokens/{role}": total["tokens"] for role, total in sums.items()}
    for role, total in sums.items():
        if count := total["tokens"]:
            values |= {f"{name}/{role}": total[name] / count for name in ("entropy", "probability", "weight")}
            values[f"loss_share/{role}"] = total["loss"] / everything if everything else 0.0
            if role.startswith("agent"):
                values[f"clip/{role}"] = total["clip"] / count
    if rehearsed := sums.get("rehearsed"):
        values["kl/rehearsed"] = rehearsed["kl"] / rehearsed["tokens"]
    policy = sums["policy"]
    if count := policy["tokens"]:
        values |= {f"{name}/policy": policy[name] / count for name in ("ratio", "clip")}
        values |= {"kl": policy["kl"] / count} if method.beta > 0 else {}
    if count and method.importance_cap is not None:
        total, squares = policy["importance"], policy["importance_squared"]
        values |= {"importance": total / count, "clip/importance": policy["cut"] / count}
        values["ess"] = min(total**2 / (count * squares), 1.0) if squares else 0.0  # rounding lifts 1 above 1
    if count := policy["mismatch_tokens"]:
        values |= {"mismatch/mean": policy["mismatch"] / count, "mismatch/max": mismatch_max}
    return values


def rollout_metrics(traces: Sequence[Trace], agents: Collection[str] = ()) -> dict[str, float]:
    """The metrics of the rollouts of one rollout step, by kind, agent and role.

    Args:
        agents: names that a policy may ask for; it can write any other, and they count as `unknown`.
    """
    kinds = Counter(trace.kind for trace in traces)
    shown = (*KINDS, "taught") if kinds["taught"] else KINDS
    counts = {f"rollouts/{kind}": float(kinds[kind]) for kind in shown}
    counts["rollouts/failed"] = float(sum(trace.reward is None for trace in traces))
    if forked := sum(trace.forked for trace in traces):
        counts["rollouts/forked"] = float(forked)
    traces = [trace.own for trace in traces]  # what forks share is their parents'
    values = defaultdict[str, list[float]](list)
    for trace in traces:
        for role in Role if trace.taught else _SAMPLED:
            values[f"length/{role}"].append(trace.count(role))
        for consult in trace.consults:
            agent = consult.agent if consult.agent in agents else "unknown"
            values[f"consult_errors/{agent}"].append(consult.error is not None)
        if trace.reward is None:
            continue
        values[f"reward/{trace.kind}"].append(trace.reward)
        for part, value in trace.reward_parts.items():
            values[f"reward_part/{part}/{trace.kind}"].append(value)
        for name, value in trace.sampling.get("notes", {}).items():
            values[f"note/{name}"].append(value)
        if trace.mode is Mode.SOLO and not trace.taught and "split" in trace.task:
            values[f"solo/{str(trace.task['split']).replace('/', '_')}"].append(trace.reward)
    # Where nobody may ask, that nobody did says nothing.
    if assisted := sum(trace.mode is Mode.ASSISTED for trace in traces):
        for agent in (*agents, "unknown"):
            counts[f"consults/{agent}"] = len(values.get(f"consult_errors/{agent}", ())) / assisted
    metrics = counts | {name: _mean(numbers) for name, numbers in values.items()}
    if (grant := min((trace.grant for trace in traces), default=1.0)) < 1:
        metrics["grant"] = grant
    for agent in agents:
        metrics |= _agent_metrics(agent, traces)
    return metrics


def _agent_metrics(agent: str, traces: Sequence[Trace]) -> dict[str, float]:
    """The metrics of one agent: consults that reached it, and calls of its chat model."""
    consults = [c for trace in traces for c in trace.consults if c.agent == agent and c.reached]
    visits = (visit for trace in traces for visit in trace.visits)
    calls = [call for visit in visits for call in visit.calls if call.agent == agent]
    segments = (s for trace in traces for s in trace.segments if s.role is Role.AGENT and s.source == agent)
    seconds = [call.seconds for call in calls]
    metrics = {f"calls/{agent}": float(len(calls)), f"call_seconds/{agent}": math.fsum(seconds)}
    if declined := sum(c.agent == agent and c.fault is Fault.DECLINED for t in traces for c in t.consults):
        metrics[f"declined/{agent}"] = declined / (declined + len(consults))
    if consults:
        metrics[f"agent_failures/{agent}"] = _mean([consult.failed for consult in consults])
    if calls:
        metrics[f"call_errors/{agent}"] = _mean([call.error is not None for call in calls])
    for name in ("tokens_in", "tokens_out", "cost"):
        if reported := [value for call in calls if (value := getattr(call, name)) is not None]:
            metrics[f"{name}/{agent}"] = math.fsum(reported)
    if logprobs := [s.logprobs for s in segments if s.logprobs is not None]:
        metrics[f"known/{agent}"] = float(np.isfinite(np.concatenate(logprobs)).mean())
    if answered := [call for call in calls if call.reply is not None]:
        metrics[f"cut/{agent}"] = _mean([call.cut for call in answered])
        metrics[f"silent/{agent}"] = _mean([call.silent is not None for call in answered])
    if seconds := [call.seconds for call in calls if call.error is None]:
        for percent in (50, 95, 99):
            metrics[f"latency/p{percent}/{agent}"] = float(np.percentile(seconds, percent))
    return metrics


def _mean(numbers: Sequence[float]) -> float:
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
