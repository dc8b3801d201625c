"""The checkpoints of a run: which are whole, which one a run goes on from, how many are kept, and what of them.

A checkpoint is whole if its files are those of its manifest (`aipo.util.whole`), which is written last. One that was
recorded before there were manifests is looked at for what a torn one lacks; its contents cannot be checked.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from aipo.errors import RunError
from aipo.run import RunFolder
from aipo.util.files import writing
from aipo.util.whole import MANIFEST, damage, drop_drafts, record, recorded_files, remove

KEEP_CHECKPOINTS = 3
"""How many can be resumed from; of older ones only the weights are kept."""
STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(0|[1-9]\d*)")
_WEIGHTS = re.compile(r"(adapter_)?model.*\.safetensors(\.index\.json)?")
# What only a resumed run needs: AdamW's state is two thirds of a checkpoint.
_RESUMES = re.compile(
    r"(optimizer|scheduler|scaler|rng_state|training_args|trainer_state|pytorch_model_fsdp)[^/]*(/.*)?"
)
_PARTS = {
    "weights": ("*.safetensors", "pytorch_model_fsdp*"),
    "optimizer state": ("optimizer*",),
    "learning-rate schedule": ("scheduler.pt",),
    "state of the random numbers": ("rng_state*",),
}


class Checkpoint(NamedTuple):
    """A checkpoint's folder.

    Args:
        version: optimizer steps behind it.
        path: its folder.
        kept: its files as the manifest names them; None = it was recorded before there were manifests.
    """

    version: int
    path: Path
    kept: frozenset[str] | None

    @property
    def resumable(self) -> bool:
        """Whether it has, or had, more than weights."""
        return self.kept is None or STATE in self.kept

    @property
    def loadable(self) -> bool:
        """Whether it has weights that `from_pretrained` reads; those of FSDP2 are in pieces."""
        return any(_WEIGHTS.fullmatch(path.name) for path in self.path.iterdir())


class Broken(NamedTuple):
    """The name of a checkpoint that is not whole, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} {self.reason}"


class Found(NamedTuple):
    """A checkpoint to use, and each newer one that is not whole."""

    checkpoint: Checkpoint | None
    broken: list[Broken]

    @property
    def path(self) -> Path | None:
        """Its folder."""
        return self.checkpoint and self.checkpoint.path


Problem = Callable[[Checkpoint], str | None]
"""Why a checkpoint is not whole; None = it is."""


def checkpoints(folder: RunFolder) -> list[Checkpoint]:
    """Every checkpoint of a run, whole or not, from the oldest to the newest."""
    named = [(_NAME.fullmatch(path.name), path) for path in folder.checkpoints.glob("checkpoint-*")]
    numbered = sorted((int(match[1]), path) for match, path in named if match and path.is_dir())
    return [Checkpoint(version, path, _kept(path)) for version, path in numbered]


def problems(every: Sequence[Checkpoint], *, hashes: bool = True) -> Problem:
    """Tells of each of a run's checkpoints why it is not whole, in a few words; None = it is. A file is read once.

    Where an older checkpoint was saved with a manifest, one without has lost it. Weights that were kept of one from
    before there were manifests say nothing about those after it.

    Args:
        hashes: read every file; otherwise only names and sizes are compared.
    """
    first = min((one.version for one in every if one.kept and one.resumable), default=None)

    @cache
    def problem(one: Checkpoint) -> str | None:
        if one.kept is None and first is not None and first < one.version:
            return f"{MANIFEST} is missing"
        wrong = next(_torn(one.path), None) if one.kept is None else damage(one.path, hashes=hashes)
        return wrong or (_misnamed(one) if hashes and one.resumable else None)

    return problem


def newest_whole(candidates: Sequence[Checkpoint], problem: Problem) -> Found:
    """The newest of `candidates` that is whole."""
    broken: list[Broken] = []
    for one in reversed(candidates):
        if (reason := problem(one)) is None:
            return Found(one, broken)
        broken.append(Broken(one.path.name, f"is not whole: {reason}"))
    return Found(None, broken)


def last_checkpoint(folder: RunFolder, newest: int | None = None) -> Found:
    """The newest whole checkpoint to resume from; None when the run stopped before its first one, and begins anew.

    Args:
        newest: the most optimizer steps behind it; None = any.

    Raises:
        RunError: there are checkpoints, and none is whole.
    """
    every = [one for one in checkpoints(folder) if newest is None or one.version <= newest]
    found = newest_whole([one for one in every if one.resumable], problems(every))
    if found.checkpoint is None and found.broken:
        raise RunError(
            f"--resume: got no whole checkpoint ({'; '.join(map(str, found.broken))}), allowed at least one, in "
            f"{folder.checkpoints}. Put an intact copy there; or move the folder away, and --resume begins anew"
        )
    return found


def last_checkpoints(folders: Sequence[RunFolder]) -> list[Found]:
    """Of policies that learn together, for each its newest checkpoint of the newest step for which all have a whole one.

    Raises:
        RunError: see `last_checkpoint`.
    """
    newest: int | None = None
    while True:
        found = [last_checkpoint(folder, newest) for folder in folders]
        versions = {one.checkpoint.version if one.checkpoint else 0 for one in found}
        if len(versions) == 1:
            return found
        newest = min(versions)


def rollout_step_of(checkpoint: Path | None, optimizer_steps: int) -> int:
    """The rollout step that training starts with; checkpoints are named after optimizer steps."""
    return int(checkpoint.name.rpartition("-")[2]) // optimizer_steps if checkpoint else 0


def tidy(run: RunFolder, *, keep_weights: bool) -> None:
    """Keeps the newest checkpoints whole, and of older whole ones the weights, or nothing.

    To be called when the newest is whole: nothing goes before that is on the disk.

    Args:
        keep_weights: of older ones, for replays.

    Raises:
        RunError: a file cannot be written.
    """
    with writing("removing old checkpoints", run.checkpoints):
        drop_drafts(run.checkpoints)
        every = checkpoints(run)
        problem = problems(every, hashes=False)
        resumable = [one for one in every if one.resumable]
        whole = [one for one in resumable if problem(one) is None]
        last = whole[-KEEP_CHECKPOINTS:]
        for one in every:
            if not one.resumable:
                _drop_state(one.path, one.kept)  # a process may have been killed in the middle of this
            elif last and one.version < last[0].version:
                if keep_weights and one in whole and one.loadable:
                    _keep_weights(one)
                else:
                    remove(one.path)


def _keep_weights(one: Checkpoint) -> None:
    names = [path.name for path in one.path.iterdir() if path.is_file()]
    kept = [name for name in names if name != MANIFEST and not _RESUMES.fullmatch(name)]
    record(one.path, kept)
    _drop_state(one.path, kept)


def _drop_state(folder: Path, kept: Collection[str] | None) -> None:
    for path in folder.iterdir():
        if _RESUMES.fullmatch(path.name) and path.name not in (kept or ()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _kept(path: Path) -> frozenset[str] | None:
    try:
        files = recorded_files(path)
    except (OSError, ValueError, KeyError):
        return frozenset({STATE})  # a manifest that cannot be read: `damage` says so
    return None if files is None else frozenset(files)


def _misnamed(one: Checkpoint) -> str | None:
    """Was a whole checkpoint copied or renamed? A run would go on with the weights of another step."""
    steps = json.loads((one.path / STATE).read_text(encoding="utf-8")).get("global_step", one.version)
    return None if steps == one.version else f"{STATE} says {steps} optimizer steps"


def _torn(folder: Path) -> Iterator[str]:
    """What a checkpoint without a manifest lacks, as far as it shows."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            yield f"{STATE} has no keys and values"
    except (OSError, ValueError):
        yield f"{STATE} is missing or torn"
    for part, patterns in _PARTS.items():
        if not any(path for pattern in patterns for path in folder.glob(pattern)):
            yield f"the {part} ({patterns[0]}) is missing"
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".pt", ".pth") and path.is_file() and not zipfile.is_zipfile(path):
            yield f"{path.name} is torn"
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "numpy"):  # compares its header with its length
                    pass
            except (SafetensorError, OSError):
                yield f"{path.name} is torn"
