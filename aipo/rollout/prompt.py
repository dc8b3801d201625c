"""A prompt: one Markdown file that users edit, with one section per step.

    ## check
    Task: check
    Is this claim right? {{ request }}

`## name` starts the section of one step. What stands before the first heading is a note for people
and is never sent. Sections are Jinja templates; a variable that the step does not offer is an error, and so is a
section that no step uses: a heading inside a section would cut it in two.
"""

import re
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import SandboxedEnvironment

from aipo.errors import LoadError
from aipo.util.files import read_text
from aipo.util.imports import fingerprint

_HEADING = re.compile(r"^##[ \t]+(\S+)[^\S\n]*$", re.MULTILINE)
_INSIDE = "; a heading inside a section's text is written '### name', or indented"
_LOADED: ContextVar[list["Prompt"] | None] = ContextVar("loaded_prompts", default=None)
_ABSENT = ("default", "d", "defined", "undefined")
"""Filters and tests of Jinja for a variable that may be absent."""
_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Sections of one prompt file, by name, and the lines of the file on which each one and its text begin."""

    file: Path
    fingerprint: str
    sections: Mapping[str, str]
    lines: Mapping[str, tuple[int, int]]

    @classmethod
    def load(cls, path: Path) -> "Prompt":
        """Reads a prompt file.

        Raises:
            LoadError: the file does not exist, is not UTF-8, has no section, an empty one or one twice, or is not a
                template; names the line.
        """
        if not path.is_file():
            near = sorted(p.name for p in path.parent.glob("*.md"))
            raise LoadError(f"prompt: got {str(path)!r}, which is not a file, allowed one of {near}")
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:
            raise LoadError(f"prompt {path}: got {error}, allowed a UTF-8 file") from error
        headings = [*_HEADING.finditer(text)]
        if not headings:
            raise LoadError(f"prompt {path}: got no section, allowed at least one line '## name'")
        sections, lines = dict[str, str](), dict[str, tuple[int, int]]()
        for heading, end in zip(headings, [*(h.start() for h in headings[1:]), len(text)], strict=True):
            name, body, line = heading[1], text[heading.end() : end], _line(text, heading.start())
            if name in sections:
                raise LoadError(
                    f"prompt {path}, line {line}: got section {name!r} again, allowed each name once (it begins on line "
                    f"{lines[name][0]}){_INSIDE}"
                )
            sections[name] = body.strip("\n")
            lines[name] = (line, line + len(body) - len(body.lstrip("\n")))
            _check_template(sections[name], name, lines[name], f"prompt {path}")
        prompt = cls(path.resolve(), fingerprint(path), sections, lines)
        if (loaded := _LOADED.get()) is not None:
            loaded.append(prompt)
        return prompt

    def check(
        self, steps: Mapping[str, Collection[str]], whose: str, *, optional: Collection[str] = ()
    ) -> None:
        """Refuses a file that does not fit the steps which it is for.

        Args:
            steps: by section, the variables that its step offers.
            whose: for messages, who has these steps.
            optional: sections that need not be there.

        Raises:
            LoadError: a section that no step uses, one that is missing, or a variable that its step does not offer;
                names file and line.
        """
        for name in self.sections:
            if name not in steps:
                raise LoadError(
                    f"prompt {self.file}, line {self.lines[name][0]}: got section {name!r}, which no step of {whose} uses, "
                    f"allowed {sorted(steps)}{_INSIDE}"
                )
        if missing := [name for name in steps if name not in self.sections and name not in optional]:
            raise LoadError(
                f"prompt {self.file}: got no section {missing}, allowed one for each step of {whose}: {sorted(steps)}"
            )
        for name, body in self.sections.items():
            for variable, line in _variables(body):
                if variable not in steps[name]:
                    raise LoadError(
                        f"prompt {self.file}, line {self.lines[name][1] + line - 1}, section {name!r}: got variable "
                        f"{variable!r}, allowed {sorted(steps[name])}"
                    )

    def render(self, section: str, **variables: object) -> str:
        """Text of `section` with `variables` filled in.

        Raises:
            LoadError: no such section, or the template fails: it names a variable that is not offered, or divides by 0.
        """
        if section not in self.sections:
            raise LoadError(
                f"section of prompt {self.file}: got {section!r}, allowed {sorted(self.sections)}"
            )
        try:
            return _template(self.sections[section]).render(**variables)
        except Exception as error:  # a template is anybody's program
            raise LoadError(
                f"prompt {self.file}, section {section!r}: {error}, allowed {sorted(variables)}"
            ) from error


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _check_template(body: str, name: str, lines: tuple[int, int], where: str) -> None:
    heading, line = lines
    if not body.strip():
        raise LoadError(
            f"{where}, line {heading}: got section {name!r} without a text, allowed one with{_INSIDE}"
        )
    try:
        _template(body)
    except TemplateSyntaxError as error:
        at = line + error.lineno - 1
        raise LoadError(
            f"{where}, section {name!r}, line {at}: got {error}, allowed a Jinja template"
        ) from error
    if files := [*meta.find_referenced_templates(_ENVIRONMENT.parse(body))]:
        raise LoadError(
            f"{where}, line {line}, section {name!r}: got template {files[0]!r}, allowed a section that includes no other"
        )


def _variables(body: str) -> list[tuple[str, int]]:
    """The variables that a template needs, and the line of the first use of each. It does without one that it asks for
    with `is defined` or `default`."""
    tree = _ENVIRONMENT.parse(body)
    asked = [n.node for n in tree.find_all((nodes.Filter, nodes.Test)) if n.name in _ABSENT]
    names = meta.find_undeclared_variables(tree) - {n.name for n in asked if isinstance(n, nodes.Name)}
    first = {node.name: node.lineno for node in reversed([*tree.find_all(nodes.Name)])}
    return sorted(((name, first[name]) for name in names), key=lambda use: (use[1], use[0]))


@lru_cache
def _template(source: str) -> Template:
    """Compiling a template takes longer than a whole step of a graph."""
    return _ENVIRONMENT.from_string(source)


@contextmanager
def loaded_prompts() -> Generator[list[Prompt]]:
    """Lists every prompt that is loaded inside the block, so that a run can record what it used."""
    token = _LOADED.set(loaded := [])
    try:
        yield loaded
    finally:
        _LOADED.reset(token)
