"""Agents' chat models over HTTP: a real server answers as OpenAI does, and as it does on bad days."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from langgraph.types import RetryPolicy
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aipo.config.build_chat import build_chat
from aipo.config.schema import AgentConfig
from aipo.errors import ConfigError, LoadError
from aipo.rollout.context import ChatModel
from aipo.trace import Call, Consult, Fault, Role
from aipo.util.event_loop import LOOP
from graphs.consult import consult
from graphs.knowledge import knowledge
from kit.agents import build_agent, build_context
from kit.servers import CutOff, chat_completion, free_port, serving

WHOLE = json.dumps(chat_completion("m", "3@7=582", 30, 5)).encode()
MESSAGE = {"error": {"message": "no"}}


class Server:
    """What its next answers are (`due`; afterwards all is well), how a good one differs from `WHOLE` (`choice`), and
    what it was asked."""

    def __init__(self) -> None:
        self.due: list[str] = []
        self.choice: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.clients: set[tuple[str, int]] = set()
        self.url = ""

    async def answer(self, request: Request) -> Any:
        self.asked.append(await request.json())
        self.keys.append(request.headers["authorization"])
        assert request.client is not None
        self.clients.add((request.client.host, request.client.port))
        kind = self.due.pop(0) if self.due else "well"
        if kind.startswith(("{", "[", "<")):
            return Response(kind, media_type="text/html" if kind[0] == "<" else "application/json")
        if kind.startswith("data:"):
            return Response(kind, media_type="text/event-stream")
        if kind.startswith("wait "):
            return JSONResponse(MESSAGE, status_code=429, headers={"retry-after": kind.removeprefix("wait ")})
        if kind.isdigit():
            return JSONResponse(MESSAGE, status_code=int(kind))
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "half":
            return CutOff(WHOLE[:40])
        if self.choice:
            whole = json.loads(WHOLE)
            whole["choices"][0] |= self.choice
            return JSONResponse(whole)
        return Response(WHOLE[:-1] if kind == "invalid" else WHOLE, media_type="application/json")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("AGENTS_KEY", "secret")
    made = Server()
    with serving(Starlette(routes=[Route("/v1/chat/completions", made.answer, methods=["POST"])])) as url:
        made.url = f"{url}/v1"
        yield made
        LOOP.close()  # and with it the connections


def chat(url: str, name: str = "knowledge", **changes: Any) -> ChatModel:
    config = {
        "graph": "graphs.knowledge:knowledge",
        "model": "langchain_openai:ChatOpenAI",
        "options": {"model": "m", "base_url": url, "temperature": 0.5, "max_completion_tokens": 7},
        "secrets": {"api_key": "AGENTS_KEY"},
        "prices": {"input": 1.0, "output": 10.0},
    }
    made = build_chat(f"agents.{name}", AgentConfig.model_validate(config | changes), seed=0)
    assert made is not None
    return made


def asked_once(model: ChatModel, **agent: Any) -> tuple[Consult, list[Call], Role]:
    """One rollout that consults once: the consult, its calls, and who spoke afterwards."""
    agents = {"knowledge": build_agent(knowledge, "knowledge", **agent)}
    context = build_context(["<consult:knowledge>3@7</consult>", "#1"])
    context.chats["knowledge"] = model  # type: ignore[index]
    graph = consult(agents=agents, prompt="miniature.md")
    state = LOOP.run(graph.ainvoke({"segments": []}, context=context))  # pyright: ignore[reportArgumentType]
    return state["consults"][0], context.calls, state["segments"][2].role


def test_a_call_says_what_was_asked_and_what_it_cost(server: Server) -> None:
    answered, calls, role = asked_once(chat(server.url))
    assert (answered.reply, answered.error, answered.fault, role) == ("3@7=582", None, None, Role.AGENT)
    [call] = calls
    assert (call.tokens_in, call.tokens_out, call.cost) == (30, 5, pytest.approx(30e-6 + 50e-6))
    [asked] = server.asked
    assert asked["messages"] == [{"role": "user", "content": call.messages[0]["content"]}]
    assert (asked["model"], asked["temperature"], asked["max_completion_tokens"]) == ("m", 0.5, 7)
    assert server.keys == ["Bearer secret"]
    assert "secret" not in json.dumps(dict(call.settings))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other without a wait."""
    waits = {"initial_interval": 0.0, "jitter": False}
    monkeypatch.setattr("aipo.rollout.agent.RetryPolicy", lambda **given: RetryPolicy(**given | waits))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("wrong", "times", "passes"),
    [(kind, 1, True) for kind in ("500", "503", "429", "half", "invalid")]
    + [(kind, 1, False) for kind in ("400", "401", "404")]
    + [("429", 3, False)],
)
def test_only_what_passes_is_tried_again_and_three_times_at_most(
    server: Server, wrong: str, times: int, passes: bool
) -> None:
    server.due = [wrong] * times
    answered, calls, role = asked_once(chat(server.url))
    assert [call.error is None for call in calls] == [False] * times + ([True] if passes else [])
    assert len(server.asked) == len(calls)  # the client does not retry by itself
    if passes:
        assert (answered.reply, answered.fault) == ("3@7=582", None)
    else:
        assert (answered.reply, answered.fault, role) == (None, Fault.UNAVAILABLE, Role.ENV)
        assert wrong in (answered.error or "") and calls[0].cost is None


NO_REPLY = "AnswerError: answer of http://127.0.0.1:"
UNREADABLE = "AnswerError: answer of m: got one that ChatOpenAI"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("body", "passes", "says"),
    [
        ('{"error": {"code": 429, "message": "slow down"}}', True, "Error code: 429 - slow down"),
        ('{"error": "overloaded"}', True, "Error code: 503"),
        ('{"error": {"code": 400, "message": "bad field"}}', False, "Error code: 400 - bad field"),
        ('{"choices": []}', True, NO_REPLY),
        ("<html>the gateway's page</html>", True, NO_REPLY),
        ('data: {"choices": []}\n\n', True, f"{UNREADABLE} cannot read (ValueError:"),
        *(
            (json.dumps(chat_completion("m", "7", 1, 1) | odd), True, UNREADABLE)
            for odd in ({"service_tier": [1]}, {"choices": [{"message": {"role": "tool", "content": "7"}}]})
        ),
    ],
)
def test_a_body_that_is_no_reply_is_named_and_tried_again_if_it_passes(
    server: Server, body: str, passes: bool, says: str
) -> None:
    server.due = [body]
    answered, calls, role = asked_once(chat(server.url))
    error = calls[0].error or ""
    assert says in error and (f"{server.url}/chat/completions" in error or "cannot read" in error)
    assert [call.error is None for call in calls] == ([False, True] if passes else [False])
    assert (answered.reply, role) == (("3@7=582", Role.AGENT) if passes else (None, Role.ENV))
    if not passes:
        assert answered.error == calls[0].error


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("code", "passes"), [(429, True), (503, True), (400, False)])
def test_an_error_within_a_stream_counts_as_what_it_says(server: Server, code: int, passes: bool) -> None:
    error = json.dumps({"error": {"code": code, "message": "the gateway says"}})
    delta = json.dumps({"choices": [{"index": 0, "delta": {"content": "3@7=582"}, "finish_reason": "stop"}]})
    server.due = [f"data: {error}\n\n", f"data: {delta}\n\ndata: [DONE]\n\n"]
    options = {"model": "m", "base_url": server.url, "streaming": True}
    answered, calls, _ = asked_once(chat(server.url, options=options))
    assert "the gateway says" in (calls[0].error or "")
    assert answered.reply == ("3@7=582" if passes else None)


@pytest.mark.usefixtures("at_once")
def test_a_body_that_stays_no_reply_costs_the_consult_and_not_the_rollout(server: Server) -> None:
    server.due = ['{"choices": []}'] * 3
    answered, calls, role = asked_once(chat(server.url))
    assert (answered.fault, role, len(calls)) == (Fault.UNAVAILABLE, Role.ENV, 3)
    assert (answered.error or "").startswith(NO_REPLY)


@pytest.mark.parametrize(
    ("usage", "tokens_in", "tokens_out"),
    [
        ({"prompt_tokens": 30.0, "completion_tokens": 5.0, "total_tokens": 35.0}, 30, 5),
        ({"prompt_tokens": 10**20, "completion_tokens": 5}, None, None),
        ("x", None, None),
    ],
)
def test_usage_that_is_no_numbers_is_not_known(
    server: Server, usage: object, tokens_in: int | None, tokens_out: int | None
) -> None:
    server.due = [json.dumps(chat_completion("m", "3@7=582", 1, 1) | {"usage": usage})]
    answered, [call], _ = asked_once(chat(server.url))
    assert (answered.reply, call.tokens_in, call.tokens_out) == ("3@7=582", tokens_in, tokens_out)
    assert (call.cost is None) == (tokens_in is None)


@pytest.mark.usefixtures("at_once")
def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    class Sleeper:
        async def sleep(self, seconds: float) -> None:
            waited.append(seconds)
            clock.now += seconds

    clock = Clock()
    monkeypatch.setattr("aipo.util.http.retry.time", clock)
    monkeypatch.setattr("aipo.util.http.retry.asyncio", Sleeper())
    server.due = ["wait 2", "wait 3600", "well"]
    model = chat(server.url, timeout=20.0)
    answered, calls, _ = asked_once(model)
    assert (answered.reply, len(calls)) == ("3@7=582", 3)
    assert waited == [2.0, 10.0]  # at most half of an attempt's time
    asked_once(model)
    assert waited == [2.0, 10.0]


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (
            {"timeout": 0.3},
            r"NodeTimeoutError: no reply of step '\w+' within 0.3 s (agents.knowledge.timeout)",
        ),
        ({"deadline": 0.3}, "no reply within 0.3 s (agents.knowledge.deadline)"),
    ],
)
def test_a_limit_that_ran_out_is_named(server: Server, limits: dict[str, float], says: str) -> None:
    server.due = ["hang"] * 3
    answered, _, _ = asked_once(chat(server.url), attempts=1, **limits)
    assert re.fullmatch(says.replace("(", r"\(").replace(")", r"\)"), answered.error or "")


@pytest.mark.parametrize(
    ("key", "got"),
    [
        (None, "no environment variable"),
        ("", "an empty value"),
        (" ", "an empty value"),
        *((key, "a space or a line break around it") for key in ("k\n", "k\r\n", " k", "ключ", "k\x7f")),
    ],
)
def test_a_key_that_no_server_can_be_sent_is_refused(
    monkeypatch: pytest.MonkeyPatch, key: str | None, got: str
) -> None:
    if key is None:
        monkeypatch.delenv("AGENTS_KEY", raising=False)
    else:
        monkeypatch.setenv("AGENTS_KEY", key)
    with pytest.raises(LoadError, match=rf"agents\.knowledge\.secrets: got {got}.*AGENTS_KEY"):
        chat("http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("key", "kind", "says"),
    [
        (
            None,
            ConfigError,
            r"got OpenAIError: Missing credentials.*a key is named in agents\.knowledge\.secrets",
        ),
        ("", ConfigError, "got OpenAIError: Missing credentials"),
        ("k\n", LoadError, "got a space or a line break around it"),
    ],
)
def test_the_key_that_openai_itself_reads_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, key: str | None, kind: type[Exception], says: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(kind, match=says):
        chat("http://127.0.0.1:9/v1", secrets={})


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("url", "flaw"),
    [
        ("127.0.0.1:8001/v1", "no http:// or https:// before it"),
        ("http://127.0.0.1:8001/v1/chat/completions", "the path of a request"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, flaw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=rf"got base_url '.*' \({flaw}"):
        chat(url)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(ConfigError, match=rf"got OPENAI_BASE_URL '.*' \({flaw}"):
        chat(url, options={"model": "m"})


def test_a_server_that_hangs_is_given_up_and_tried_again(server: Server) -> None:
    server.due = ["hang"]
    answered, calls, _ = asked_once(chat(server.url), timeout=3.0)
    assert answered.reply == "3@7=582"
    assert [(call.error or "").partition(":")[0] for call in calls] == ["CancelledError", ""]


def test_nobody_there_is_a_notice_and_the_rollout_goes_on(server: Server) -> None:
    answered, calls, role = asked_once(chat(f"http://127.0.0.1:{free_port()}/v1"), attempts=2)
    assert (answered.fault, role, len(calls)) == (Fault.UNAVAILABLE, Role.ENV, 2)
    assert "Connection error" in (answered.error or "")


def test_a_server_may_serve_several_agents_and_connections_live_from_step_to_step(server: Server) -> None:
    one, other = chat(server.url), chat(server.url, options={"model": "n", "base_url": server.url})
    for model in (one, other, one, other):
        asked_once(model)
    assert [asked["model"] for asked in server.asked] == ["m", "n", "m", "n"]
    assert len(server.clients) == 2


@pytest.mark.parametrize(
    ("said", "tags"),
    [
        ({"content": "<think>7*3?</think>\n3@7=582"}, {}),
        ({"content": "<why>7*3?</why>3@7=582"}, {"thinking": {"<why>": "</why>"}}),
        ({"content": "3@7=582", "reasoning_content": "7*3?"}, {}),
    ],
)
def test_thinking_is_recorded_and_is_no_part_of_the_feedback(
    server: Server, said: dict[str, Any], tags: dict[str, Any]
) -> None:
    server.choice = {"message": {"role": "assistant", **said}}
    answered, [call], role = asked_once(chat(server.url, **tags))
    assert (answered.reply, answered.error, role) == ("3@7=582", None, Role.AGENT)
    assert (call.reply, call.thinking, call.finish, call.cut) == ("3@7=582", "7*3?", "stop", False)


@pytest.mark.parametrize(
    "content", [{"content": "<think>7*3"}, {"content": None, "reasoning_content": "7*3"}]
)
def test_thinking_without_an_answer_is_no_reply_and_the_reason_is_told(
    server: Server, content: dict[str, Any]
) -> None:
    server.choice = {"message": {"role": "assistant", **content}, "finish_reason": "length"}
    answered, [call], role = asked_once(chat(server.url))
    assert (answered.reply, answered.fault, role) == (None, Fault.UNAVAILABLE, Role.ENV)
    assert answered.error == (
        "no reply, m wrote only thinking (3 characters), cut by its server (finish_reason length)"
    )
    assert (call.reply, call.thinking, call.cut, call.error) == ("", "7*3", True, None)


def test_a_reply_that_its_server_cut_is_marked(server: Server) -> None:
    server.choice = {"message": {"role": "assistant", "content": "3@7=5"}, "finish_reason": "length"}
    answered, [call], role = asked_once(chat(server.url))
    assert (answered.reply, role) == ("3@7=5", Role.AGENT)
    assert (call.finish, call.cut, call.silent) == ("length", True, None)


def test_a_key_that_a_gateway_repeats_is_nowhere_in_what_is_recorded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTS_KEY", "k3y-of-the-gateway")
    monkeypatch.setitem(MESSAGE, "error", {"message": "wrong key k3y-of-the-gateway"})
    server.due = ["401"]
    answered, [call], _ = asked_once(chat(server.url))
    assert server.keys == ["Bearer k3y-of-the-gateway"]
    assert "wrong key ***" in (answered.error or "") and "wrong key ***" in (call.error or "")
    assert "k3y-of-the-gateway" not in f"{answered} {call}"
    server.choice = {"message": {"role": "assistant", "content": "your key is k3y-of-the-gateway"}}
    answered, [call], _ = asked_once(chat(server.url))
    assert (answered.reply, call.reply) == ("your key is ***", "your key is ***")
