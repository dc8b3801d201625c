from pathlib import Path

import pytest

from kit.exports import Run


@pytest.fixture
def empty(tmp_path: Path) -> Run:
    """A run without traces."""
    return Run(tmp_path / "run")


@pytest.fixture
def run(empty: Run) -> Run:
    """A solo rollout and an assisted one that were rewarded, a solo one that was not, a failed one."""
    empty.keep(
        empty.solo("g0/0", "3@7+1=?", "583<eos>", 1.0),
        empty.solo("g0/1", "3@7+1=?", "584<eos>", 0.0),
        empty.assisted("g0/2", "3@7+1=?", "582+1=583<eos>", 0.5),
        empty.solo("g0/3", "3@7+1=?", "5", None),
    )
    return empty
