"""The card of a data set: what its columns hold, how much there is, and what it was made of."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import yaml

from aipo.trace.arrow import SCHEMA
from aipo.util.text import visible

COLUMNS: dict[str, str] = {
    "trace_id": "id of the rollout",
    "run_id": "the run that it is from",
    "group_id": "rollouts of the same task in the same step share it",
    "task_id": "id of the task",
    "step": "generation of the training run, from 0",
    "index": "number of the rollout in its group",
    "kind": "assisted, solo, forbidden (solo, consult tags masked) or replay",
    "mode": "assisted, solo or replay",
    "policy": "whose context this is",
    "parent_id": "rollout that this one was forked from, or a replay of",
    "fork_token": "where it was forked",
    "question": "the task's prompt",
    "answer": "the task's answer",
    "reward": "weighted sum of reward_parts; null = never scored, which is not 0",
    "advantage": "what the policy gradient was weighted with; null for a failed rollout",
    "stop_reason": "why it ended: eos, length; unscored, error, deadline, cancelled are failures",
    "error": "what went wrong",
    "agents": "agents that were asked, in order, known or not",
    "consult_errors": "consults that went wrong",
    "tokens": "tokens of the whole context",
    "policy_tokens": "tokens that the policy sampled",
    "agent_tokens": "tokens that agents gave",
    "started": "seconds since 1970",
    "seconds": "how long the rollout took",
    "schema_version": "version of these columns",
    "policy_version": "optimiser steps behind the weights that sampled",
    "reward_parts": "named parts of the reward; JSON",
    "task": "the task with its metadata; JSON",
    "seed": "of the rollout",
    "sampling": "sampling settings; JSON",
    "fingerprints": "of graph and prompts; JSON",
    "forbidden_ids": "token ids that could not be sampled",
    "texts": "text of each segment",
    "segments": "runs of tokens with one producer: role, source, ids, behaviour log-probs (nats), entropies",
    "consults": "requests to agents and their replies, with the segments that hold them",
    "visits": "nodes of the graph that were run, with the model calls in them (messages, settings: JSON)",
}
"""Every column of `aipo.trace.arrow.SCHEMA` and what it holds."""

_TEXT = """\
# {name}

Rollouts of a language model that was trained with AIPO: it reasons, consults agents while it explores, and every
token knows who produced it. One row is one rollout.

```python
from datasets import load_dataset

traces = load_dataset("path/to/this/folder", split="train")
```

## How much there is

{counts}

## What it was made of

{provenance}

## Columns

{columns}
"""


def card(name: str, counts: Mapping[str, int], manifest: Mapping[str, Any]) -> str:
    """README.md of a data set. The licence is left for whoever publishes it."""
    # No `configs`: with them, `datasets` takes two folders of the same name for one and shows the first again.
    # The names of the files say the split.
    front = {
        "pretty_name": name,
        "tags": ["aipo", "reinforcement-learning", "reasoning", "agents", "traces"],
        "task_categories": ["text-generation"],
        "size_categories": [_size(counts["traces"])],
    }
    text = _TEXT.format(
        name=_cell(name),
        counts=_table(("what", "how many"), ((what, f"{n:,}") for what, n in counts.items())),
        provenance=_provenance(manifest),
        columns=_table(("column", "type", "what it holds"), _columns()),
    )
    asked = "# license: choose one before you publish, such as apache-2.0 or cc-by-4.0\n"
    return f"---\n{asked}{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{text}"


def _provenance(manifest: Mapping[str, Any]) -> str:
    if not manifest:
        return "Not known: there was no manifest.json beside the traces."
    packages = {**manifest.get("packages", {}), "python": manifest.get("python", "")}
    files = manifest.get("files", {}).items()
    # Names only: where files lay on somebody's machine is nobody's business.
    return "\n\n".join(
        (
            f"Policy at the start: {_cell(_name(manifest.get('model', '')))}",
            _table(("package", "version"), packages.items()),
            _table(
                ("part", "file", "fingerprint"),
                ((part, _name(file.get("file", "")), file.get("fingerprint", "")) for part, file in files),
            ),
        )
    )


def _columns() -> Iterable[tuple[str, str, str]]:
    for field in SCHEMA:
        listed = pa.types.is_list(field.type)
        inner = field.type.value_type if listed else field.type
        kind = "struct" if pa.types.is_struct(inner) else str(inner)
        yield f"`{field.name}`", f"list of {kind}" if listed else kind, COLUMNS[field.name]


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head), *([_cell(str(value)) for value in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that can neither leave its cell nor become mark-up."""
    shown = " ".join(visible(text).split())
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _name(path: str) -> str:
    return PurePath(path).name if PurePath(path).is_absolute() else path


def _size(rows: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if rows < bound), "1M<n<10M")
