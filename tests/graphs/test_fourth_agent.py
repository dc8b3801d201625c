"""A fourth agent is one new file, one prompt and one line of configuration: the recipe of the README."""

from aipo.rollout.agent import Agent, AgentSpec, check_agent, node_settings
from aipo.rollout.prompt import Prompt
from aipo.trace import Role
from aipo.util.imports import load
from graphs.consult import consult
from graphs.solo import PROMPTS
from kit.agents import FunctionChat, build_context, roll, shown

README = (PROMPTS.parent / "README.md").read_text(encoding="utf-8")


def block(after: str, language: str) -> str:
    """The first code block of a language after a line of the README."""
    return README.split(after, 1)[1].split(f"```{language}\n", 1)[1].split("```", 1)[0]


def test_the_recipe_of_the_readme_works(tmp_path):
    recipe = "## A fourth agent"
    (tmp_path / "calculate.py").write_text(block(recipe, "python"))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "calculate.md").write_text(block(recipe, "markdown"))

    loaded = load(f"{tmp_path}/calculate.py:calculate")
    prompt = Prompt.load(loaded.file.parent / "prompts" / "calculate.md")
    node = node_settings(attempts=2, timeout=9.0, cache=False, model="m", prompt=prompt, settings={})
    graph = check_agent(loaded.function(AgentSpec(name="calculate", prompt=prompt, node=node)), "calculate")
    agent = Agent(name="calculate", graph=graph, budget=2, deadline=9.0, max_tokens=32)

    main = consult(agents={"calculate": agent}, prompt="miniature.md")
    chat = FunctionChat(function=lambda prompt: "391" if prompt.endswith("Expression: 17*23") else "?")
    context = build_context(["<consult:calculate>17*23</consult>", "#391"], chats={"calculate": chat})
    assert shown(roll(main, context))[2] == (
        Role.AGENT,
        "calculate",
        "<feedback:calculate>391</feedback>",
    )
    assert "calculate:compute" in main.get_graph(xray=True).nodes
    assert "agents.calculate.graph=graphs/calculate.py:calculate" in README
