"""The user's `graphs/` and `envs/` win; no other file of theirs takes the place of what a library imports."""

import asyncio
import os
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

import pytest

from aipo.errors import LoadError
from aipo.util import working_directory
from aipo.util.imports import load
from aipo.util.working_directory import python_command, search_working_directory_last, use_working_directory
from envs.sandbox import Sandbox

LIBRARIES = (
    *("_classes", "_ops", "random", "types", "json", "calendar", "secrets", "torch", "numpy", "yaml", "datasets"),
    *("graphs", "envs", "tests", "utils"),
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("folder")
PLAIN = "def build():\n    return 'plain'\n"


def write(name: str, text: str) -> None:
    """A file in the working directory."""
    file = Path(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


@pytest.fixture
def traps(folder: Path) -> None:
    for name in LIBRARIES:
        write(f"{name}.py", f"raise SystemExit('{name}.py was imported')\n")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


MAIN = "import sys; sys.argv = ['aipo', 'graph', 'consult']; from aipo.cli import main; main()"


def test_no_file_of_the_users_takes_the_place_of_a_librarys(traps: None) -> None:
    assert "policy" in run(sys.executable, "-P", "-c", MAIN)


def test_nor_does_it_where_python_runs_a_module(traps: None, folder: Path) -> None:
    (folder / "types.py").unlink()  # Python itself would import these before it comes to us
    assert "policy" in run(sys.executable, "-m", "aipo.cli", "graph", "consult")


SEES = """
import importlib.util


class Sees:
    def splits(self):
        print(*[name for name in ("vllm_of_mine", "wandb_of_mine") if importlib.util.find_spec(name)], "end")
        return ()

    def tasks(self, split):
        return ()

    def score(self, task, answer):
        return 0.0
"""


@pytest.mark.parametrize(
    "start", [["-m", "aipo.cli"], ["-c", "from aipo.cli import main; main()"], ["-P", "-m", "aipo.cli"]]
)
def test_a_folder_of_results_is_no_library_however_python_is_started(folder: Path, start: list[str]) -> None:
    """`PYTHONPATH=$PYTHONPATH:/mine` names the working directory, too, where the variable was empty."""
    for name in ("vllm_of_mine", "wandb_of_mine"):
        (folder / name).mkdir()
    (folder / "mine.py").write_text(SEES)
    home = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, *start, "env", "mine.py:Sees"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": f":{home}"},
    )
    assert done.stdout.split()[0] == "end"


@pytest.mark.parametrize("on_path", [False, True])
def test_nor_beside_this_package(folder: Path, monkeypatch: pytest.MonkeyPatch, on_path: bool) -> None:
    """The working directory is that of a checkout, from which processes that are started import it, too."""
    shutil.copytree(Path(__file__).parents[2] / "aipo", folder / "aipo")
    (folder / "vllm_of_mine").mkdir()
    says = "\n\ndef main():\n    import aipo\n\n    Sees().splits()\n    print(aipo.__file__)\n"
    (folder / "mine.py").write_text(SEES + says)
    if on_path:
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(working_directory, "__file__", str(folder / "aipo" / "util" / "working_directory.py"))
    assert run(*python_command("mine:main")) == f"end\n{folder / 'aipo' / '__init__.py'}\n"


@pytest.mark.parametrize(
    ("variable", "stays"), [("", False), (":/there", False), (".", True), ("/there:{}", True)]
)
def test_a_working_directory_that_pythonpath_names_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, stays: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", variable.format(folder))
    monkeypatch.setattr(sys, "path", ["/there", "", str(folder)])
    search_working_directory_last()
    assert sys.path == (["/there", "", str(folder)] if stays else ["/there"])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--version"], 0, "aipo 0.1.0\n"),
        (
            ["replay", "check", "x"],
            2,
            "RunError: working directory: got one that was deleted, allowed one that exists",
        ),
    ],
)
def test_a_working_directory_that_is_deleted_is_named_where_it_is_needed(
    folder: Path, words: list[str], code: int, says: str
) -> None:
    start = "import os, sys; os.rmdir(os.getcwd()); from aipo.cli import main; sys.argv[0] = 'aipo'; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", start, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code and (done.stdout + done.stderr).startswith(says)


SPAWNS = """
import importlib.util
import multiprocessing


class Spawns:
    def splits(self):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            (found,) = pool.map(importlib.util.find_spec, ["aipo"])
            print(found.origin)
        return ()

    def tasks(self, split):
        return ()

    def score(self, task, answer):
        return 0.0
"""


def test_processes_that_somebodys_code_spawns_import_the_package_of_a_checkout(folder: Path) -> None:
    """The working directory, which an editable install has put on the path, is the only way to it."""
    for package in ("aipo", "graphs", "envs"):
        shutil.copytree(Path(__file__).parents[2] / package, folder / package)
    write("mine.py", SPAWNS)
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); from aipo.cli import main; main()"
    said = run(sys.executable, "-P", "-c", start, "env", "mine.py:Spawns")
    assert said.splitlines()[0] == str(folder / "aipo" / "__init__.py")


def test_nor_in_processes_that_are_started(traps: None) -> None:
    use_working_directory()
    assert run(*python_command("aipo.cli:main", "--version")) == "aipo 0.1.0\n"


@pytest.mark.parametrize("name", ["random", "calendar", "datasets", "mine"])
@pytest.mark.parametrize("form", ["{}:build", "{}.py:build"])
def test_a_file_that_the_configuration_names_is_the_users(folder: Path, name: str, form: str) -> None:
    write(f"{name}.py", "def build():\n    return 'mine'\n")
    loaded = load(form.format(name))
    assert (loaded.function(), loaded.file) == ("mine", folder / f"{name}.py")
    import random

    assert random.random() < 1


def test_an_error_says_where_it_looked() -> None:
    with pytest.raises(
        LoadError, match=r"object in 'random': got 'graph', allowed one of .*, in .*random\.py"
    ):
        load("random:graph")


def test_edited_graphs_win_with_all_that_they_import() -> None:
    write("graphs/__init__.py", "")
    write("graphs/steps.py", "VALUE = 'edited'\n")
    write("mine.py", "from graphs.steps import VALUE\n\n\ndef build():\n    return VALUE\n")
    code = "from aipo.util.imports import load; print(load('mine.py:build').function())"
    assert run(sys.executable, "-P", "-c", code) == "edited\n"


def test_a_folder_that_is_no_package_does_not(folder: Path) -> None:
    (folder / "graphs").mkdir()
    code = "from aipo.util.imports import load; print(load('graphs.solo:solo').file)"
    assert Path(run(sys.executable, "-P", "-c", code).strip()).is_relative_to(Path(__file__).parents[2])


def test_the_working_directory_is_put_last_once(folder: Path) -> None:
    use_working_directory()
    use_working_directory()
    last = sys.meta_path.index(working_directory._LAST_FINDER)
    assert last > sys.meta_path.index(
        PathFinder
    )  # a library that is imported later, such as six, may add its own behind it
    assert sys.meta_path.count(working_directory._LAST_FINDER) == 1
    assert working_directory._LAST_FINDER.place == str(folder) and str(folder) not in sys.path
    assert sys.meta_path.count(working_directory._FINDER) == 1


def test_a_folder_of_results_is_no_library(folder: Path) -> None:
    for name in ("vllm_of_mine", "wandb_of_mine"):
        (folder / name).mkdir()
    write("plain/part.py", PLAIN)
    write("mine.py", "from plain.part import build\n")
    use_working_directory()
    assert find_spec("vllm_of_mine") is None and find_spec("mine") is not None
    assert load("mine.py:build").function() == "plain"  # the user's code imports what it likes
    assert find_spec("wandb_of_mine") is None


def test_a_folder_that_the_configuration_names_is_a_package() -> None:
    write("plain/part.py", PLAIN)
    assert load("plain.part:build").function() == "plain"
    assert find_spec("plain") is not None


def test_so_is_one_that_a_sandbox_calls() -> None:
    write("plain/part.py", PLAIN)
    sandbox = Sandbox("plain.part:build")
    assert asyncio.run(sandbox.call()) == "plain"
    sandbox.close()


def test_a_workers_process_has_the_users_graphs() -> None:
    write("graphs/__init__.py", "")
    write("graphs/said.py", "def main():\n    print('edited')\n")
    use_working_directory()
    assert run(*python_command("graphs.said:main")) == "edited\n"
