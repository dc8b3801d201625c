"""Does the policy ask? Assisted rollouts of its own on training tasks that are held out, before and after the warm-up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from aipo.config.build import Experiment
from aipo.evaluate.parts import evaluate
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.env import Task
from aipo.rollout.run_limits import commonest_error
from aipo.run import RunFolder
from aipo.trace import Mode, Trace
from aipo.trace.store import TraceStore
from aipo.util.console import NumberTable, number_table
from aipo.util.files import write_json

BEFORE, AFTER = "before", "after"

_LINES = {
    "asking": "assisted rollouts that ask",
    "malformed": "requests of a wrong form",
    "solved": "assisted rollouts that are right",
}


def evaluation_of(when: str) -> str:
    """The name of the evaluation that keeps these rollouts."""
    return f"asks-{when}"


def measure(
    experiment: Experiment,
    engine: RolloutEngine,
    folder: RunFolder,
    when: str,
    probes: Sequence[Task],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """One assisted rollout of each probe. Its traces and results are kept as an evaluation, see `evaluation_of`.

    Returns:
        See `asking`; and by split the share of the rollouts that ask.
    """
    name, traces = evaluation_of(when), list[Trace]()
    decode = engine.policies["policy"].tokenizer.decode
    guard = experiment.guards(folder.spending, lambda _: None)
    results: dict[str, Any] = {}
    with folder.evaluation_taken(name), TraceStore(folder.evaluation_traces(name), decode=decode) as store:

        def keep(trace: Trace) -> None:
            store.append(trace)
            traces.append(trace)
            guard(trace)

        store.begin(0)
        for split, tasks in groupby(probes, key=lambda task: task.split):
            result = evaluate(
                engine,
                list(tasks),
                mode=Mode.ASSISTED,
                samples=1,
                ks=(1,),
                seed=experiment.seed,
                on_trace=keep,
            )
            results[split] = {"assisted": asdict(result)}
        store.seal(0, traces)
    write_json(folder.evaluation(name), results)
    if failed := [trace for trace in traces if trace.failed]:
        warn(f"{len(failed)} of {len(traces)} rollouts failed. {commonest_error(failed)}")
    by_split = {split: asking([t for t in traces if t.task["split"] == split])["asking"] for split in results}
    return {**asking(traces), "by_split": by_split}


def asking(traces: Sequence[Trace]) -> dict[str, Any]:
    """How often the policy asks, and how well, in assisted rollouts; failed ones do not count.

    Returns:
        Counts of rollouts and requests, and shares; a share is None where there is nothing to count.
    """
    ended = [trace for trace in traces if not trace.failed]
    consults = [consult for trace in ended for consult in trace.consults]
    wrong = sum(consult.misformed for consult in consults)
    return {
        "rollouts": len(ended),
        "requests": len(consults),
        "asking": _share(sum(bool(trace.consults) for trace in ended), len(ended)),
        "malformed": _share(wrong, len(consults)),
        "solved": _share(sum(trace.reward_parts.get("correct", 0.0) >= 1 for trace in ended), len(ended)),
    }


def table(measured: Mapping[str, Mapping[str, Any]]) -> NumberTable:
    """What `asking` says before and after."""
    whens = [when for when in (BEFORE, AFTER) if when in measured]
    shares = [(text, [measured[when][key] for when in whens]) for key, text in _LINES.items()]
    splits = measured[whens[0]]["by_split"]
    if len(splits) > 1:
        shares[1:1] = [
            (f"  of {split}", [measured[when]["by_split"].get(split) for when in whens]) for split in splits
        ]
    rows = [(text, *map(_percent, values)) for text, values in shares]
    counts = [
        (text, *(str(measured[when][key]) for when in whens))
        for key, text in (("rollouts", "rollouts"), ("requests", "requests"))
    ]
    return number_table(("the policy on held-out tasks", *whens), [*rows, *counts])


def _share(count: int, whole: int) -> float | None:
    return count / whole if whole else None


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
