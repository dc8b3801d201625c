"""Is there space: numbers to check by hand, and disks that are too small."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from aipo.config.build import Experiment, load_experiment
from aipo.doctor.disk import check_disk
from aipo.doctor.memory import GIB, Size

POLICY = Size(weights=GIB, trained=GIB)


def config(tmp_path: Path, *overrides: str) -> Experiment:
    small = ["train.steps=8", "train.save_every=2", "train.tasks_per_step=2", "train.group_size=8"]
    return load_experiment(
        "aipo_distil", [f"run.out={tmp_path / 'run'}", *small, "rollout.max_tokens=1024", *overrides]
    )


@pytest.mark.parametrize(("gib", "status"), [(100, "ok"), (13, "warn"), (12.9, "fail")])
def test_what_a_run_writes(gib: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 checkpoints (three are kept while the next is written) of 3 x 1 GiB, the policy's 1 GiB, and traces."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=round(gib * GIB)))
    (check,) = check_disk(config(tmp_path), POLICY)
    assert check.status == status
    assert "traces 3 MiB, checkpoints 12 GiB, the policy 1 GiB" in check.found
    assert f"free at {tmp_path}, at most 13 GiB needed" in check.found


def test_of_old_checkpoints_the_weights_are_kept(tmp_path: Path) -> None:
    """10 checkpoints: 4 are whole, and 6 are 1 GiB each."""
    (check,) = check_disk(config(tmp_path, "train.steps=20"), POLICY)
    assert "checkpoints 12 GiB, weights of old checkpoints 6 GiB, the policy 1 GiB" in check.found
    (check,) = check_disk(config(tmp_path, "train.steps=20", "train.keep_weights=false"), POLICY)
    assert "checkpoints 12 GiB, the policy 1 GiB" in check.found


def test_checkpoints_of_an_adapter_are_small(tmp_path: Path) -> None:
    (check,) = check_disk(config(tmp_path), Size(weights=GIB, trained=1 << 20))
    assert "checkpoints 12 MiB, the policy 1 GiB" in check.found


def test_weights_on_their_way(tmp_path: Path) -> None:
    pushed = ["policy.engine=vllm"]
    (check,) = check_disk(config(tmp_path, *pushed), POLICY)
    assert "weights on their way 2 GiB" in check.found
    folder = tmp_path / "elsewhere"
    run, other = check_disk(config(tmp_path, *pushed, f"policy.vllm.folder={folder}"), POLICY)
    assert "weights on their way" not in run.found
    assert "at most 2 GiB needed" in other.found
