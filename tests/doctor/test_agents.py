"""One tiny call to each agent: real HTTP, and what goes wrong with it."""

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aipo.config.build import load_experiment
from aipo.doctor.agents import check_agents
from aipo.doctor.check import Check
from kit.servers import chat_completion, free_port, serving


def app(
    text: str = "ready",
    *,
    status: int = 200,
    hangs: bool = False,
    finish: str = "stop",
    apart: str | None = None,
) -> Starlette:
    async def chat(request: Request) -> JSONResponse:
        if hangs:
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
        if status != 200:
            return JSONResponse({"error": {"message": "said the server"}}, status_code=status)
        whole = chat_completion("m", text, 1, 1)
        whole["choices"][0]["finish_reason"] = finish
        whole["choices"][0]["message"] |= {} if apart is None else {"reasoning_content": apart}
        return JSONResponse(whole)

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def checks(url: str, *overrides: str) -> list[Check]:
    agent = (
        "agents={judge: {graph: 'graphs.verify:verify', model: 'langchain_openai:ChatOpenAI', timeout: 20, "
        f"options: {{model: m, base_url: '{url}/v1'}}, secrets: {{api_key: AGENT_KEY}}}}}}"
    )
    return list(check_agents(load_experiment("aipo_distil", [agent, *overrides])))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_KEY", "none")


def test_an_agent_answers() -> None:
    with serving(app()) as url:
        (check,) = checks(url)
    assert (check.status, check.what) == ("ok", "agent judge")
    assert check.found.startswith("m answers in ")
    assert check.found.endswith("'ready'")


@pytest.mark.parametrize(
    ("behaviour", "overrides", "found", "advice"),
    [
        ({"status": 401}, [], "said the server", "the key in the variable that agents.judge.secrets names"),
        ({"text": ""}, [], "answers with no text", "a limit on its tokens"),
        (
            {"text": "<think>one word"},
            [],
            "m answers with thinking only: 'one word'",
            "agents.judge.thinking",
        ),
        (
            {"text": "", "apart": "one word"},
            [],
            "with thinking only: 'one word'",
            "a larger limit on its tokens",
        ),
        (
            {"text": "<a>one</a>"},
            ["agents.judge.thinking={<a>: </a>}"],
            "with thinking only: 'one'",
            "tokens",
        ),
        (
            {"text": "<think>one</think>rea", "finish": "length"},
            [],
            "its server cut the reply (finish_reason length): 'rea' after thinking 'one'",
            "a larger limit on its tokens in agents.judge.options",
        ),
        ({"hangs": True}, ["agents.judge.timeout=0.2"], "does not answer within 0.2 s", "is its server up?"),
    ],
)
def test_an_agent_that_does_not(
    behaviour: dict[str, Any], overrides: list[str], found: str, advice: str
) -> None:
    with serving(app(**behaviour)) as url:
        (check,) = checks(url, *overrides)
    assert check.status == "fail"
    assert found in check.found
    assert advice in check.advice


def test_an_agent_that_thinks_first() -> None:
    with serving(app("<think>one word</think>\n\nready")) as url:
        (check,) = checks(url)
    assert (check.status, check.found.partition(" after ")[2]) == ("ok", "thinking, 8 characters: 'ready'")


@pytest.mark.parametrize("tag", ["<reasoning>", "<rationale>", "<|channel|>", "[REASON]", "◁reason▷"])
def test_a_tag_that_may_begin_thinking_is_shown(tag: str) -> None:
    with serving(app(f"{tag}one word: ready")) as url:
        (check,) = checks(url)
    assert (check.status, check.advice) == (
        "warn",
        f"is {tag} the beginning of thinking? Then agents.judge.thinking",
    )
    assert check.found.endswith(f"'{tag}one word: ready'")


def test_nobody_there() -> None:
    (check,) = checks(f"http://127.0.0.1:{free_port()}")
    assert (check.status, "is its server up?" in check.advice) == ("fail", True)
    assert "nobody listens there" in check.found


def test_a_secret_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_KEY")
    (check,) = checks("http://127.0.0.1:9")
    assert (check.status, "'AGENT_KEY'" in check.found) == ("fail", True)


def test_agents_without_a_chat_model_and_rule_based_ones() -> None:
    made = list(check_agents(load_experiment("aipo_distil", ["agents.verify.model=null"])))
    assert [check.status for check in made] == ["ok"] * 3
    assert made[0].found == "has no chat model: its graph answers by itself"
