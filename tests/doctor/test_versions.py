"""Versions against ranges."""

from importlib.metadata import version

import pytest

from aipo.doctor.versions import check_versions, check_vllm


def test_ours_are_in_range() -> None:
    (check,) = check_versions()
    assert check.status == "ok"
    assert f"transformers {version('transformers')}" in check.found


def test_each_that_is_not_has_its_line() -> None:
    checks = list(check_versions(["pytest>=1", "numpy<1", "no-such-thing>=2", "x>=1; extra == 'test'"]))
    assert [(check.status, check.found) for check in checks] == [
        ("fail", f"numpy {version('numpy')} is outside of <1"),
        ("fail", "no-such-thing is not installed"),
    ]
    assert [check.advice for check in checks] == ['pip install "numpy<1"', 'pip install "no-such-thing>=2"']


@pytest.mark.parametrize(
    ("found", "status"), [("0.22.0", "ok"), ("0.32.1+cpu", "ok"), ("0.21.9", "warn"), ("0.33", "warn")]
)
def test_a_servers_version(found: str, status: str) -> None:
    check = check_vllm("http://here", found)
    assert check.status == status
    assert check.found.startswith(f"http://here answers, vLLM {found}")
