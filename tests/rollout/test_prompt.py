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


def load_text(folder: Path, content: str | bytes = FILE) -> Prompt:
    path = folder / "verify.md"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Prompt.load(path)


def test_a_section_is_rendered_with_its_variables(tmp_path: Path):
    prompt = load_text(tmp_path)
    assert prompt.render("check", request="6x7=42") == "Is this right?\n\n6x7=42"
    assert prompt.render("close", request="6x7=42", hint="no") == "Yes or no: 6x7=42 (no)"
    plain = "{{ 7*6 }} <&>"  # what a variable holds is no template
    assert prompt.render("check", request=plain).endswith(plain)
    file = tmp_path / "verify.md"
    assert prompt.fingerprint == fingerprint(file) and prompt.file == file.resolve()
    assert [*prompt.sections] == ["check", "close"]


def test_a_heading_of_several_words_is_text(tmp_path: Path):
    prompt = load_text(tmp_path, "## ask\r\n## Two words\r\n### deeper\r\ntext\r\n")
    assert prompt.sections == {"ask": "## Two words\n### deeper\ntext"}


@pytest.mark.parametrize("begin", ["\ufeff## ask", "\ufeffnote\n## ask\t", "## ask\u00a0"])
def test_what_an_editor_adds_that_nobody_sees_hides_no_section(tmp_path: Path, begin: str):
    assert load_text(tmp_path, f"{begin}\ntext\n").sections == {"ask": "text"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"only a note", "got no section, allowed at least one line '## name'"),
        (
            b"note\n## a\n1\n## b\n2\n## a\n3\n",
            "line 6: got section 'a' again, allowed each name once (it begins on line 2)",
        ),
        (b"## a\n1\n## b\n \n## c\n3\n", "line 3: got section 'b' without a text"),
        (b"## a\n1\n{% include 'b.md' %}\n", "section 'a': got template 'b.md'"),
        (b"## a\n{{ request | nosuch }}\n", "section 'a', line 2: got No filter named 'nosuch'"),
        (b"## a\n\xff\n", "allowed a UTF-8 file"),
        (b"## a\nfine\n## b\n\n1\n{% if %}\n", "section 'b', line 6"),
    ],
)
def test_a_bad_file_is_refused_when_it_is_loaded(tmp_path: Path, content: bytes, reason: str):
    with pytest.raises(LoadError) as caught:
        load_text(tmp_path, content)
    assert reason in str(caught.value) and str(tmp_path / "verify.md") in str(caught.value)


def test_a_missing_file_names_its_neighbours(tmp_path: Path):
    load_text(tmp_path)
    with pytest.raises(
        LoadError, match=r"'.*verfy\.md', which is not a file, allowed one of \['verify\.md'\]"
    ):
        Prompt.load(tmp_path / "verfy.md")


@pytest.mark.parametrize(
    ("body", "section", "reason"),
    [
        ("x", "b", r"got 'b', allowed \['a'\]"),
        ("{{ request }}", "a", r"'request' is undefined, allowed \['question'\]"),
        ("{{ question.__class__.__mro__ }}", "a", "unsafe"),
        ("{{ 1 / 0 }}", "a", r"section .a.: division by zero, allowed \[.question.\]"),
        ("{{ question() }}", "a", "section .a.: .str. object is not callable"),
    ],
)
def test_what_a_file_or_a_step_does_not_offer_is_refused(
    tmp_path: Path, body: str, section: str, reason: str
):
    prompt = load_text(tmp_path, f"## a\n{body}\n")
    with pytest.raises(LoadError, match=reason):
        prompt.render(section, question="6x7?")


def test_every_prompt_that_is_loaded_inside_is_listed(tmp_path: Path):
    load_text(tmp_path)
    with loaded_prompts() as outer:
        first = load_text(tmp_path)
        with loaded_prompts() as inner:
            second = load_text(tmp_path)
        third = load_text(tmp_path)
    load_text(tmp_path)
    assert inner == [second] and outer == [first, third]


STEPS = {"check": ("request",), "close": ("request", "hint")}


def test_a_prompt_that_fits_its_steps(tmp_path: Path):
    prompt = load_text(tmp_path)
    prompt.check(STEPS, "agent 'verify'")
    prompt.check(STEPS | {"more": ()}, "agent 'verify'", optional=["more"])
    assert prompt.lines == {"check": (5, 6), "close": (10, 11)}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "{{ request }}\n\n",
            "## Rules\nBe brief.\n{{ request }}\n\n",
            "line 8: got section 'Rules', which no step of agent 'verify' uses, allowed ['check', 'close']; a heading "
            "inside a section's text is written '### name', or indented",
        ),
        ("## check", "## chek", "line 5: got section 'chek', which no step of agent 'verify' uses"),
        ("## close", "### close", "got no section ['close'], allowed one for each step of agent 'verify'"),
        (
            "{{ request }}\n\n",
            "{{ request }}\n{{ nosuch }} {{ nosuch }}\n\n",
            "line 9, section 'check': got variable 'nosuch', allowed ['request']",
        ),
        ("right?", "right, {{ hint }}?", "line 6, section 'check': got variable 'hint', allowed ['request']"),
        (
            "if hint",
            "if hints",
            "line 11, section 'close': got variable 'hints', allowed ['hint', 'request']",
        ),
        ("{{ request }}\n", "{{ request | replace('a', b) }}\n", "line 8, section 'check': got variable 'b'"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_with_file_and_line(
    tmp_path: Path, before: str, after: str, message: str
):
    prompt = load_text(tmp_path, FILE.replace(before, after, 1))
    with pytest.raises(LoadError) as caught:
        prompt.check(STEPS, "agent 'verify'")
    assert str(caught.value).startswith(f"prompt {tmp_path / 'verify.md'}") and message in str(caught.value)


def test_a_variable_that_the_template_itself_sets_is_none_of_the_steps(tmp_path: Path):
    body = (
        "{% for word in request %}{{ word }}{{ loop.index }}{% endfor %}{% set x = 1 %}{{ x }} {{ range(3) }}"
    )
    load_text(tmp_path, f"## a\n{body}\n").check({"a": ("request",)}, "it")


@pytest.mark.parametrize(
    "body",
    [
        "{{ style|default('brief') }}",
        "{{ style|d('brief')|upper }}",
        "{% if style is defined %}{{ style }}{% endif %}",
        "{{ 'brief' if style is undefined else style }}",
    ],
)
def test_a_variable_that_may_be_absent_need_not_be_offered(tmp_path: Path, body: str):
    load_text(tmp_path, f"## a\n{{{{ request }}}} {body}\n").check({"a": ("request",)}, "it")
