"""Agents: retries, and the guard rails of caching."""

from pathlib import Path
from typing import Any

import pytest

from aipo.errors import ConfigError, GraphError
from aipo.rollout.agent import AgentSpec, AgentState, check_agent, node_settings
from aipo.rollout.prompt import Prompt
from aipo.util.http.retry import transient
from kit.agents import sub_graph
from kit.engines import ask, chain


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    path = tmp_path / "verify.md"
    path.write_text("## check\n{{ request }}\n")
    return Prompt.load(path)


def settings(written: Prompt, **changes: Any) -> dict[str, Any]:
    given = {
        "attempts": 3,
        "timeout": 5.0,
        "cache": True,
        "model": "m",
        "settings": {"temperature": 0},
        "prompt": written,
    }
    return node_settings(**{**given, **changes})


def test_a_node_is_given_the_limits_of_the_configuration(prompt: Prompt):
    node = settings(prompt, cache=False, settings={"temperature": 0.7})
    assert (node["retry_policy"].max_attempts, node["retry_policy"].retry_on) == (3, transient)
    assert node["timeout"] == 5.0 and "cache_policy" not in node


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}, {"temperature": None}])
def test_only_what_is_not_sampled_can_be_cached(prompt: Prompt, sampling: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"cache of model 'm': got temperature .*, allowed 0"):
        settings(prompt, settings=sampling)


def test_the_cache_tells_models_prompts_settings_and_requests_apart(prompt: Prompt, tmp_path: Path):
    other = tmp_path / "other.md"
    other.write_text("## check\nother {{ request }}\n")
    keys = [
        settings(prompt, **changes)["cache_policy"].key_func(state)
        for state in ({"request": "a"}, {"request": "b"})
        for changes in (
            {},
            {"model": "n"},
            {"prompt": Prompt.load(other)},
            {"settings": {"temperature": 0, "max_tokens": 9}},
        )
    ]
    assert len(set(keys)) == 8
    again = settings(prompt, settings={"max_tokens": 9, "temperature": 0})["cache_policy"]
    assert again.key_func({"request": "a"}) == keys[3]


def test_a_spec_renders_its_prompt_as_one_message(prompt: Prompt):
    [message] = AgentSpec(name="verify", prompt=prompt, node={}).message("check", request="6x7?")
    assert (message.type, message.content) == ("human", "6x7?")


def test_an_agent_takes_a_request_and_gives_a_reply():
    async def idle(state: AgentState) -> dict[str, Any]:
        return {}

    graph = sub_graph(idle)
    assert check_agent(graph, "verify") is graph
    with pytest.raises(GraphError, match="agent 'verify': got StateGraph, allowed a compiled StateGraph"):
        check_agent(graph.builder, "verify")
    with pytest.raises(GraphError, match=r"state of agent 'verify': got no \['reply', 'request'\]"):
        check_agent(chain(ask=ask), "verify")
