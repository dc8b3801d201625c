"""A folder that `datasets.load_dataset` reads and that can be pushed as it stands: Parquet and a card."""

import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import duckdb
import pyarrow.parquet as pq
import yaml

from aipo.export.chat_template import TokenTexts
from aipo.export.selection import ExportStep
from aipo.render.templating import code, fill_card
from aipo.trace.arrow import FLOAT_COLUMNS, to_table
from aipo.trace.filters import FAILED

_LAYOUT: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": [],
    "use_byte_stream_split": FLOAT_COLUMNS,
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_COUNTS = f"""SELECT kind, count(*), count(*) FILTER ({FAILED}), count(*) FILTER (reward > 0),
sum(tokens)::BIGINT, sum(policy_tokens)::BIGINT, sum(agent_tokens)::BIGINT
FROM read_parquet(?) GROUP BY kind ORDER BY kind"""


def write_dataset(
    folder: Path, steps: Iterable[ExportStep], texts: TokenTexts, *, name: str, manifest: Mapping[str, Any]
) -> int:
    """Writes traces with their texts into `folder`, a new one, and returns how many. A step is a file.

    Args:
        name: of the data set, for its card.
        manifest: what the run was made of; empty = not known.
    """
    data = folder / "data"
    data.mkdir(parents=True)
    traces = 0
    for step in steps:
        table = to_table([texts.with_texts(stored) for stored in step.chosen])
        path = data / f"train-{step.number:05d}.parquet"
        pq.write_table(table, path, **_LAYOUT)
        traces += len(table)
    if traces:
        counts = duckdb.execute(_COUNTS, [f"{glob.escape(str(data))}/*.parquet"]).fetchall()
        (folder / "README.md").write_text(card(name, counts, manifest), encoding="utf-8")
    return traces


def card(name: str, counts: Sequence[Sequence[Any]], manifest: Mapping[str, Any]) -> str:
    """README.md of a data set: how much there is, what it was made of, its columns. The licence is left open.

    Args:
        counts: by kind of rollouts: its name, rollouts, failed ones, ones with a reward above 0, tokens, the policy's, agents'.
    """
    rows = sum(row[1] for row in counts)
    # No `configs`: with them, `datasets` takes two folders of the same name for one and shows the first again.
    # The names of the files say the split.
    front = {
        "pretty_name": name,
        "tags": ["aipo", "reinforcement-learning", "reasoning", "agents", "traces"],
        "task_categories": ["text-generation"],
        "size_categories": [next((size for top, size in _SIZES if rows < top), "1M<n<10M")],
    }
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    page = fill_card(
        "aipo.export",
        "card.md.j2",
        name=name,
        counts=[(code(kind), *(f"{n:,}" for n in numbers)) for kind, *numbers in counts],
        manifest=manifest,
        model=_file_name(manifest.get("model", "")),
        packages=[
            (code(package), code(version))
            for package, version in [
                *manifest.get("packages", {}).items(),
                ("python", manifest.get("python", "")),
            ]
        ],
        files=[
            (code(part), code(_file_name(file.get("file", ""))), code(file.get("fingerprint", "")))
            for part, file in manifest.get("files", {}).items()
        ],
    )
    return f"---\n# license: choose one before you publish, such as apache-2.0 or cc-by-4.0\n{head}---\n\n{page}\n"


def _file_name(path: str) -> str:
    """The file name of a path: the folders would reveal details of the machine."""
    return PurePath(path).name if PurePath(path).is_absolute() else path
