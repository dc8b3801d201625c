"""The verifier that may run a program: what it reads of the program, and that the program is isolated."""

import asyncio
import re
from pathlib import Path

import pytest

from aipo.config.cli import graph
from graphs.verify_python import verify_python
from kit.agents import PROMPTS, FunctionChat, build_context, build_spec
from kit.parts import isolation


def consulted(program: str) -> tuple[str, list[str]]:
    """The reply where the model writes this for a program and finds the claim right, and what it was asked."""
    isolation()  # skips where there is none
    chat = FunctionChat(function=lambda prompt: program if "Task: program" in prompt else "right")
    context = build_context([""], chats={"verify_python": chat})
    given = {"question": "How much is 17*23?", "context": "so far", "request": "17*23=391"}
    verifier = verify_python(build_spec("verify_python"))
    return asyncio.run(verifier.ainvoke(given, context=context))["reply"], chat.seen


def test_the_verifier_reads_what_the_program_printed() -> None:
    reply, seen = consulted("```python\nprint(17 * 23)\n```")
    assert reply == "right"
    assert [re.search(r"Task: (\w+)", prompt)[1] for prompt in seen] == ["program", "check"]
    assert "so far\n\nA program was run:\nprint(17 * 23)\n\nIt printed:\n391\n" in seen[1]


@pytest.mark.parametrize("program", ["none", "", "```python\nprint(1)"], ids=["none", "empty", "not closed"])
def test_without_a_program_it_is_asked_as_before(program: str) -> None:
    reply, seen = consulted(program)
    assert reply == "right"
    assert "A program was run" not in seen[1]


def test_a_program_that_fails_says_so_and_sees_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    _, seen = consulted(f"```python\nprint('start', flush=True)\nopen('{tmp_path}/secret')\n```")
    assert re.search(r"It printed:\nstart\nIt ended early: exit status 1: FileNotFoundError", seen[1])


def test_it_takes_the_place_of_verify_by_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    isolation()
    agent = "agents.verify.graph=graphs.verify_python:verify_python"
    graph(None, "aipo_distil", [agent, f"agents.verify.prompt={PROMPTS}/verify_python.md"])
    assert r"verify\3arun --> verify\3ajudge" in capsys.readouterr().out
