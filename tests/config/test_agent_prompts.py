"""The prompt of an agent fits its graph: its sections are declared, or named in the code."""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from aipo.config.build import load_experiment
from aipo.errors import LoadError

OWN_AGENT = """
from langgraph.graph import END, START, StateGraph

from aipo.rollout import AgentSpec, AgentState, RolloutContext


def look(spec: AgentSpec):
    {declared}
    async def ask(state: AgentState, runtime):
        return {{"reply": await runtime.context.chat(spec.name, {message}(**state))}}

    graph = StateGraph(AgentState, context_schema=RolloutContext)
    graph.add_node("ask", ask, **spec.node)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return graph.compile()
"""
DECLARED = {"declared": "message = spec.step('look_up', 'shelf')", "message": "message"}
UNDECLARED = {"declared": "", "message": "functools.partial(spec.message, 'look_up', shelf=1)"}
SILENT = {"declared": "", "message": "str"}


@pytest.mark.parametrize("code", [DECLARED, UNDECLARED], ids=["declared", "undeclared"])
@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("## look_up\n{{ request }} {{ shelf }} {{ question }}", None),
        (
            "## look_up\n{{ request }}\n## Rules\nBe brief.",
            r"look\.md, line 3: got section 'Rules', which no step",
        ),
        (
            "## look_up\n{{ request }}\n{{ nosuch }}",
            r"look\.md, line 3, section 'look_up': got variable 'nosuch'",
        ),
    ],
)
def test_a_prompt_is_checked_against_the_graph_of_somebodys_own_agent(
    tmp_path: Path, code: dict[str, str], prompt: str, says: str | None
) -> None:
    (tmp_path / "mine.py").write_text(OWN_AGENT.format(**code))
    (tmp_path / "look.md").write_text(prompt)
    agent = f"{{graph: '{tmp_path}/mine.py:look', prompt: {tmp_path}/look.md}}"
    experiment = load_experiment("aipo", [f"agents.look={agent}"])
    with pytest.raises(LoadError, match=says) if says else nullcontext():
        _ = experiment.graphs


MIXED = """
import functools

from closing_step import close
from langgraph.graph import END, START, StateGraph

from aipo.rollout import AgentSpec, AgentState, RolloutContext


def look(spec: AgentSpec):
    message = spec.step("look_up", "shelf")

    async def ask(state: AgentState, runtime):
        found = await runtime.context.chat(spec.name, message(shelf=1, **state))
        checked = await runtime.context.chat(spec.name, {second}(**state, found=found))
        return {{"reply": await close(spec, runtime, checked)}}

    graph = StateGraph(AgentState, context_schema=RolloutContext)
    graph.add_node("ask", ask, **spec.node)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return graph.compile()
"""
HELPER = """
async def close(spec, runtime, checked):
    return await runtime.context.chat(spec.name, spec.message("close", checked=checked))
"""


@pytest.mark.parametrize(
    ("second", "prompt", "says"),
    [
        ("functools.partial(spec.message, 'check')", "## check\n{{ found }}", None),
        ("functools.partial(spec.message, 'check')", "## check\n{{ nosuch }}", "got variable 'nosuch'"),
        ("functools.partial(spec.message, 'check')", "## check\nx\n## Rules\nx", "got section 'Rules'"),
        # A name that only the running graph knows: any section may be used.
        ("functools.partial(spec.message, 'che' + 'ck')", "## check\n{{ found }}", None),
    ],
)
def test_a_graph_may_declare_some_sections_and_name_others_also_in_a_module_that_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str, prompt: str, says: str | None
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "closing_step", raising=False)  # another case's
    (tmp_path / "closing_step.py").write_text(HELPER)
    (tmp_path / "mine.py").write_text(MIXED.format(second=second))
    (tmp_path / "look.md").write_text(f"## look_up\n{{{{ shelf }}}}\n## close\n{{{{ checked }}}}\n{prompt}")
    agent = f"{{graph: '{tmp_path}/mine.py:look', prompt: {tmp_path}/look.md}}"
    experiment = load_experiment("aipo", [f"agents.look={agent}"])
    with pytest.raises(LoadError, match=says) if says else nullcontext():
        _ = experiment.graphs


def test_a_missing_section_is_refused_where_the_graph_says_what_it_uses(tmp_path: Path) -> None:
    (tmp_path / "verify.md").write_text("## check\n{{ claim }}\n")
    with pytest.raises(LoadError, match=r"got no section \['verdict', 'find'\], allowed one for each step"):
        _ = load_experiment("aipo", [f"agents.verify.prompt={tmp_path}/verify.md"]).graphs


def test_an_agent_that_has_no_use_for_a_prompt_may_have_any(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_AGENT.format(**SILENT))
    (tmp_path / "look.md").write_text("## none\n{{ nosuch }}")
    agent = f"{{graph: '{tmp_path}/mine.py:look', prompt: {tmp_path}/look.md}}"
    assert "agents.look" in load_experiment("aipo", [f"agents.look={agent}"]).graphs.files
