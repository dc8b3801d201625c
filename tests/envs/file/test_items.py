"""Items of files: the schemas that are known, and what is wrong with a file."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from pydantic import ValidationError

from aipo.errors import AipoError, ConfigError, LoadError, TaskError
from envs.file.items import read_tasks
from envs.file.source import SplitSource

# One item each as the file or the hub has it, and the canonical answer.
SCHEMAS = {
    "gsm8k": ({"question": "6 x 7?", "answer": "6 x 7 = <<6*7=42>>42.\n#### 42"}, "42"),
    "gsm8k, thousands": ({"question": "q", "answer": "So 1,000.\n#### 1,000"}, "1,000"),
    "math500": ({"question": "$1/2$?", "answer": "\\frac{1}{2}"}, "\\frac{1}{2}"),
    "math500 of the hub": (
        {
            "problem": "q",
            "solution": "s",
            "answer": "p - q",
            "subject": "Algebra",
            "level": 2,
            "unique_id": "a",
        },
        "p - q",
    ),
    "aime24": (
        {"id": 60, "problem": "q", "solution": "s", "answer": "025", "url": "u", "question": "q"},
        "025",
    ),
    "aime24 of the hub": ({"ID": "2024-I-1", "Problem": "q", "Solution": "s", "Answer": 25}, "25"),
    "aime25": ({"problem": "q", "answer": 70, "id": "0"}, "70"),
}


def written(folder: Path, *rows: object, name: str = "items.jsonl") -> Path:
    file = folder / name
    text = "\n".join(json.dumps(row) for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return file


def read(file: Path, **columns: str):
    return read_tasks("test", SplitSource(file=file, **columns))


@pytest.mark.parametrize(("row", "answer"), SCHEMAS.values(), ids=SCHEMAS)
def test_known_schemas(tmp_path: Path, row: dict, answer: str) -> None:
    (task,) = read(written(tmp_path, row))
    asked = row.get("problem", row.get("Problem", row.get("question")))
    assert (task.task_id, task.prompt, task.answer, task.split) == ("test/0", asked, answer, "test")


def test_a_worked_solution_is_kept_beside_the_answer(tmp_path: Path) -> None:
    gsm8k, _ = SCHEMAS["gsm8k"]
    hub, _ = SCHEMAS["math500 of the hub"]
    (task,) = read(written(tmp_path, gsm8k))
    assert task.metadata == {"solution": "6 x 7 = 42."}
    (task,) = read(written(tmp_path, hub))
    assert task.metadata == {}
    (task,) = read(written(tmp_path, hub), solution="solution")
    assert (task.metadata, task.answer) == ({"solution": "s"}, "p - q")
    with pytest.raises(ConfigError, match=r"column: got .*, allowed one that is called proof"):
        read(written(tmp_path, hub), solution="proof")


ROWS = [{"question": f"{n}?", "answer": str(n)} for n in range(3)]


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    tasks = read(written(tmp_path, *ROWS, name=name))
    assert [(t.task_id, t.prompt, t.answer) for t in tasks] == [
        (f"test/{n}", f"{n}?", f"{n}") for n in range(3)
    ]


def test_parquet_says_the_same(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "items.parquet")
    assert read(tmp_path / "items.parquet") == read(written(tmp_path, *ROWS))


def test_a_data_set_of_the_hub_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[object]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> Dataset:
        asked.append((name, config, split))
        return DatasetDict(test=Dataset.from_list(ROWS))[split]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    source = SplitSource(hub="openai/gsm8k", config="main", split="test")
    assert read_tasks("test", source) == read(written(tmp_path, *ROWS))
    assert asked == [("openai/gsm8k", "main", "test")]


def test_a_data_set_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"data set of the hub: got \w+: .*, allowed one that can be loaded"):
        read_tasks("test", SplitSource(hub=str(tmp_path / "nowhere"), split="test"))


def test_columns_can_be_named(tmp_path: Path) -> None:
    row = {"problem": "no", "answer": "no", "key": "k7", "asked": "7?", "gold": 7.5}
    (task,) = read(written(tmp_path, row), question="asked", answer="gold", id="key")
    assert (task.task_id, task.prompt, task.answer) == ("test/k7", "7?", "7.5")


@pytest.mark.parametrize(
    ("rows", "columns", "error", "says"),
    [
        (
            [{"q": 1, "answer": 1}],
            {},
            ConfigError,
            r"column: got \['q', 'answer'\], .* problem or question or prompt",
        ),
        ([{"question": "q", "gold": 1}], {}, ConfigError, "called answer"),
        ([{"question": "q", "answer": 1}], {"answer": "gold"}, ConfigError, "called gold, .* item 0 of"),
        ([ROWS[0], {"question": "q", "answer": None}], {}, TaskError, "answer: got None, .* in item 1 of"),
        ([{"question": " ", "answer": "1"}], {}, TaskError, "question: got ' '"),
        ([{"question": "q", "answer": "so\n####"}], {}, TaskError, "answer: got nothing"),
        (
            [{"question": "q", "answer": ["1"]}],
            {},
            TaskError,
            r"answer: got a list, allowed text or a finite number, or a column inside it \(answer\.0",
        ),
        ([{"question": "q", "answer": True}], {}, TaskError, "answer: got True"),
        ([{"question": "q", "answer": " NaN"}], {}, TaskError, "answer: got ' NaN', allowed text or"),
        (
            [{"question": "q", "answer": float("nan")}],
            {},
            TaskError,
            "answer: got nan, allowed text or a finite",
        ),
        (
            [{"question": "q", "answer": float("inf")}],
            {},
            TaskError,
            "answer: got inf, allowed text or a finite",
        ),
        (
            [{"question": "q", "answer": 1, "id": 7}] * 2,
            {"id": "id"},
            TaskError,
            "id: got '7' twice, .* item 1",
        ),
        ([["q", 1]], {}, LoadError, r"got list, allowed an object, in .*items.jsonl:1"),
        ([], {}, TaskError, "items: got none"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, rows: list, columns: dict, error: type[AipoError], says: str
) -> None:
    with pytest.raises(error, match=says):
        read(written(tmp_path, *rows), **columns)


def test_a_mark_of_utf_8_at_the_beginning_is_no_part_of_the_items(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"question": "q", "answer": 1}\n')
    assert [task.answer for task in read(tmp_path / "a.jsonl")] == ["1"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("nowhere.jsonl", None, r"No such file or directory.*nowhere\.jsonl"),
        (
            "half.jsonl",
            b'{"question": "q", "answer": 1}\n\n{"question":\n',
            r"JSON: got Expecting value.*jsonl:3",
        ),
        ("odd.jsonl", b'{"question": "\xff"}', r"utf-8.*odd\.jsonl:1"),
        (
            "wide.jsonl",
            '{"question": "q"}'.encode("utf-16"),
            r"got UTF-16, allowed the data, in UTF-8, at .*wide",
        ),
        (
            "lfs.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid x\n",
            r"got a pointer of git-lfs .*lfs",
        ),
        (
            "lfs.parquet",
            b"version https://git-lfs.github.com/spec/v1\n",
            r"got a pointer of git-lfs .*parquet",
        ),
        ("lfs.jsonl.gz", b"version https://git-lfs.github.com/spec/v1\n", r"got a pointer of git-lfs .*gz"),
        ("no.parquet", b"PAR0", r"Parquet: got .*no\.parquet"),
        ("no.jsonl.gz", b"plain", r"Not a gzipped file.*no\.jsonl\.gz"),
        (
            "cut.jsonl.gz",
            gzip.compress(b'{"question": "q", "answer": 1}', mtime=0)[:-9],
            r"end-of-stream.*cut\.jsonl\.gz",
        ),
    ],
)
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=says):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "allowed one of them"),
        ({"file": "a.jsonl", "hub": "b"}, "allowed one of them"),
        (
            {"file": "a.txt"},
            r"got 'a.txt', allowed .jsonl, .jsonl.gz, .csv, .parquet, or the name of a benchmark",
        ),
        ({"file": "a.jsonl", "split": "test"}, "for a file, allowed for hub"),
        ({"hub": "b"}, "split: got none of 'b'"),
        ({"file": "a.jsonl", "colunm": "q"}, "Extra inputs are not permitted"),
    ],
)
def test_a_source_is_one_place(given: dict, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SplitSource(**given)
