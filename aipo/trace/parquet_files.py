"""Files of a run by step: immutable Parquet, written whole or not at all.

`folder/step-00012-00000.parquet` is what was made in step 12. A file never changes once it has its name, so that a
reader needs no lock; what a step that is done over leaves behind moves to
`folder/__superseded/`, under a name that no pattern for Parquet files takes. `datasets` and pandas skip folders
whose names begin like this.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from aipo.errors import RunError, TraceError
from aipo.util.files import sync_folder, writing

JOURNALS = "__journal"


def check_version(schema: pa.Schema, where: str, key: str, version: int) -> None:
    """Refuses tables of another version or another program.

    Raises:
        TraceError: names the version.
    """
    got = (schema.metadata or {}).get(key.encode(), b"none").decode(errors="replace")
    if got != str(version):
        raise TraceError(f"schema version of {where}: got {got}, allowed {version}")


class StepFile(NamedTuple):
    """One file, and the step that its name says."""

    step: int
    path: Path


class StepFiles:
    """Parquet files in a folder, which is made with the first one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """The file of `step`, there or not."""
        return self.folder / f"step-{step:05d}-00000.parquet"

    def files(self) -> list[StepFile]:
        """All of them, by step."""
        return step_files(self.folder)

    def publish(
        self, step: int, table: pa.Table, *, rows_per_group: int | None = None, **options: Any
    ) -> Path:
        """Writes the file of `step`; it is on the disk when this returns. `options` are pyarrow's.

        Raises:
            RunError: the step has its file already, or the disk is full or fails.
        """
        path = self.path(step)
        if path.exists():
            raise RunError(f"file of step {step}: got {path}, which is there already, allowed a new step")
        draft = path.with_name(f"_{path.name}.draft")
        with writing(f"writing step {step}", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with draft.open("wb") as file:
                    pq.write_table(table, file, compression="zstd", row_group_size=rows_per_group, **options)
                    file.flush()
                    os.fsync(file.fileno())
                draft.rename(path)
            finally:
                draft.unlink(missing_ok=True)
            sync_folder(self.folder)
        return path

    def set_aside(self, step: int) -> None:
        """Moves files and journals of `step` and later ones to `__superseded/`, where no reader looks.

        Raises:
            RunError: a file cannot be moved.
        """
        aside = self.folder / "__superseded"
        with writing(f"setting aside steps from {step}", self.folder):
            for file in [*self.files(), *step_files(self.folder / JOURNALS, ".jsonl")]:
                if file.step >= step:
                    aside.mkdir(exist_ok=True)
                    before = aside.glob(f"{file.path.name}.attempt-*")
                    attempt = max((int(path.name.rpartition("-")[2]) for path in before), default=0) + 1
                    file.path.rename(aside / f"{file.path.name}.attempt-{attempt}")


def step_files(folder: Path, suffix: str = ".parquet") -> list[StepFile]:
    """Files in `folder`, by step; none where it is no folder. The second number of a name is 0 in what AIPO writes."""
    name = re.compile(rf"step-(\d{{5,}})-\d{{5,}}{re.escape(suffix)}")
    paths = folder.iterdir() if folder.is_dir() else ()
    found = [(match, path) for path in paths if (match := name.fullmatch(path.name))]
    return sorted(StepFile(int(match[1]), path) for match, path in found)
