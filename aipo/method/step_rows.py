"""The rows of one generation, and what is logged with them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from aipo.method.batch import Totals
from aipo.method.credit import Credited
from aipo.method.metrics import rollout_metrics
from aipo.method.rows import Row, distil, distillable, rows_of
from aipo.trace import Mode, Segment, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRows:
    """What one generation gives one trainer.

    Args:
        rows: to be trained on, in any number; none at all is a step in which nothing is learned.
        totals: of all scored sampled rows, for the denominators; some of them may not be in `rows`.
        active_share: share of the scored rollouts with an advantage other than 0.
        metrics: see `aipo.method.metrics`; logged with the generation's first optimiser step.
    """

    rows: tuple[Row, ...]
    totals: Totals
    active_share: float
    metrics: Mapping[str, float] = field(default_factory=dict)


def step_rows(
    credited: Credited,
    *,
    distilled: bool,
    tag_ids: tuple[int, ...],
    suppress: bool = True,
    agents: Collection[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> StepRows:
    """Credited traces of one policy as rows, with the metrics of the generation."""
    sampled = [row for trace in credited.traces for row in rows_of(trace)]
    cut: list[Row] = []
    refused = 0
    if distilled:
        prompts = _solo_prompts(credited.traces)
        eligible = [trace for trace in credited.traces if distillable(trace)]
        made = [
            distil(trace, tag_ids, suppress=suppress, prompt=prompts.get(trace.group_id))
            for trace in eligible
        ]
        cut = [row for row in made if row is not None]
        refused = len(made) - len(cut)
    counts = {"sampled": len(sampled), "distilled": len(cut), "uncut": refused}
    return StepRows(
        rows=(*sampled, *cut),
        totals=Totals.of(sampled),
        active_share=credited.active_share,
        metrics={
            **rollout_metrics(credited.traces, agents),
            "active_share": credited.active_share,
            "zero_variance": credited.zero_variance_groups / max(credited.groups, 1),
            **{f"rows/{kind}": float(count) for kind, count in counts.items()},
            **(metrics or {}),
        },
    )


def _solo_prompts(traces: Iterable[Trace]) -> dict[str, Segment]:
    return {t.group_id: t.segments[0] for t in traces if t.mode in (Mode.SOLO, Mode.EXPERT) and t.segments}
