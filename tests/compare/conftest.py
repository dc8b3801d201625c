from pathlib import Path

import pytest

from aipo.compare.matrix import Matrix
from kit.matrices import ARMS, finish_all, make_matrix


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    """Of `grpo`, `twice` and `aipo`, with two seeds; nothing has run."""
    return make_matrix(tmp_path, ARMS)


@pytest.fixture
def finished(matrix: Matrix) -> Matrix:
    """The same after all runs: `twice` and `aipo` tie."""
    finish_all(matrix, {"grpo": 0.02, "twice": 0.85, "aipo": 0.85})
    return matrix
