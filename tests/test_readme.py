"""The README says what is there: metrics, files, presets and commands."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from aipo.cli import app
from aipo.config.load import load_config, presets
from aipo.method.coefficients import COEFFICIENTS
from aipo.method.credit import CREDITS
from aipo.method.metrics import METRICS
from aipo.method.objectives import OBJECTIVES
from aipo.method.plan import PLANS
from aipo.method.weighing import NEGATIVES
from aipo.replay.questions.grid import CREDIT, METHOD, settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.split(r"^## ", README.split(f"## {title}\n", 1)[1], flags=re.MULTILINE)[0]


def test_every_metric_has_its_line() -> None:
    cells = [(f"`{name}`", metric.formula, metric.text) for name, metric in METRICS.items()]
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in cells]
    table = "\n".join(f"| {line} |" for line in lines)
    assert table in section("Metrics"), f"the README's table of metrics is to be:\n{table}"


def test_every_file_of_the_package_is_named() -> None:
    layout = section("Layout")
    files = {path.name for path in (ROOT / "aipo").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\b(\w+\.py)\b", layout)) == files


def test_every_built_in_choice_is_named() -> None:
    choices = section("A method is four choices")
    methods = [name for name in presets() if not name.endswith("gpu")]
    for name in (*PLANS, *CREDITS, *COEFFICIENTS, *NEGATIVES, *OBJECTIVES, *methods):
        assert f"`{name}`" in choices, name


def test_every_preset_of_a_real_model_is_named() -> None:
    models = section("Train a real model")
    for name in presets():
        assert f"`{name}`" in models or not name.endswith("gpu"), name


COMMANDS = re.findall(r"^aipo (\w+)(.*?)(?: +#.*)?$", README, re.MULTILINE)


def test_commands_exist() -> None:
    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert {name for name, _ in COMMANDS} <= known
    assert known <= {*(name for name, _ in COMMANDS), "demo"}


@pytest.mark.parametrize(
    "rest", [rest for name, rest in COMMANDS if name == "train" and "my.yaml" not in rest]
)
def test_overrides_are_accepted(rest: str) -> None:
    load_config("aipo", [word for word in rest.split() if "=" in word])


@pytest.mark.parametrize(
    ("question", "word"),
    re.findall(r"^aipo replay (\w+) .*?--grid (\S+)", README, re.MULTILINE),
)
def test_settings_to_replay_with_are_accepted_on_a_run_of_the_default(question: str, word: str) -> None:
    recorded, *others = settings("aipo", [word], allowed=CREDIT if question == "credit" else METHOD)
    assert others
    assert recorded.config == load_config("aipo")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
