"""The prompt of an agent fits its graph: its sections are declared, or named in the code."""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from aipo.config.build import load_experiment
from aipo.errors import LoadError

AGENT = """
import functools

from langgraph.graph import END, START, StateGraph

from aipo.rollout import AgentSpec, AgentState, RolloutContext


def look(spec: AgentSpec):
    {declared}

    async def ask(state: AgentState, runtime):
        {steps}

    graph = StateGraph(AgentState, context_schema=RolloutContext)
    graph.add_node("ask", ask, **spec.node)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return graph.compile()
"""
REPLY = "return {'reply': await runtime.context.chat(spec.name, message(**state))}"
DECLARED = AGENT.format(declared="message = spec.step('look_up', 'shelf')", steps=REPLY)
UNDECLARED = AGENT.format(
    declared="message = functools.partial(spec.message, 'look_up', shelf=1)", steps=REPLY
)
SILENT = AGENT.format(declared="message = str", steps=REPLY)


def look(folder: Path, code: str, prompt: str, says: str | None) -> None:
    """Builds the graph with an agent `look` of this code and prompt: it is refused with these words, or not."""
    (folder / "mine.py").write_text(code)
    (folder / "look.md").write_text(prompt)
    agent = f"{{graph: '{folder}/mine.py:look', prompt: {folder}/look.md}}"
    experiment = load_experiment("aipo_distil", [f"agents.look={agent}"])
    with pytest.raises(LoadError, match=says) if says else nullcontext():
        assert "agents.look" in experiment.graphs.files


@pytest.mark.parametrize("code", [DECLARED, UNDECLARED], ids=["declared", "undeclared"])
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("{{ shelf }} {{ question }}", None),
        ("## Rules\nBe brief.", r"look\.md, line 3: got section 'Rules', which no step"),
        ("{{ nosuch }}", r"look\.md, line 3, section 'look_up': got variable 'nosuch'"),
    ],
)
def test_a_prompt_is_checked_against_the_graph_of_somebodys_own_agent(
    tmp_path: Path, code: str, lines: str, says: str | None
) -> None:
    look(tmp_path, code, f"## look_up\n{{{{ request }}}}\n{lines}", says)


STEPS = """found = await runtime.context.chat(spec.name, message(shelf=1, **state))
        checked = await runtime.context.chat(spec.name, functools.partial(spec.message, {name})(**state, found=found))
        return {{'reply': await close(spec, runtime, checked)}}"""
HELPER = """
async def close(spec, runtime, checked):
    return await runtime.context.chat(spec.name, spec.message("close", checked=checked))
"""


@pytest.mark.parametrize(
    ("name", "prompt", "says"),
    [
        ("'check'", "{{ found }}", None),
        ("'check'", "{{ nosuch }}", "got variable 'nosuch'"),
        ("'check'", "x\n## Rules\nx", "got section 'Rules'"),
        # A name that only the running graph knows: any section may be used.
        ("'che' + 'ck'", "{{ found }}", None),
    ],
)
def test_a_graph_may_declare_some_sections_and_name_others_also_in_a_module_that_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, prompt: str, says: str | None
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "closing_step", raising=False)  # another case's
    (tmp_path / "closing_step.py").write_text(HELPER)
    code = AGENT.format(declared="message = spec.step('look_up', 'shelf')", steps=STEPS.format(name=name))
    sections = f"## look_up\n{{{{ shelf }}}}\n## close\n{{{{ checked }}}}\n## check\n{prompt}"
    look(tmp_path, f"from closing_step import close\n{code}", sections, says)


def test_a_missing_section_is_refused_where_the_graph_says_what_it_uses(tmp_path: Path) -> None:
    (tmp_path / "verify.md").write_text("## check\n{{ claim }}\n")
    with pytest.raises(LoadError, match=r"got no section \['verdict', 'find'\], allowed one for each step"):
        _ = load_experiment("aipo_distil", [f"agents.verify.prompt={tmp_path}/verify.md"]).graphs


def test_an_agent_that_has_no_use_for_a_prompt_may_have_any(tmp_path: Path) -> None:
    look(tmp_path, SILENT, "## none\n{{ nosuch }}", None)
