"""Code in the working directory: the user's `graphs/` and `envs/` win over installed ones, and nothing else wins.

A user's `random.py` or `types.py` must not take the place of a module that a library imports. It imports nothing that
takes time: processes which score answers begin with it.
"""

import json
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType


def existing_directory() -> Path | None:
    """The working directory; None = somebody has deleted it."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


class _Finder:
    """Finds packages that users edit in the working directory, before all other places."""

    def __init__(self) -> None:
        self.packages = {"graphs", "envs"}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        here = existing_directory() if path is None and name in self.packages else None
        if here is None:
            return None
        spec = PathFinder.find_spec(name, [str(here)])
        # A single file `graphs.py`, or a folder without __init__.py, is no package of graphs.
        return spec if spec and spec.loader and spec.submodule_search_locations else None


class _LastFinder:
    """Finds all else in the working directory, behind all other places. A folder without __init__.py counts only while
    the user's code is imported, or if the configuration names it: libraries ask whether there is a `vllm` or `wandb`,
    and take a folder of results for it."""

    def __init__(self) -> None:
        self.place: str | None = None
        self.users_code = 0

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, [self.place]) if self.place and path is None else None
        is_folder = spec is not None and spec.loader is None
        return None if is_folder and not self.users_code and name not in _FINDER.packages else spec


class _AipoFinder(FileFinder):
    """Finds this package in a folder of the import path, and nothing else."""

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        return super().find_spec(fullname, target) if fullname == "aipo" else None


_FINDER = _Finder()
_LAST_FINDER = _LastFinder()


@contextmanager
def importing_users_code() -> Generator[None]:
    """Inside the block, folders without __init__.py in the working directory are packages."""
    _LAST_FINDER.users_code += 1
    try:
        yield
    finally:
        _LAST_FINDER.users_code -= 1


def use_working_directory(package: str | None = None) -> None:
    """Makes code in the working directory importable: `graphs`, `envs` and `package` before installed ones, all else
    after them."""
    if package is not None:
        _FINDER.packages.add(package)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    if _LAST_FINDER not in sys.meta_path:
        sys.meta_path.append(_LAST_FINDER)
    here = existing_directory()
    _LAST_FINDER.place = None if here is None else str(here)


def search_working_directory_last() -> None:
    """`use_working_directory` for a process that is ours: the import path no longer has that folder, in which libraries would
    take a folder of results for one of them. What stands there is found by the finders. A folder that PYTHONPATH names stays;
    an empty entry of it names none. If `aipo` itself is there (a checkout), the entry stays for it alone: processes that
    somebody's code starts by multiprocessing take the path over, without the finders."""
    use_working_directory()
    here, named = existing_directory(), filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if here is None or here in [Path(place).resolve() for place in named]:
        return
    for_aipo: list[str] = []
    if here == Path(__file__).resolve().parents[2]:
        for_aipo = [f"{here}{os.sep}"]  # the finders look into the folder by its name without the slash
        loader = SourceFileLoader, SOURCE_SUFFIXES
        sys.path_importer_cache[for_aipo[0]] = _AipoFinder(for_aipo[0], loader)
    entries = [for_aipo if Path(place).resolve() == here else [place] for place in sys.path]
    sys.path[:] = [place for entry in entries for place in entry]


def stands_for_another(module: str) -> bool:
    """Is there a file `module.py` in the working directory, and a module of that name elsewhere?"""
    file = Path.cwd() / f"{module}.py"
    if not file.is_file():
        return False
    others = [place for place in sys.path if place not in ("", str(Path.cwd()))]
    known = module in sys.builtin_module_names or PathFinder.find_spec(module, others) is not None
    return known or Path(getattr(sys.modules.get(module), "__file__", None) or file) != file


def python_command(function: str, *arguments: str) -> list[str]:
    """The command that calls 'module:function' in a new Python, which imports from the places that this one does.
    `python -m` would look into the working directory first. The library's `math` is imported before the places are ours:
    envs/math may come first there."""
    module, _, name = function.partition(":")
    start = (
        "import json, math, sys; sys.path[:] = json.loads(sys.argv.pop(1)); sys.argv[0] = 'aipo'; "
        "from aipo.util.working_directory import search_working_directory_last as last; last(); "
        f"from {module} import {name}; {name}()"
    )
    ours = str(Path(__file__).parents[2])
    places = [str(place) for place in sys.path]
    places = places if ours in places else [ours, *places]  # first: another version may be installed, too
    return [sys.executable, "-P", "-c", start, json.dumps(places), *arguments]
