"""A prompt: one Markdown file that users edit, with one section per step.

    ## check
    Task: check
    Is this claim right? {{ request }}

`## name` starts the section of one step. What stands before the first heading is a note for people
and is never sent. Sections are Jinja templates; a variable that the step does not offer is an error.
"""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import SandboxedEnvironment

from aipo.errors import LoadError
from aipo.util.imports import fingerprint

_HEADING = re.compile(r"^## +(\S+) *$", re.MULTILINE)
_LOADED: ContextVar[list["Prompt"] | None] = ContextVar("loaded_prompts", default=None)
_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Sections of one prompt file, by name."""

    file: Path
    fingerprint: str
    sections: Mapping[str, str]

    @classmethod
    def load(cls, path: Path) -> "Prompt":
        """Reads a prompt file.

        Raises:
            LoadError: the file does not exist, is not UTF-8, has no section or one twice, or is not a
                template.
        """
        if not path.is_file():
            near = sorted(p.name for p in path.parent.glob("*.md"))
            raise LoadError(f"prompt: got {str(path)!r}, which is not a file, allowed one of {near}")
        try:
            pieces = _HEADING.split(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise LoadError(f"prompt {path}: got {error}, allowed a UTF-8 file") from error
        sections = {name: body.strip("\n") for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}
        if not sections:
            raise LoadError(f"prompt {path}: got no section, allowed at least one line '## name'")
        if len(sections) < len(pieces) // 2:
            raise LoadError(f"prompt {path}: got sections {pieces[1::2]}, allowed each name once")
        for name, body in sections.items():
            try:
                _template(body)
            except TemplateSyntaxError as error:
                raise LoadError(f"prompt {path}, section {name!r}, line {error.lineno}: {error}") from error
        prompt = cls(path.resolve(), fingerprint(path), sections)
        if (loaded := _LOADED.get()) is not None:
            loaded.append(prompt)
        return prompt

    def render(self, section: str, **variables: object) -> str:
        """Text of `section` with `variables` filled in.

        Raises:
            LoadError: no such section, or the template names a variable that is not offered.
        """
        if section not in self.sections:
            raise LoadError(
                f"section of prompt {self.file}: got {section!r}, allowed {sorted(self.sections)}"
            )
        try:
            return _template(self.sections[section]).render(**variables)
        except TemplateError as error:
            raise LoadError(
                f"prompt {self.file}, section {section!r}: {error}, allowed {sorted(variables)}"
            ) from error


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
