"""A folder that `datasets.load_dataset` reads and that can be pushed as it stands: Parquet and a card."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from aipo.export.chat_template import TokenTexts
from aipo.export.selection import ExportStep
from aipo.trace.arrow import FLOAT_COLUMNS, SCHEMA, Stored, to_table
from aipo.util.text import visible

COLUMNS: dict[str, str] = {
    "trace_id": "id of the rollout",
    "run_id": "the run that it is from",
    "group_id": "rollouts of the same task in the same step share it",
    "task_id": "id of the task",
    "step": "rollout step of the training run, from 0",
    "index": "number of the rollout in its group",
    "kind": "assisted, solo, suppressed (solo, consult tags masked), expert or replay",
    "mode": "assisted, solo, expert or replay",
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
    "policy_version": "optimizer steps behind the weights that sampled",
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
_SHARD_BYTES = 256 * 2**20
_LAYOUT: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": [],
    "use_byte_stream_split": FLOAT_COLUMNS,
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_dataset(
    folder: Path, steps: Iterable[ExportStep], texts: TokenTexts, *, name: str, manifest: Mapping[str, Any]
) -> int:
    """Writes traces with their texts into `folder`, a new one, and returns how many.

    Args:
        name: of the data set, for its card.
        manifest: what the run was made of; empty = not known.
    """
    data = folder / "data"
    data.mkdir(parents=True)
    drafts: list[Path] = []
    counts: Counter[str] = Counter()
    writer: pq.ParquetWriter | None = None
    try:
        for step in steps:
            if writer is None:
                drafts.append(data / f"{len(drafts)}.draft")
                writer = pq.ParquetWriter(drafts[-1], SCHEMA, **_LAYOUT)
            traces = [texts.with_texts(stored) for stored in step.chosen]
            writer.write_table(to_table(traces))
            _count(counts, traces)
            if drafts[-1].stat().st_size > _SHARD_BYTES:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    for number, draft in enumerate(drafts):
        draft.rename(data / f"train-{number:05d}-of-{len(drafts):05d}.parquet")
    (folder / "README.md").write_text(card(name, counts, manifest), encoding="utf-8")
    return counts["traces"]


def _count(counts: Counter[str], traces: Iterable[Stored]) -> None:
    for trace, _ in traces:
        counts["traces"] += 1
        counts[f"{trace.kind} rollouts"] += 1
        counts["failed rollouts"] += trace.failed
        counts["rollouts with a reward above 0"] += (trace.reward or 0.0) > 0
        counts["consults"] += len(trace.consults)
        for segment in trace.segments:
            counts[f"tokens: {segment.role}"] += len(segment)


def card(name: str, counts: Mapping[str, int], manifest: Mapping[str, Any]) -> str:
    """README.md of a data set: how much there is, what it was made of, its columns. The licence is left open."""
    # No `configs`: with them, `datasets` takes two folders of the same name for one and shows the first again.
    # The names of the files say the split.
    front = {
        "pretty_name": name,
        "tags": ["aipo", "reinforcement-learning", "reasoning", "agents", "traces"],
        "task_categories": ["text-generation"],
        "size_categories": [next((size for top, size in _SIZES if counts["traces"] < top), "1M<n<10M")],
    }
    page = Environment(
        loader=PackageLoader("aipo.export"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    page.filters |= {"cell": _cell, "file_name": _file_name}
    files = manifest.get("files", {}).items()
    return page.get_template("card.md.j2").render(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        name=name,
        counts=[(what, f"{n:,}") for what, n in counts.items()],
        manifest=manifest,
        packages=[*manifest.get("packages", {}).items(), ("python", manifest.get("python", ""))],
        files=[(part, _file_name(file.get("file", "")), file.get("fingerprint", "")) for part, file in files],
        columns=[*_columns()],
    )


def _columns() -> Iterator[tuple[str, str, str]]:
    for field in SCHEMA:
        listed = pa.types.is_list(field.type)
        inner = field.type.value_type if listed else field.type
        kind = "struct" if pa.types.is_struct(inner) else str(inner)
        yield f"`{field.name}`", f"list of {kind}" if listed else kind, COLUMNS[field.name]


def _cell(value: object) -> str:
    """Text that can neither leave its cell nor become mark-up."""
    line = " ".join(visible(str(value)).split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _file_name(path: str) -> str:
    """The file name of a path: the folders would reveal details of the machine."""
    return PurePath(path).name if PurePath(path).is_absolute() else path
