"""The folder of a replay that runs no graph: an ordinary run folder, described by what its source says."""

import shutil
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from aipo.config.load import Config, dump
from aipo.replay.output import new_folder, origin, write_left_out
from aipo.replay.recordings import LeftOut, Recordings
from aipo.run import RunFolder, tokenizer_of
from aipo.trace import Trace
from aipo.util.files import taken, write_json, write_text, writing
from aipo.util.text import visible

LEFT_OUT = 3
"""Exit code of a replay that had to leave something out."""
_SHOWN = 10


def begin_study(
    source: Path, *, what: str, out: Path | None, config: Config, made_of: Mapping[str, Any]
) -> RunFolder:
    """Makes the folder.

    Args:
        source: what is replayed.
        what: kind of replay, as the command calls it.
        out: default: beside the source's run, named after it and `what`.
        made_of: for the manifest, besides what it says of the source; `model` stays what the source started from
            unless it is given.

    Raises:
        RunError: it is not empty, lies in the source, or cannot be written.
    """
    recordings = Recordings(path=source)  # one of its own: what is read here is still to be read
    run = recordings.run
    folder = new_folder(out or default_out(run.path, what), recordings)
    own = config.model_copy(update={"run": config.run.model_copy(update={"out": folder.path})})
    write_text(folder.config, dump(own))
    model = run.read_manifest().get("model")
    kept = {"model": model} if model else {}
    write_json(folder.manifest, {**kept, **made_of, "replay_of": {"what": what, **origin(recordings)}})
    with writing("copying what the source was made of", folder.path):
        if run.graph.is_file():
            shutil.copyfile(run.graph, folder.graph)
        if words := tokenizer_of(run):
            folder.tokenizer.mkdir()
            for file in words.glob("*token*"):
                shutil.copyfile(file, folder.tokenizer / file.name)
    return folder


def end_study(folder: RunFolder, left_out: Sequence[LeftOut], console: Console) -> int:
    """Says where everything is and what is not in it; the exit code.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    console.print(f"run folder {folder.path}", highlight=False, soft_wrap=True)
    write_left_out(folder, left_out)
    for one in left_out[:_SHOWN]:
        line = visible(f"left out: {one.what}: {one.reason}")
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if len(left_out) > _SHOWN:
        more = f"left out: {len(left_out) - _SHOWN} more, see {folder.path / 'left_out.json'}"
        console.print(more, style="yellow", highlight=False, soft_wrap=True)
    return LEFT_OUT if left_out else 0


def own_id(trace: Trace, run_id: str, group_id: str) -> str:
    """The id of a stored trace under another run; several traces of one rollout stay apart by their policy."""
    only = trace.trace_id == f"{trace.run_id}/{trace.group_id}/{trace.index}"
    return f"{run_id}/{group_id}/{trace.index}{'' if only else f'/{trace.policy}'}"


def default_out(run: Path, what: str) -> Path:
    """A folder that is free, named after a run and what is asked of it."""
    first = run.resolve().with_name(f"{run.resolve().name}-{what}")
    others = (first.with_name(f"{first.name}-{n}") for n in count(2))
    return first if not taken(first) else next(path for path in others if not taken(path))
