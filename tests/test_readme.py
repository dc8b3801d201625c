"""The documents say what is there: rooms, commands, settings, choices, presets, metrics and links."""

import re
import shlex
import tomllib
from collections.abc import Collection
from pathlib import Path

import nbformat
import pytest
from typer.main import get_command

from aipo.cli import app
from aipo.config import presets
from aipo.config.build import load_experiment
from aipo.config.load import load_config
from aipo.method.agent_weights import COEFFICIENTS, NEGATIVES
from aipo.method.credit import CREDITS
from aipo.method.metrics import page as metrics_page
from aipo.method.objectives import OBJECTIVES
from aipo.method.plan import PLANS
from aipo.replay.questions.grid import CREDIT, METHOD, settings

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aipo"
FOLDERS = [ROOT / folder for folder in ("aipo", "graphs", "envs", "notebooks", "tests/benchmarks")]
PAGES = [page for folder in FOLDERS for page in sorted(folder.rglob("*.md")) if page.parent.name != "prompts"]
PAGES += [ROOT / "README.md", ROOT / "CHANGELOG.md"]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
    cells = nbformat.read(path, as_version=4).cells
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    TEXTS[str(path.relative_to(ROOT))] = "\n\n".join(prose)
README, ROOMS = TEXTS["README.md"], TEXTS["aipo/README.md"]
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = "\n".join(block for text in TEXTS.values() for block in BLOCK.findall(text))
COMMANDS = re.findall(r"^(?:.*&& )?aipo (\w+)(.*?)(?: +#.*)?$", BLOCKS, re.MULTILINE)


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    assert len(README.encode()) <= 8_000
    assert "pip install -e . && aipo demo" in README
    assert "pip install -e '.[test]' && pytest" in README


HOUSE = [f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")] + ["presets/"]
GPU = [name for name in presets() if name.endswith("gpu")]
CHOICES = {*PLANS, *CREDITS, *COEFFICIENTS, *NEGATIVES, *OBJECTIVES, *presets()} - {*GPU}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("README.md", [*HOUSE, "graphs/", "envs/"]),
        ("aipo/README.md", HOUSE),
        ("aipo/method/README.md", CHOICES),
        ("aipo/train/README.md", GPU),
    ],
)
def test_what_there_is_is_named(page: str, names: Collection[str]) -> None:
    assert names and not [name for name in names if f"`{name}`" not in TEXTS[page]]


def test_the_order_of_the_rooms_is_the_contracts() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    [layers] = [one["layers"] for one in tools["importlinter"]["contracts"] if one["id"] == "rooms"]
    order = " → ".join(layer.removeprefix("aipo.") for layer in reversed(layers))
    assert order in ROOMS, f"aipo/README.md is to have the order {order}"


def test_every_room_with_a_page_is_linked() -> None:
    for name in TEXTS:
        if re.fullmatch(r"(aipo/\w+|graphs|envs)/README\.md", name):
            assert f"({name})" in README, name


def test_files_of_the_readers_path_and_of_the_edits_are_there() -> None:
    path, edits = ROOMS.split("## A reader's path")[1].split("## Where to edit")
    files = re.findall(r"^\d+\. `(\S+)`", path, re.MULTILINE)
    assert len(files) == 15
    rows = re.findall(r"^\| .* \| (.*) \|$", edits, re.MULTILINE)[1:]
    assert len(rows) >= 20
    files += [file for row in rows for file in re.findall(r"`([\w/.]+(?:\.py|/))`", row)]
    for file in files:
        assert (PACKAGE / file).exists() or (ROOT / file).exists(), file


def test_the_page_of_metrics_is_that_of_the_code() -> None:
    command = "python -m aipo.method.metrics > aipo/method/METRICS.md"
    assert TEXTS["aipo/method/METRICS.md"] == metrics_page(), f"run: {command}"
    assert command in ROOMS


def test_the_glossary_has_twenty_terms() -> None:
    rows = re.findall(r"^\| \*\*.* \| .* \| .* \|$", TEXTS["aipo/GLOSSARY.md"], re.MULTILINE)
    assert len(rows) == 20


def test_commands_exist() -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert {name for name, _ in COMMANDS} == commands


@pytest.mark.parametrize(
    "line",
    [line for name in TEXTS if name.endswith(".ipynb") for line in re.findall(r"`aipo (.*?)`", TEXTS[name])],
)
def test_commands_of_notebooks_exist_with_their_options(line: str) -> None:
    command = get_command(app)
    for word in shlex.split(line):
        if commands := getattr(command, "commands", {}):
            command = commands[word]
        elif word.startswith("--"):
            assert word in {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize(
    "rest", [rest for name, rest in COMMANDS if name == "train" and ".yaml" not in rest and "=" in rest]
)
def test_overrides_are_accepted(rest: str) -> None:
    config = re.search(r"--config (\S+)", rest)
    overrides = [word for word in rest.split() if "=" in word and word != "..."]
    load_config(config[1] if config else "aipo_distil", overrides)


SETTINGS = re.compile(r"`((?:run|env|policy|graph|rollout|method|train|evaluate)\.[\w.]+)(?:=([^`\s]*))?`")


@pytest.mark.parametrize("name", TEXTS)
def test_settings_in_texts_exist(name: str) -> None:
    if name == "CHANGELOG.md":  # names settings of before, too
        return
    config = load_config("aipo_distil")
    for key, _ in SETTINGS.findall(TEXTS[name]):
        node: object = config
        if key.split(".")[-1] in ("py", "md", "json", "yaml"):
            continue
        for part in key.split("."):
            if isinstance(node, dict):  # options: anybody's
                break
            fields = type(node).model_fields
            assert part in fields, f"{name}: {key}"
            node = getattr(node, part)


@pytest.mark.parametrize(
    ("question", "word"), re.findall(r"^aipo replay (\w+) .*?--grid (\S+)", BLOCKS, re.MULTILINE)
)
def test_settings_to_replay_with_are_accepted_on_a_run_of_the_default(question: str, word: str) -> None:
    recorded, *others = settings("aipo_distil", [word], allowed=CREDIT if question == "credit" else METHOD)
    assert others
    assert recorded.experiment.settings == load_experiment("aipo_distil").settings


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([^)#\s]*)(?:#([^)]+))?\)", TEXTS[name]):
        file = (ROOT / name).parent / target if target else ROOT / name
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{target}#{anchor}"


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - {"CHANGELOG.md"}))
def test_files_in_texts_are_there(name: str) -> None:
    """Paths with a folder in them; `calculate` is the agent that a reader is to write."""
    for file in re.findall(r"`([\w.-]+/[\w./-]+\.(?:py|yaml|md|ipynb|sh))`", TEXTS[name]):
        places = [base / file for base in (ROOT, PACKAGE, (ROOT / name).parent)]
        assert any(place.exists() for place in places) or "calculate" in file, file
