"""Which errors are worth another attempt, and the attempts."""

import asyncio
import json

import httpx
import openai
import pytest
from langgraph.errors import NodeTimeoutError

from aipo.errors import AgentError, AnswerError
from aipo.util.http.retry import retry, transient

REQUEST = httpx.Request("POST", "http://agent")


def status(code: int) -> openai.APIStatusError:
    return openai.APIStatusError("no", response=httpx.Response(code, request=REQUEST), body=None)


def no_json() -> json.JSONDecodeError:
    """As the openai client raises it: with the answer, whose status is 200."""
    error = json.JSONDecodeError("half an object", "{", 1)
    error.response = httpx.Response(200, request=REQUEST)  # pyright: ignore[reportAttributeAccessIssue]
    return error


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (NodeTimeoutError("check", 1.0, kind="run", run_timeout=1.0), True),
        (openai.APIConnectionError(request=REQUEST), True),
        (openai.APITimeoutError(REQUEST), True),
        (httpx.ReadError("keep-alive"), True),
        (httpx.RemoteProtocolError("half a body"), True),
        (json.JSONDecodeError("half an object", "{", 1), True),
        (no_json(), True),
        (httpx.HTTPStatusError("no", request=REQUEST, response=httpx.Response(503, request=REQUEST)), True),
        (httpx.HTTPStatusError("no", request=REQUEST, response=httpx.Response(404, request=REQUEST)), False),
        *((status(code), True) for code in (408, 409, 425, 429, 500, 502, 503, 504)),
        *((status(code), False) for code in (400, 401, 403, 404, 422)),
        *((openai.APIError("in a stream", REQUEST, body={"code": code}), code == 429) for code in (429, 400)),
        (openai.APIError("in a stream", REQUEST, body={"type": "overloaded_error"}), True),
        (openai.APIError("no body", REQUEST, body=None), False),
        (httpx.UnsupportedProtocol("ftp"), False),
        (AnswerError("choices: []"), True),
        (AgentError("for good"), False),
        (ValueError(), False),
        (KeyError(), False),
    ],
    ids=repr,
)
def test_what_is_worth_another_attempt(error: Exception, worth: bool):
    assert transient(error) is worth


@pytest.mark.parametrize(
    ("outcomes", "waits", "answer", "used"),
    [
        (["a", "b"], 2, "a", 1),
        ([TimeoutError(), TimeoutError(), "a"], 2, "a", 3),
        ([TimeoutError("first"), TimeoutError("second"), "a"], 1, TimeoutError("second"), 2),
        ([ValueError("wrong"), "a"], 2, ValueError("wrong"), 1),  # no attempt changes it
    ],
)
def test_attempts_end_with_the_first_answer_or_the_waits(
    outcomes: list[object], waits: int, answer: object, used: int
) -> None:
    rest = list(outcomes)

    async def call() -> object:
        outcome = rest.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def last() -> object:
        try:
            return await retry(call, when=transient, waits=[0.0] * waits)
        except Exception as error:
            return error

    assert repr(asyncio.run(last())) == repr(answer)
    assert len(outcomes) - len(rest) == used
