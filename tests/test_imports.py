"""What import-linter and ruff do not see: circles within a room, the public names, and what is imported besides."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aipo

PACKAGE = Path(aipo.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "transformers", "trl", "vllm", "datasets", "pandas", "matplotlib")
SURFACE = {
    "aipo.policies": "Completion Policy SampleRequest Sampling Tokenizer",
    "aipo.render": "headline show trace_html trace_text",
    "aipo.rollout": "Agent AgentSpec AgentState ChatModel Env Prompt RolloutContext RolloutEngine RolloutSpec "
    "RolloutState Score Task check_graph derive_seed policy_chat",
    "aipo.trace": "SCHEMA_VERSION Call Consult Fault Mode Role Segment StopReason Trace Visit concatenate histories "
    "of_policy segment turns_behind_replies",
}
"""What a user's graph, agent, environment or notebook imports."""
LIGHT = (
    "aipo.trace",
    "aipo.trace.store",
    "aipo.rollout.env",
    "aipo.config.load",
    "aipo.method.metrics",
    "aipo.render.display",
    "aipo.cli",
)


def module(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Modules that are imported by name, `from a import b` as both `a` and `a.b`."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_modules_import_each_other_in_one_direction() -> None:
    known = {module(file) for file in FILES}
    # A package's own __init__ is imported with each of its modules: only explicit imports count.
    left = {
        module(file): (imported(iter(ast.parse(file.read_text(encoding="utf-8")).body)) & known) - {"aipo"}
        for file in FILES
    }
    while free := {name for name, uses in left.items() if not uses & left.keys()}:
        left = {name: uses for name, uses in left.items() if name not in free}
    assert not left, f"these import each other in a circle: {sorted(left)}"


@pytest.mark.parametrize("name", SURFACE)
def test_the_public_surface_is_what_users_were_told(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__all__ == SURFACE[name].split()
    assert all(hasattr(module, one) for one in module.__all__)


def python(code: str, cwd: Path | None = None) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", LIGHT)
def test_reading_traces_and_the_command_line_need_nothing_heavy(name: str) -> None:
    code = f"import sys, {name}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    assert python(code).strip() == ""


def test_a_folder_that_is_called_graphs_does_not_hide_ours(tmp_path: Path) -> None:
    (tmp_path / "graphs").mkdir()
    python("import graphs.consult", cwd=tmp_path)
