"""How large and how plain the package is: each measure, its bar, and what is over it. As a script it prints the table.

python tests/kit/house.py
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "aipo"


class Measure(NamedTuple):
    """One number of the house."""

    name: str
    number: int
    most: int  # the bar
    culprits: Sequence[str]  # what makes the number large


def measures() -> list[Measure]:
    """All of them."""
    sizes = {file: _lines(file) for file in _python(PACKAGE)}
    rooms: defaultdict[Path, int] = defaultdict(int)
    for file in sizes:
        rooms[file.parent] += file.name != "__init__.py"
    top = [_name(file) for file in sizes if file.parent == PACKAGE]
    tests = {file: _lines(file) for file in _python(ROOT / "tests")}
    readers = sorted(_name(file) for file in sizes if _reads_configuration(file))
    shared = _shared_class_names()
    readme = (ROOT / "README.md").stat().st_size
    return [
        Measure("files directly in aipo/", len(top), 6, sorted(top)),
        Measure("files in the largest room", max(rooms.values()), 12, _over(rooms, 12)),
        Measure("lines of the longest file", max(sizes.values()), 300, _over(sizes, 300)),
        Measure("lines of Python in aipo/", sum(sizes.values()), 25_000, _over(sizes, 250)),
        Measure("modules that import the configuration's classes", len(readers), 0, readers),
        Measure("class names defined twice or more", len(shared), 5, shared),
        Measure("bytes of the README", readme, 8_192, []),
        Measure("lines of tests", sum(tests.values()), 28_000, _over(tests, 600)),
    ]


def _python(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*.py")) if "__pycache__" not in file.parts)


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _lines(file: Path) -> int:
    return file.read_text(encoding="utf-8").count("\n")


def _over(sizes: dict[Path, int], most: int) -> list[str]:
    large = sorted(((size, file) for file, size in sizes.items() if size > most), reverse=True)
    return [f"{_name(file)}: {size}" for size, file in large]


def _classes(file: Path) -> list[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def _reads_configuration(file: Path) -> bool:
    """Does a file outside of config/ and cli.py import a class of the configuration from there?"""
    if file.parent == PACKAGE / "config" or file == PACKAGE / "cli.py":
        return False
    sections = {"Config", *_classes(PACKAGE / "config" / "schema.py")}
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    names = {a.name for node in imports if str(node.module).startswith("aipo.config") for a in node.names}
    return bool(sections & names)


def _shared_class_names() -> list[str]:
    """Class names of the package, of graphs and of envs that stand for several things; a leading _ makes no other name."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for file in [*_python(PACKAGE), *_python(ROOT / "graphs"), *_python(ROOT / "envs")]:
        for name in _classes(file):
            places[name.lstrip("_")].append(_name(file))
    return [f"{name}: {', '.join(files)}" for name, files in sorted(places.items()) if len(files) > 1]


def main() -> None:
    for measure in measures():
        kept = "" if measure.number <= measure.most else "  <- over"
        print(f"{measure.name:50} {measure.number:>7,} (at most {measure.most:,}){kept}")
        for culprit in measure.culprits if kept else ():
            print(f"    {culprit}")


if __name__ == "__main__":
    main()
