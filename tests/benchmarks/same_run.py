"""Are two runs the same? Token ids, log-probs, rewards, metrics and final weights of two run folders, bit for bit.

    python tests/benchmarks/same_run.py BEFORE AFTER

Times, and the ids of runs and files, may differ. Metrics are compared by their present names, so that BEFORE may have
been recorded before a metric was renamed. Prints one line for each part, and exits with 1 where one differs.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.store import TraceStore

_TIMES = ("step_time", "seconds/", "latency/", "throughput")
Part = dict[str, Any]


def traces(run: RunFolder) -> Part:
    """Of each trace by its place: what was sampled, when it was sampled and what it is worth, as bytes."""
    return {f"{t.step}/{t.group_id}/{t.index}/{t.policy}": _content(t) for t in TraceStore(run.traces).read()}


def _content(trace: Trace) -> tuple[Any, ...]:
    segments = [
        (str(s.role), s.source, s.policy_version, *map(_bytes, (s.token_ids, s.logprobs, s.entropies)))
        for s in trace.segments
    ]
    worth = (trace.reward, trace.advantage, dict(trace.reward_parts), str(trace.stop_reason), trace.error)
    return trace.seed, str(trace.mode), trace.forbidden_ids, trace.policy_version, worth, segments


def _bytes(array: Any) -> bytes | None:
    return None if array is None else np.ascontiguousarray(array).tobytes()


def metrics(run: RunFolder) -> Part:
    """Of each optimizer step: every metric but times."""
    return {
        f"{row['step']}/{name}": value
        for row in run.read_metrics()
        for name, value in row.items()
        if not name.startswith(_TIMES)
    }


def weights(run: RunFolder) -> Part:
    """The trained policy's tensors, as bytes."""
    tensors: dict[str, Any] = {}
    for file in sorted(run.model.glob("*.safetensors")):
        tensors |= load_file(file)
    return {name: (tensor.dtype, tensor.shape, tensor.tobytes()) for name, tensor in tensors.items()}


PARTS: dict[str, Callable[[RunFolder], Part]] = {"traces": traces, "metrics": metrics, "weights": weights}


def difference(key: str, before: Part, after: Part) -> str | None:
    """In words; None where both have the same value."""
    if key not in before or key not in after:
        return f"{key} is only in the {'second' if key not in before else 'first'} run"
    if before[key] == after[key]:
        return None
    return f"{key}: {before[key]!r}, then {after[key]!r}" if isinstance(before[key], float) else key


def compare(before: Path, after: Path) -> bool:
    """Prints what differs. Is nothing different?"""
    same = True
    for name, read in PARTS.items():
        one, other = (read(RunFolder.open(path)) for path in (before, after))
        lines = [line for key in sorted(one | other) if (line := difference(key, one, other))]
        if not one:
            lines.append("there is nothing to compare")
        print(f"{name}: {len(one)} and {len(other)}, {len(lines)} differ")
        for line in lines[:10]:
            print(f"  {line[:200]}")
        same &= not lines
    return same


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(0 if compare(Path(sys.argv[1]), Path(sys.argv[2])) else 1)
