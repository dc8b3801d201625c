"""A folder that `datasets.load_dataset` reads and that can be pushed as it stands: Parquet and a card."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from aipo.export.card import card
from aipo.export.chat_template import Words
from aipo.export.selection import Step
from aipo.trace.arrow import FLOAT_COLUMNS, SCHEMA, Stored, to_table

_SHARD_BYTES = 256 * 2**20
_LAYOUT: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": [],
    "use_byte_stream_split": FLOAT_COLUMNS,
}


def write_dataset(
    folder: Path, steps: Iterable[Step], words: Words, *, name: str, manifest: Mapping[str, Any]
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
            found = [words.with_texts(stored) for stored in step.chosen]
            writer.write_table(to_table(found))
            _count(counts, found)
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


def _count(counts: Counter[str], found: Iterable[Stored]) -> None:
    for trace, _ in found:
        counts["traces"] += 1
        counts[f"{trace.kind} rollouts"] += 1
        counts["failed rollouts"] += trace.failed
        counts["rollouts with a reward above 0"] += (trace.reward or 0.0) > 0
        counts["consults"] += len(trace.consults)
        for segment in trace.segments:
            counts[f"tokens: {segment.role}"] += len(segment)
