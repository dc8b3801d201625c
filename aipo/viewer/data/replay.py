"""The result of a replay, as `aipo replay` leaves it in `replay.json`."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

FILE = "replay.json"


class ResultTable(BaseModel):
    """A table of text; the first cell of a row is its name."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class ReplayResult(BaseModel):
    """The result of a replay, as a page shows it from `replay.json`; the numbers behind it (`values`) are for programs.

    Args:
        question: the sub-command of `aipo replay`.
        settings: of the replay, by name.
        notes: sentences.
    """

    question: str
    settings: dict[str, str] = {}
    tables: Sequence[ResultTable] = ()
    notes: Sequence[str] = ()


def read_replay(path: Path) -> ReplayResult:
    """The file as a result.

    Raises:
        ValueError: it is no JSON, or has another shape.
    """
    try:
        return ReplayResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}") from error
