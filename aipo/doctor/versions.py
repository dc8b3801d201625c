"""Are the packages those that AIPO was tried with? Its own metadata says which."""

import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from aipo.doctor.check import Check
from aipo.policies.vllm.launch import VERSIONS, is_supported

_SHOWN = ("torch", "transformers", "trl", "langgraph", "langchain-core", "openai")


def check_versions(needed: Iterable[str] | None = None) -> Iterator[Check]:
    """One line for all that fit, and one for each that does not.

    Args:
        needed: requirements, as in pyproject.toml; None = those of the installed AIPO.
    """
    found = {"python": platform.python_version()}
    wrong: list[Check] = []
    for requirement in map(Requirement, (requires("aipo") or []) if needed is None else needed):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, allowed = requirement.name, requirement.specifier
        install = f'pip install "{name}{allowed}"'
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            wrong.append(Check("fail", "versions", f"{name} is not installed", install))
            continue
        if not allowed.contains(found[name], prereleases=True):
            wrong.append(Check("fail", "versions", f"{name} {found[name]} is outside of {allowed}", install))
    if not wrong:
        shown = ", ".join(f"{name} {found[name]}" for name in ("python", *_SHOWN) if name in found)
        yield Check("ok", "versions", f"{shown}; all {len(found) - 1} packages are in range")
    yield from wrong


def check_vllm(url: str, found: str) -> Check:
    """Is the server's vLLM one that was tried?"""
    says = f"{url} answers, vLLM {found}"
    if is_supported(found):
        return Check("ok", "server", says)
    return Check("warn", "server", f"{says} is outside of {VERSIONS}", f'pip install "vllm{VERSIONS}" there')
