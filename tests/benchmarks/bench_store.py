"""What does the trace store cost, next to JSON lines?

    python tests/benchmarks/bench_store.py [--traces 100000] [--repeats 7]

Two kinds of traces: short ones (the miniature's, through the real graphs, 40 tokens each) and long ones (16 384
tokens each: ids by Zipf's law out of 150 000, log-probs and entropies as float32 softmaxes leave them). Everything
lies in a temporary folder; files that were just written are read from the page cache.

- size: bytes per token of a step's file. Baseline: the same traces, texts included, as JSON lines with zstd (level 3).
- speed: megabytes of raw tokens (12 bytes each) per second. What is written is on the disk when the clock stops,
  what is read has become `Trace` objects; both hold for the baseline, too.
- looks: listing and filtering the short traces, 128 in a file. `one look` opens the index for it, as `aipo traces` does;
  `kept open` is the viewer's. `bar` is what the store promises.

Medians; rounds of the store and of the baseline alternate.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import bulk
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from measure import alternate, options, short, show, wall

from aipo.trace import Trace
from aipo.trace.arrow import Stored
from aipo.trace.filters import Filter
from aipo.trace.index import TraceIndex
from aipo.trace.journal import from_line, to_line
from aipo.trace.store import TraceStore, read_file

LONG, LONG_TRACES = 16_384, 32
RAW = 12  # bytes of a token in memory: id, log-prob and entropy
ZSTD = pa.Codec("zstd", compression_level=3)
FEW = Filter(agent="knowledge", reward=(0.5, None), step=(10, None))
TEXT = Filter(text="+5=55")
LOOK_MS = 300
Row = tuple[str, str, float, float | None, float | None]
"""What, its unit, the store's number, the baseline's, and the bar."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Traces of one kind, a step's worth, and who can read them."""

    name: str
    traces: Sequence[Trace]
    decode: Callable[[npt.NDArray[np.int32]], str]

    @property
    def tokens(self) -> int:
        return sum(len(trace.token_ids) for trace in self.traces)

    def step(self, number: int) -> list[Trace]:
        return [bulk.again(trace, number) for trace in self.traces]

    def lines(self) -> bytes:
        texts = [tuple(self.decode(s.token_ids) for s in trace.segments) for trace in self.traces]
        return b"".join(map(to_line, map(Stored, self.step(0), texts)))


def medians(repeats: int, **work: Callable[[], object]) -> dict[str, float]:
    """Seconds."""
    spent = alternate(repeats, {name: partial(wall, run) for name, run in work.items()})
    return {name: median(times) for name, times in spent.items()}


def files(kind: Kind, folder: Path, repeats: int) -> list[Row]:
    """Size, and speed of writing and reading."""
    store, steps = TraceStore(folder, decode=kind.decode), iter(range(1_000_000))
    packed, unpacked = folder / "step.jsonl.zst", len(kind.lines())

    def pack() -> None:
        with packed.open("wb") as file:
            file.write(ZSTD.compress(kind.lines(), asbytes=True))
            file.flush()
            os.fsync(file.fileno())

    def unpack() -> list[Stored]:
        lines = ZSTD.decompress(packed.read_bytes(), unpacked, asbytes=True).splitlines()
        return [from_line(line, "line") for line in lines]

    spent = medians(repeats, seal=lambda: store.seal(step := next(steps), kind.step(step)), pack=pack)
    file = folder / "step-00000-00000.parquet"
    spent |= medians(repeats, read=lambda: read_file(file), unpack=unpack)
    sizes = [path.stat().st_size / kind.tokens for path in (file, packed)]
    megabytes = kind.tokens * RAW / 1e6
    return [
        (f"size, {kind.name}", "B/token", *sizes, None),
        (f"seal, {kind.name}", "MB/s", megabytes / spent["seal"], megabytes / spent["pack"], None),
        (f"read, {kind.name}", "MB/s", megabytes / spent["read"], megabytes / spent["unpack"], None),
    ]


def looks(folder: Path, repeats: int) -> list[Row]:
    index = TraceIndex(folder)

    def once() -> TraceIndex:
        return TraceIndex(folder, resident=False)

    work: dict[str, Callable[[], object]] = {
        "one look: the newest": lambda: once().traces(order="newest"),
        "one look: filter": lambda: once().traces(FEW),
        "one look: groups": lambda: once().groups(),
        "one look: text": lambda: once().traces(TEXT),
        "kept open: nothing new": index.refresh,
        "kept open: the newest": lambda: index.traces(order="newest"),
        "kept open: filter and count": lambda: (index.traces(FEW), index.count(FEW)),
        "kept open: groups": index.groups,
        "kept open: text": lambda: index.traces(TEXT),
        "opening it to keep": lambda: TraceIndex(folder),
    }
    spent = medians(repeats, **work)
    return [(name, "ms", 1e3 * spent[name], None, LOOK_MS if ":" in name else None) for name in work]


def measure(folder: Path, count: int, repeats: int) -> list[Row]:
    templates = bulk.short()
    stretched = bulk.long([t for t in templates[: bulk.STEP] if t.consults][:LONG_TRACES], LONG)
    brief = Kind("short", templates[: bulk.STEP], bulk.TOKENIZER.decode)
    long = Kind("long", stretched, bulk.long_words)
    rows = [row for kind in (brief, long) for row in files(kind, folder / kind.name, repeats)]
    bulk.fill(folder / "many", templates, count, decode=brief.decode)
    return [*rows, *looks(folder / "many", repeats)]


def main() -> None:
    given = options(__doc__, traces=100_000, repeats=7)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), given.traces, given.repeats)
    cells = [[what, unit, *("" if n is None else short(n) for n in numbers)] for what, unit, *numbers in rows]
    show(("what", "unit", "the store", "JSONL + zstd", "bar"), cells, rows, given.out)


if __name__ == "__main__":
    main()
