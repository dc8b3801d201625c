"""What does the trace store cost, next to JSON lines?

    python tests/benchmarks/bench_store.py [--traces 100000] [--repeats 7]

Two kinds of traces: short ones (the miniature's, through the real graphs, 40 tokens each) and long ones (16 384
tokens each: ids by Zipf's law out of 150 000, log-probs and entropies as float32 softmaxes leave them). Everything
lies in a temporary folder; files that were just written are read from the page cache.

- size: bytes per token of a step's file, and of its token columns alone. Baselines: the same traces, texts included,
  as JSON lines with zstd (level 3); raw arrays of int32 ids and float32 log-probs, with float32 entropies or without.
- speed: megabytes of raw tokens (12 bytes each) per second. What is written is on the disk when the clock stops,
  what is read has become `Trace` objects; both hold for the baselines, too.
- looks: listing and filtering the short traces, 128 in a file. `one look` opens the index for it, as
  `aipo traces` does; `kept open` is the viewer's. Baseline: parsing the same traces as JSON lines with orjson and
  filtering them, measured on a tenth of them and times ten.
- opening one of 64 long traces by its id. Baseline: the line of a JSONL file in which the id stands.

Medians; rounds of ours and of the baselines alternate. `bar` is what the store promises, where it does.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import bulk
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from measure import alternate, options, short, show, wall

from aipo.trace import Trace
from aipo.trace.arrow import Stored
from aipo.trace.filters import Filter
from aipo.trace.index import TraceIndex
from aipo.trace.journal import from_line, to_line
from aipo.trace.store import TraceStore, read_file

LONG, LONG_TRACES = 16_384, 32
RAW = {"token_ids": 4, "logprobs": 4, "entropies": 4}  # bytes of each in memory
ZSTD = pa.Codec("zstd", compression_level=3)
FEW = Filter(agent="knowledge", reward=(0.5, None), step=(10, None))
TEXT = Filter(text="+5=55")
LOOK_MS, OPEN_MS = 300, 50


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; for a size or a time the less the better, for a speed the more."""

    what: str
    unit: str
    ours: float
    baseline: str
    theirs: float
    bar: float | None = None


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

    def lines(self, number: int) -> bytes:
        texts = [tuple(self.decode(s.token_ids) for s in trace.segments) for trace in self.traces]
        return b"".join(map(to_line, map(Stored, self.step(number), texts)))


def medians(repeats: int, **work: Callable[[], object]) -> dict[str, float]:
    """Seconds."""
    spent = alternate(repeats, {name: partial(wall, run) for name, run in work.items()})
    return {name: median(times) for name, times in spent.items()}


def sizes(kind: Kind, folder: Path) -> list[Row]:
    TraceStore(folder, decode=kind.decode).seal(0, kind.step(0))
    [path] = folder.glob("*.parquet")
    file = pq.ParquetFile(path).metadata
    groups = [file.row_group(number) for number in range(file.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(file.num_columns)]

    def row(what: str, ours: int, baseline: str, theirs: int) -> Row:
        return Row(
            f"size, {kind.name}: {what}", "B/token", ours / kind.tokens, baseline, theirs / kind.tokens
        )

    def tokens_alone(*names: str) -> Row:
        leaves = {f"segments.list.element.{name}.list.element" for name in names}
        ours = sum(column.total_compressed_size for column in columns if column.path_in_schema in leaves)
        what = ", ".join(names)
        return row(f"{what} alone", ours, f"raw {what}", kind.tokens * sum(RAW[name] for name in names))

    whole = path.stat().st_size
    return [
        row("whole file", whole, "JSONL + zstd", len(ZSTD.compress(kind.lines(0)))),
        row("whole file", whole, f"raw {', '.join(RAW)}", kind.tokens * sum(RAW.values())),
        tokens_alone("token_ids", "logprobs"),
        tokens_alone(*RAW),
    ]


def speeds(kind: Kind, folder: Path, repeats: int) -> list[Row]:
    store, steps = TraceStore(folder, decode=kind.decode), iter(range(1_000_000))
    plain, packed = folder / "step.jsonl", folder / "step.jsonl.zst"
    unpacked = len(kind.lines(0))

    def append() -> None:
        for trace in kind.step(999_999):
            store.append(trace)
        store.close()

    writing = medians(
        repeats,
        seal=lambda: store.seal(step := next(steps), kind.step(step)),
        append=append,
        **{
            "JSONL": lambda: _write(plain, kind.lines(0)),
            "JSONL + zstd": lambda: _write(packed, ZSTD.compress(kind.lines(0), asbytes=True)),
        },
    )
    reading = medians(
        repeats,
        read=lambda: read_file(folder / "step-00000-00000.parquet"),
        **{
            "JSONL": lambda: _parsed(plain.read_bytes()),
            "JSONL + zstd": lambda: _parsed(ZSTD.decompress(packed.read_bytes(), unpacked, asbytes=True)),
        },
    )
    megabytes, traces = kind.tokens * sum(RAW.values()) / 1e6, len(kind.traces)
    kinds = (("MB/s", megabytes, "JSONL"), ("MB/s", megabytes, "JSONL + zstd"), ("traces/s", traces, "JSONL"))
    return [
        Row(f"{verb}, {kind.name}", unit, amount / spent[verb], baseline, amount / spent[baseline])
        for verb, spent in (("seal", writing), ("append", writing), ("read", reading))
        for unit, amount, baseline in kinds
    ]


def looks(folder: Path, tenth: Path, times: float, repeats: int) -> list[Row]:
    index = TraceIndex(folder)

    def scan() -> list[object]:
        with tenth.open("rb") as file:
            return [line for line in map(orjson.loads, file) if _is_one_of_few(line)]

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
    theirs = 1e3 * times * medians(2, scan=scan)["scan"]
    spent = medians(repeats, **work)
    bars = {name: None if name == "opening it to keep" else LOOK_MS for name in work}
    return [Row(name, "ms", 1e3 * spent[name], "JSONL, orjson", theirs, bars[name]) for name in work]


def opening(kind: Kind, folder: Path, repeats: int) -> list[Row]:
    lines = folder / "steps.jsonl"
    for step in range(2):
        TraceStore(folder, decode=kind.decode).seal(step, kind.step(step))
    lines.write_bytes(kind.lines(0) + kind.lines(1))
    index, wanted = TraceIndex(folder), bulk.again(kind.traces[0], 1).trace_id

    def search() -> Stored:
        with lines.open("rb") as file:
            return next(from_line(line, "line") for line in file if wanted.encode() in line)

    assert index.stored(wanted) == search()
    spent = medians(
        repeats,
        kept=lambda: index.stored(wanted),
        once=lambda: TraceIndex(folder, resident=False).stored(wanted),
        search=search,
    )
    return [
        Row(
            f"{name}: one trace of {LONG} tokens",
            "ms",
            1e3 * spent[short],
            "JSONL, searched",
            1e3 * spent["search"],
            OPEN_MS,
        )
        for name, short in (("one look", "once"), ("kept open", "kept"))
    ]


def _is_one_of_few(line: dict[str, object]) -> bool:
    """`FEW`, by hand."""
    reward, step, consults = line["reward"], line["step"], line["consults"]
    return (
        reward is not None
        and reward >= 0.5
        and step >= 10
        and any(consult["agent"] == "knowledge" for consult in consults)
    )


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _parsed(content: bytes) -> list[Stored]:
    return [from_line(line, "line") for line in content.splitlines()]


def measure(folder: Path, count: int, repeats: int) -> list[Row]:
    templates = bulk.short()
    stretched = bulk.long([t for t in templates[: bulk.STEP] if t.consults][:LONG_TRACES], LONG)
    brief = Kind("short", templates[: bulk.STEP], bulk.SHORT_WORDS.decode)
    long = Kind("long", stretched, bulk.long_words)
    rows: list[Row] = []
    for kind in (brief, long):
        rows += sizes(kind, folder / kind.name / "size")
        rows += speeds(kind, folder / kind.name / "speed", repeats)
    steps = bulk.fill(folder / "many", templates, count, decode=brief.decode)
    tenth = folder / "tenth.jsonl"
    with tenth.open("wb") as file:
        file.writelines(brief.lines(step) for step in range(max(1, steps // 10)))
    rows += looks(folder / "many", tenth, steps / max(1, steps // 10), repeats)
    return rows + opening(long, folder / "long" / "open", repeats)


def main() -> None:
    given = options(__doc__, traces=100_000, repeats=7)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), given.traces, given.repeats)
    columns = ("what", "unit", "the store", "baseline", "", "store / baseline", "bar")
    cells: list[list[str]] = []
    for row in rows:
        bar = "" if row.bar is None else f"{row.bar:g}"
        ratio = f"{row.ours / row.theirs:.3g}"
        cells.append([row.what, row.unit, short(row.ours), row.baseline, short(row.theirs), ratio, bar])
    show(columns, cells, [asdict(row) for row in rows], given.out)


if __name__ == "__main__":
    main()
