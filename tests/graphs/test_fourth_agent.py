"""A fourth agent is one new file, one prompt and one line of configuration: the recipe of the README."""

from aipo.config.build import load_experiment
from aipo.trace import Role
from graphs.solo import PROMPTS
from kit.agents import FunctionChat, build_context, roll, shown

README = (PROMPTS.parent / "README.md").read_text(encoding="utf-8")


def block(after: str, language: str) -> str:
    """The first code block of a language after a line of the README."""
    return README.split(after, 1)[1].split(f"```{language}\n", 1)[1].split("```", 1)[0]


def test_the_recipe_of_the_readme_works(tmp_path):
    recipe = "## A fourth agent"
    file, prompt = tmp_path / "calculate.py", tmp_path / "prompts" / "calculate.md"
    file.write_text(block(recipe, "python"))
    prompt.parent.mkdir()
    prompt.write_text(block(recipe, "markdown"))
    assert "agents.calculate.graph=graphs/calculate.py:calculate" in README

    built = load_experiment("aipo_distil", [f"agents.calculate.graph={file}:calculate"]).graphs
    assert (built.files["agents.calculate"], built.files["prompts.calculate"]) == (file, prompt)
    assert "calculate" not in built.chats
    chat = FunctionChat(function=lambda prompt: "391" if prompt.endswith("Expression: 17*23") else "?")
    context = build_context(["<consult:calculate>17*23</consult>", "#391"], chats={"calculate": chat})
    assert shown(roll(built.graph, context))[2] == (
        Role.AGENT,
        "calculate",
        "<feedback:calculate>391</feedback>",
    )
    assert "calculate:compute" in built.graph.get_graph(xray=True).nodes
