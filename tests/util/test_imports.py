"""Finding objects by name: the edited copy wins, and every error says what to write instead."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from aipo.errors import ConfigError, LoadError
from aipo.util.imports import Loaded, fingerprint, instantiate, load

pytestmark = pytest.mark.usefixtures("folder")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_function_of_a_module(tmp_path: Path):
    file = write(tmp_path / "mine" / "graph.py", "def build():\n    return 1\n")
    loaded = load("mine.graph:build")
    assert (loaded.name, loaded.function(), loaded.file) == ("mine.graph:build", 1, file)
    assert loaded.fingerprint == fingerprint(file) and len(loaded.fingerprint) == 16


def test_what_a_package_exports_has_the_file_that_defines_it(tmp_path: Path):
    defined = write(tmp_path / "mine" / "graph.py", "def build():\n    return 1\n")
    package = write(tmp_path / "mine" / "__init__.py", "from mine.graph import build\nother = dict\n")
    assert load("mine:build").file == defined
    assert load("mine:other").file == package


def test_what_a_package_exports_late_is_allowed_by_name(tmp_path: Path):
    late = "__all__ = ['build']\ndef __getattr__(name):\n    raise AttributeError(name)\n"
    write(tmp_path / "mine" / "__init__.py", late)
    with pytest.raises(LoadError, match=r"got 'other', allowed one of \['build'\]"):
        load("mine:other")


def test_a_function_of_a_file(tmp_path: Path):
    file = write(tmp_path / "elsewhere" / "g.py", "build = dict\n")
    for name in ("elsewhere/g.py:build", f"{file}:build"):
        assert load(name).function is dict and load(name).file == file


def test_the_working_directory_wins_over_what_is_installed(tmp_path: Path):
    for folder, value in (("installed", "old"), ("here", "edited")):
        write(tmp_path / folder / "room" / "__init__.py", "")
        write(tmp_path / folder / "room" / "graph.py", f"def build():\n    return {value!r}\n")
    code = "from aipo.util.imports import load; print(load('room.graph:build').function())"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r}); {code}"],
        cwd=tmp_path / "here",
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "edited\n"


def test_a_file_imports_from_the_working_directory(tmp_path: Path):
    write(tmp_path / "helper_of_mine.py", "value = 3\n")
    write(tmp_path / "sub" / "g.py", "from helper_of_mine import value\ndef build():\n    return value\n")
    sys.path[:] = [p for p in sys.path if p not in ("", str(tmp_path))]
    assert load("sub/g.py:build").function() == 3


def test_an_edit_is_seen_by_the_next_load_of_a_file(tmp_path: Path):
    file = write(tmp_path / "g.py", "def build():\n    return 1\n")
    first = load("g.py:build")
    write(file, "def build():\n    return 22\n")
    second = load("g.py:build")
    assert (first.function(), second.function()) == (1, 22)
    assert first.fingerprint != second.fingerprint


def test_two_files_of_the_same_name_do_not_stand_in_for_each_other(tmp_path: Path):
    for folder in ("a", "b"):
        write(tmp_path / folder / "g.py", f"def build():\n    return {folder!r}\n")
    a, b = load("a/g.py:build"), load("b/g.py:build")
    assert (a.function(), b.function()) == ("a", "b")
    assert a.function.__module__ != b.function.__module__


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("build", "got 'build', allowed 'module:function' or 'file.py:function'"),
        (":build", "got ':build', allowed 'module:function'"),
        ("module:", "got 'module:', allowed 'module:function'"),
        ("no_such_module:build", "module of 'no_such_module:build': got 'no_such_module' which is not found"),
        ("no/such/file.py:build", "file: got 'no/such/file.py', allowed an existing .py file, looked at"),
        ("there.py:biuld", "object in 'there.py': got 'biuld', allowed one of ['Thing', 'build']"),
        (
            "there.py:value",
            "object in 'there.py': got 'value' of type int, allowed one of ['Thing', 'build']",
        ),
        (".there:build", "got '.there:build', allowed 'module:function' or 'file.py:function'"),
        ("there:biuld", "object in 'there': got 'biuld', allowed one of ['Thing', 'build']"),
        ("needy.py:build", "No module named 'no_such_dependency'"),
        ("needy:build", "got 'no_such_dependency' which is not found"),
        ("sys:exit", "module of 'sys:exit': got 'sys', which has no file"),
    ],
)
def test_errors_say_what_to_write_instead(tmp_path: Path, name: str, reason: str):
    write(tmp_path / "there.py", "value = 1\ndef build(): ...\nclass Thing: ...\n")
    write(tmp_path / "needy.py", "import no_such_dependency\n")
    with pytest.raises(LoadError) as caught:
        load(name)
    assert reason in str(caught.value)


def test_a_ctrl_c_while_something_is_imported_waits_for_the_import(tmp_path: Path):
    (tmp_path / "slow.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nseen = True\ndef f():\n    pass\n"
    )
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        load(f"{tmp_path / 'slow.py'}:f")
    assert any(getattr(module, "seen", False) is True for module in list(sys.modules.values()))
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", ["broken.py:build", "broken:build"])
@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        ("def build(:\n", 1, "SyntaxError: invalid syntax"),
        ("import sys\n\nvalue = missing\n", 3, "NameError: name 'missing' is not defined"),
        ("from sys import nothing_like_it\n", 1, "ImportError: cannot import name"),
        ("import sys\nsys.exit(3)\n", 2, "got sys.exit(3)"),
        ("raise SystemExit\n", 1, "got sys.exit(None)"),
    ],
)
def test_code_that_cannot_be_imported_is_named_with_its_line(
    tmp_path: Path, name: str, code: str, line: int, reason: str
):
    file = write(tmp_path / "broken.py", code)
    with pytest.raises(LoadError) as caught:
        load(name)
    assert reason in str(caught.value) and f"in {file}:{line}" in str(caught.value)
    assert caught.value.__cause__ is not None


# calling


class Chat(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    model_name: str = Field(alias="model")
    max_tokens: int = Field(9, alias="most-tokens")  # no name that a signature could show


def made(**options: Any) -> Chat:
    return instantiate(Loaded("m:Chat", Chat, Path("m.py"), "0"), options, "options of m:Chat")


@pytest.mark.parametrize("name", ["model", "model_name"])
def test_a_field_is_given_by_its_name_or_its_alias(name: str) -> None:
    chat = made(**{name: "a", "max_tokens": 3})
    assert (chat.model_name, chat.max_tokens) == ("a", 3)


def test_what_it_has_by_neither_name_is_refused_and_so_is_nothing() -> None:
    with pytest.raises(ConfigError, match=r"options of m:Chat: got \['modell'\], allowed \["):
        made(modell="a")
    with pytest.raises(ConfigError, match=r"got no \['model'\], allowed a value"):
        made()
