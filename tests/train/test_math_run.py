"""Real questions through every room, with the policy in this process: rollouts, training, an exam."""

from pathlib import Path

import pytest

from kit.mathruns import check_run, configured


@pytest.mark.parametrize("tags", [True, False], ids=["tags are tokens", "tags are text"])
def test_real_questions_are_asked_answered_learned_from_and_examined(tmp_path: Path, tags: bool) -> None:
    check_run(configured(tmp_path, tags=tags), tags=tags)
