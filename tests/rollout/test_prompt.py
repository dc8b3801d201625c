"""Prompt files: sections, variables, and errors that name the file."""

from pathlib import Path

import pytest

from aipo.errors import LoadError
from aipo.rollout.prompt import Prompt, loaded_prompts
from aipo.util.imports import fingerprint

FILE = """\
# Verify

A note for people; never sent.

## check
Is this right?

{{ request }}

## close
Yes or no: {{ request }}{% if hint %} ({{ hint }}){% endif %}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "verify.md"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_a_section_is_rendered_with_its_variables(file: Path):
    prompt = Prompt.load(file)
    assert prompt.render("check", request="6x7=42") == "Is this right?\n\n6x7=42"
    assert prompt.render("close", request="6x7=42", hint="no") == "Yes or no: 6x7=42 (no)"
    assert prompt.fingerprint == fingerprint(file) and prompt.file == file.resolve()
    assert [*prompt.sections] == ["check", "close"]


def test_what_a_variable_holds_is_never_a_template(file: Path):
    assert Prompt.load(file).render("check", request="{{ 7*6 }} <&>").endswith("{{ 7*6 }} <&>")


def test_a_heading_of_several_words_is_text(tmp_path: Path):
    path = tmp_path / "p.md"
    path.write_text("## ask\r\n## Two words\r\n### deeper\r\ntext\r\n", newline="")
    assert Prompt.load(path).sections == {"ask": "## Two words\n### deeper\ntext"}


def load_text(tmp_path: Path, content: bytes) -> Prompt:
    path = tmp_path / "bad.md"
    path.write_bytes(content)
    return Prompt.load(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"only a note", "got no section, allowed at least one line '## name'"),
        (b"## a\n1\n## b\n2\n## a\n3\n", "got sections ['a', 'b', 'a'], allowed each name once"),
        (b"## a\n\xff\n", "allowed a UTF-8 file"),
        (b"## a\nfine\n## b\n\n{% if %}\n", "section 'b', line 1"),
    ],
)
def test_a_bad_file_is_refused_when_it_is_loaded(tmp_path: Path, content: bytes, reason: str):
    with pytest.raises(LoadError) as caught:
        load_text(tmp_path, content)
    assert reason in str(caught.value) and str(tmp_path / "bad.md") in str(caught.value)


def test_a_missing_file_names_its_neighbours(file: Path):
    with pytest.raises(
        LoadError, match=r"'.*verfy\.md', which is not a file, allowed one of \['verify\.md'\]"
    ):
        Prompt.load(file.with_name("verfy.md"))


def test_an_unknown_section_names_those_there_are(file: Path):
    with pytest.raises(LoadError, match=r"got 'chek', allowed \['check', 'close'\]"):
        Prompt.load(file).render("chek")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{{ request }}", r"'request' is undefined, allowed \['question'\]"),
        ("{{ question.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_a_step_does_not_offer_is_refused(tmp_path: Path, body: str, reason: str):
    prompt = load_text(tmp_path, f"## a\n{body}\n".encode())
    with pytest.raises(LoadError, match=reason):
        prompt.render("a", question="6x7?")


def test_every_prompt_that_is_loaded_inside_is_listed(file: Path):
    Prompt.load(file)
    with loaded_prompts() as outer:
        first = Prompt.load(file)
        with loaded_prompts() as inner:
            second = Prompt.load(file)
        third = Prompt.load(file)
    Prompt.load(file)
    assert inner == [second] and outer == [first, third]
