"""`aipo export`: traces in formats that others read, whole or not at all.

    jsonl        traces as they are, one per line
    sft          conversations that were rewarded, for supervised fine-tuning
    preference   pairs of answers to the same question, for DPO
    dataset      a folder for `datasets`, ready to push

One step's traces are in memory at a time.
"""

import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from aipo import recorded
from aipo.config.build_settings import tags_of_agents
from aipo.errors import ConfigError, RunError
from aipo.export.chat_template import TokenTexts
from aipo.export.conversation import Conversations
from aipo.export.dataset import write_dataset
from aipo.export.selection import ExportStep, matching_steps
from aipo.export.trl_rows import RowFilter, preference_rows, sft_rows, unique_rows
from aipo.run import RunFolder, run_of, tokenizer_of
from aipo.trace.filters import EVERYTHING, Filter
from aipo.trace.store import traces_in
from aipo.util.console import Note, bars, print_line, stage
from aipo.util.files import sync_folder
from aipo.util.text import counted, to_json

FORMATS = {"jsonl": "trace", "sft": "conversation", "preference": "pair", "dataset": "trace"}
"""Formats, and what one row is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """The options of an export, as `aipo export --help` explains them.

    Args:
        out: file, or folder of a `dataset`; None: in the source, exports/FORMAT.
        pairs: most pairs of a group; None: all.
        tokenizer: folder of the policy's tokenizer; None: the run's.
    """

    format: str = "jsonl"
    out: Path | None = None
    where: Filter = EVERYTHING
    agents: str = "cut"
    min_reward: float = 0.0
    unique: bool = False
    margin: float = 0.0
    pairs: int | None = 1
    tokenizer: Path | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export: rows written, and number of traces left out, by reason."""

    path: Path
    rows: int
    left_out: Mapping[str, int]


def export_run(folder: Path, options: ExportOptions, console: Console) -> None:
    """`export` with a progress bar; prints what was written and what was left out.

    Raises:
        AipoError: see `export`.
    """
    with bars(console) as progress:
        result = export(folder, options, stage(progress, "export"))
    print_line(console, f"{counted(result.rows, FORMATS[options.format])} written to {result.path}")
    for line in _reasons(result.left_out):
        print_line(console, f"  {line}", "dim")


def export(folder: Path, options: ExportOptions, note: Note = lambda done, total, text: None) -> Exported:
    """Writes the traces of a run, an evaluation or a folder of traces in another format.

    Raises:
        ConfigError: an unknown format or way to treat consults.
        LoadError: the tokenizer cannot be read.
        RunError: no traces, nothing to write, something is in the way, the disk is full, or there is no tokenizer
            and a text or the chat template is not known.
        TraceError: a file of traces cannot be read.
    """
    format = options.format
    if format not in FORMATS:
        raise ConfigError(f"--format: got {format!r}, allowed {', '.join(FORMATS)}")
    traces = traces_in(folder)
    run = run_of(traces)
    target = options.out or folder / "exports" / (format if format == "dataset" else f"{format}.jsonl")
    _check(target, format, force=options.force)
    texts = TokenTexts(options.tokenizer or tokenizer_of(run), run.read_date())
    conversations = Conversations(texts, options.agents, consult_tags(run))
    left_out: Counter[str] = Counter()
    steps = matching_steps(traces, options.where, left_out, note)
    with _draft(target) as draft:
        if format == "dataset":
            name, manifest = folder.resolve().name, run.read_manifest()
            rows = write_dataset(draft, steps, texts, name=name, manifest=manifest)
        else:
            rows = _write_lines(draft, _lines(options, steps, conversations, left_out))
        if not rows:
            raise RunError(
                f"export to {target}: got no {FORMATS[format]}s to write, allowed at least one. "
                f"Of the traces in {traces}: {'; '.join(_reasons(left_out)) or 'none'}"
            )
    return Exported(target, rows, +left_out)


def _lines(
    options: ExportOptions, steps: Iterable[ExportStep], conversations: Conversations, left_out: Counter[str]
) -> Iterator[bytes]:
    if options.format == "jsonl":
        return (stored.trace.to_json() for step in steps for stored in step.chosen)
    unique: RowFilter = unique_rows(left_out) if options.unique else iter
    if options.format == "sft":
        return map(to_json, unique(sft_rows(steps, conversations, left_out, options.min_reward)))
    margin, pairs = options.margin, options.pairs
    rows = preference_rows(steps, conversations, left_out, margin=margin, pairs=pairs, unique=unique)
    return map(to_json, rows)


def _write_lines(path: Path, lines: Iterable[bytes]) -> int:
    with path.open("wb") as file:
        return sum(file.write(line + b"\n") > 0 for line in lines)


def _reasons(left_out: Mapping[str, int]) -> Iterator[str]:
    for reason, count in sorted(left_out.items(), key=lambda item: -item[1]):
        if count:
            yield f"{count:,} left out: {reason}"


def consult_tags(run: RunFolder) -> list[str]:
    """Consult tags that the run's configuration names, as far as it does."""
    if not run.config.is_file():
        return []
    config = recorded.settings(yaml.safe_load(run.config.read_text(encoding="utf-8")))
    templates = (config.get("rollout") or {}).get("suppress_tags") or ()
    return tags_of_agents(templates, config.get("agents") or ())


# -- whole or not at all -------------------------------------------------------------------------------


def _check(target: Path, format: str, *, force: bool) -> None:
    """Refuses a target that cannot be written, before anything is read."""
    if not target.exists():
        return
    if not force:
        raise RunError(f"--out: got {target}, which is there already, allowed a new name (or --force)")
    ours, card = target.is_file(), target / "README.md"
    if format == "dataset":
        ours = card.is_file() and "\n- aipo\n" in card.read_text(encoding="utf-8", errors="replace")
    if not ours:
        raise RunError(
            f"--force: got {target}, allowed a file, or for --format dataset a folder that such an export made"
        )


@contextmanager
def _draft(target: Path) -> Generator[Path]:
    """A temporary path that replaces the target if the body succeeds, and is removed otherwise.

    Raises:
        RunError: the disk is full, or the place cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as place:
            draft = Path(place) / "new"
            yield draft
            for path in [draft, *draft.rglob("*")]:
                sync_folder(path)  # or a file
            if target.is_dir():
                target.rename(Path(place) / "old")
            draft.replace(target)
        sync_folder(target.parent)
    except RunError:
        raise
    except OSError as error:
        raise RunError(
            f"export to {target}: got {error}, allowed a place that can be written. Nothing was written there."
        ) from error
