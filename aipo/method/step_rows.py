"""The rows of one rollout step, and what is logged with them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aipo.errors import TrainError
from aipo.method.batch import TokenTotals
from aipo.method.credit import Credited
from aipo.method.metrics import rollout_metrics
from aipo.method.rows import Code, Row, distil, distillable, exchange_prompt, rows_of
from aipo.method.settings import MethodSettings
from aipo.policies.tags import Tags
from aipo.trace import Mode, Role, Trace

_NO_TAGS = Tags()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRows:
    """The rows of one rollout step for one trainer, with metrics.

    Args:
        rows: to be trained on, in any number; without rows nothing is learned in this step.
        totals: of all scored sampled rows, for the denominators; some of them may not be in `rows`.
        active_share: share of the scored rollouts with an advantage other than 0.
        metrics: see `aipo.method.metrics`; logged with the first optimizer step on these rows.
    """

    rows: tuple[Row, ...]
    totals: TokenTotals
    active_share: float
    metrics: Mapping[str, float] = field(default_factory=dict)


def step_rows(
    credited: Credited,
    method: MethodSettings,
    *,
    tags: Tags = _NO_TAGS,
    agents: Collection[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> StepRows:
    """Credited traces of one policy as rows, with the metrics of the rollout step.

    Args:
        tags: the consult tags.
        agents: names whose consults are counted one by one.
        metrics: logged besides the step's own.
    """
    solo_traces = [t for t in credited.traces if t.mode in (Mode.SOLO, Mode.EXPERT) and t.segments]
    solo_prompts = {trace.group_id: trace.segments[0] for trace in solo_traces}
    undistilled, unexchanged = list[Row](), 0
    for trace in credited.traces:
        prompt = solo_prompts.get(trace.group_id)
        exchanges = method.agent_prompt == "solo" and _trains_agents(trace, method)
        unexchanged += exchanges and prompt is None
        undistilled += exchange_prompt(trace, prompt) if exchanges and prompt else rows_of(trace)
    assisted_traces = filter(distillable, credited.traces if method.distil_weight > 0 else ())
    rows_or_none = [
        distil(trace, tags, suppress=method.distil_suppress, prompt=solo_prompts.get(trace.group_id))
        for trace in assisted_traces
    ]
    distilled = [row for row in rows_or_none if row is not None]
    uncut = rows_or_none.count(None)
    rows = (*undistilled, *distilled)
    if method.entropy_weight > 0:
        rows = (*weigh_by_entropy(rows, credited.traces, method.entropy_weight),)
    kinds = Counter(row.kind for row in rows)
    counts = {"sampled": kinds["sampled"], "distilled": kinds["distilled"], "uncut": uncut}
    if method.agent_prompt == "solo":
        counts |= {"exchanged": kinds["exchanged"], "unexchanged": unexchanged}
    return StepRows(
        rows=rows,
        totals=TokenTotals.of(rows),
        active_share=credited.active_share,
        metrics={
            **rollout_metrics(credited.traces, agents),
            "active_share": credited.active_share,
            "zero_variance": credited.zero_variance_groups / max(credited.groups, 1),
            **{f"rows/{kind}": float(count) for kind, count in counts.items()},
            **(metrics or {}),
        },
    )


def weigh_by_entropy(rows: Sequence[Row], traces: Iterable[Trace], weight: float) -> list[Row]:
    """The rows, in which the advantage of a sampled token is A·max(1 + α·(H − mean H)/std H, 0), H being its entropy.

    AEPO (2510.14545) in its released code, where α is 0.2, H is the trainer's, and mean and deviation are those of a
    minibatch. Here H is the sampler's and they are those of all these rows, so that a replay has the same; and no advantage
    changes its sign.

    Args:
        traces: those that the rows are of.
        weight: α.

    Raises:
        TrainError: entropies were not recorded.
    """
    by_id = {trace.trace_id: trace for trace in traces}
    entropies = [
        _entropies(row, by_id[row.trace_id]) if row.kind == "sampled" else np.full(len(row), np.nan)
        for row in rows
    ]
    known = np.concatenate([np.empty(0), *entropies])
    known = known[~np.isnan(known)]
    mean, deviation = (known.mean(), known.std(ddof=1)) if len(known) > 1 else (0.0, 0.0)

    def factors(entropies_T: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        standardized_T = np.nan_to_num((entropies_T - mean) / (deviation or 1.0))
        return np.maximum(1 + weight * standardized_T, 0).astype(np.float32)

    return [replace(row, factors_T=factors(one)) for row, one in zip(rows, entropies, strict=True)]


def _entropies(row: Row, trace: Trace) -> npt.NDArray[np.float64]:
    """Of the policy's tokens in a row as sampled; NaN for others."""
    pieces: list[npt.NDArray[Any]] = []
    for part in trace.segments:
        if part.role is Role.POLICY and part.entropies is None:
            raise TrainError(
                f"entropies of trace {row.trace_id!r}: got none, allowed those of every token of the policy with "
                "method.entropy_weight above 0"
            )
        pieces.append(np.full(len(part), np.nan) if part.entropies is None else part.entropies)
    entropies_T = np.concatenate(pieces).astype(np.float64)
    entropies_T[row.codes_T != Code.POLICY] = np.nan
    return entropies_T


def _trains_agents(trace: Trace, method: MethodSettings) -> bool:
    """Whether tokens of agents beside the policy's can have a weight."""
    return trace.author is Role.POLICY and any(
        method.of_agent(s.source).trains(advantage)
        for s in trace.segments
        if s.role is Role.AGENT and (advantage := trace.advantage_of(s)) is not None
    )
