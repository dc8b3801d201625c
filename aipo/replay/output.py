"""The run folder that a replay leaves: like any other, with a word on what it is a replay of."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aipo.config.build import drawing, manifest
from aipo.config.load import dump
from aipo.errors import RunError
from aipo.replay.recordings import LeftOut, Recordings
from aipo.replay.restore import Restored
from aipo.run import RunFolder, keep_tokenizer
from aipo.util.files import write_json, write_text


def new_folder(out: Path, recordings: Recordings) -> RunFolder:
    """Takes the folder of a replay.

    Raises:
        RunError: it is not empty, or lies within what is replayed.
    """
    source, target = recordings.run.path.resolve(), out.resolve()
    if target == source or source in target.parents:
        raise RunError(f"--out: got {out}, allowed a folder outside of {source}, which is only read")
    return RunFolder.create(out)


def describe(
    folder: RunFolder, restored: Restored, what: str, live: str | None = None, *, trainable: bool = True
) -> None:
    """Writes configuration, manifest, drawing and tokenizer.

    Args:
        live: the policy that went on where recordings end; `model` stays what the source started from.
        trainable: whether the new traces say truly how they were sampled.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    config, recordings = restored.config, restored.recordings
    own = config.model_copy(update={"run": config.run.model_copy(update={"out": folder.path})})
    write_text(folder.config, dump(own))
    replay_of = {"what": what, **origin(recordings)} | ({} if trainable else {"trainable": False})
    made_of = manifest(
        own, restored.graphs, recordings.run.read_manifest().get("model") or config.policy.model
    )
    went_on = {"live": live} if live else {}
    write_json(folder.manifest, made_of | went_on | {"replay_of": replay_of})
    write_json(folder.graph, drawing(restored.graphs.graph))
    keep_tokenizer(folder, restored.tokenizer.inner.save_pretrained)


def origin(recordings: Recordings) -> dict[str, Any]:
    """What a new run's manifest says of the traces that it came from; what is not to be learned from stays so."""
    run = recordings.run
    first = next(iter(Recordings(path=recordings.path)), None)  # its own: those given are still to be read
    return {
        "path": str(recordings.path.resolve()),
        "run_id": first[0].run_id if first else run.path.name,
        "fingerprints": first[0].fingerprints if first else {},
        **({} if _trainable(run) else {"trainable": False}),
    }


def check_trainable(recordings: Recordings) -> None:
    """Refuses traces that do not say truly how they were sampled.

    Raises:
        RunError: the run is of live forks, or made of such.
    """
    run = recordings.run
    if not _trainable(run):
        raise RunError(
            f"traces to learn from: got {run.path}, forks that went on with consult tags forbidden though their "
            "forbidden_ids do not say so, allowed traces whose log-probs are those of what sampled them"
        )


def _trainable(run: RunFolder) -> bool:
    replay_of = run.read_manifest().get("replay_of")
    return not (isinstance(replay_of, dict) and replay_of.get("trainable") is False)


def write_left_out(folder: RunFolder, left_out: Sequence[LeftOut]) -> None:
    """`left_out.json`, if anything was.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    if left_out:
        write_json(folder.path / "left_out.json", [asdict(item) for item in left_out])
