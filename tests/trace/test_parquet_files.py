"""Files of a run by step: their names and options, and how they are set aside."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aipo.trace.parquet_files import StepFiles

TABLE = pa.table({"a": [1, 2, 3]})


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_files_come_by_step_whatever_else_is_there(tmp_path: Path):
    files = StepFiles(tmp_path)
    for step in (100000, 2):
        files.publish(step, TABLE)
    files.path(2).with_name("step-00002-00001.parquet").touch()  # another program's
    (tmp_path / "step-00001.parquet").touch()
    (tmp_path / "_step-00001-00000.parquet.draft").touch()
    assert [file.step for file in files.files()] == [2, 2, 100000]
    assert StepFiles(tmp_path / "none").files() == []


def test_a_file_is_named_after_its_step_and_options_are_those_of_pyarrow(tmp_path: Path):
    files = StepFiles(tmp_path / "new")
    path = files.publish(12, TABLE, rows_per_group=2, use_dictionary=False)
    assert path == files.path(12) == tmp_path / "new" / "step-00012-00000.parquet"
    assert pq.read_table(path).equals(TABLE)
    data = pq.ParquetFile(path).metadata
    assert [data.row_group(i).num_rows for i in range(data.num_row_groups)] == [2, 1]
    assert data.row_group(0).column(0).compression == "ZSTD"
    assert "RLE_DICTIONARY" not in data.row_group(0).column(0).encodings


def test_steps_are_set_aside_as_often_as_it_takes(tmp_path: Path):
    files = StepFiles(tmp_path)
    for _ in range(2):
        files.set_aside(1)
        for step in (1, 2):
            files.publish(step, TABLE)
    files.set_aside(2)
    assert names(tmp_path) == [
        "__superseded/step-00001-00000.parquet.attempt-1",
        "__superseded/step-00002-00000.parquet.attempt-1",
        "__superseded/step-00002-00000.parquet.attempt-2",
        "step-00001-00000.parquet",
    ]


def test_what_was_set_aside_is_never_replaced(tmp_path: Path):
    files = StepFiles(tmp_path)
    for number in range(4):
        files.publish(0, pa.table({"a": [number]}))
        files.set_aside(0)
        if number == 1:
            (tmp_path / "__superseded" / "step-00000-00000.parquet.attempt-1").unlink()
    kept = sorted((tmp_path / "__superseded").iterdir())
    assert [pq.read_table(path).column("a")[0].as_py() for path in kept] == [1, 2, 3]
