"""Which errors are worth another attempt, and the attempts."""

import asyncio
import json

import httpx
import openai
import pytest
from langgraph.errors import NodeTimeoutError

from aipo.util.retry import retry, transient

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
        (ValueError(), False),
        (KeyError(), False),
    ],
    ids=repr,
)
def test_what_is_worth_another_attempt(error: Exception, worth: bool):
    assert transient(error) is worth


def attempts(*outcomes: Exception | str, waits: int) -> tuple[str, int]:
    """What `retry` gives where a call has these outcomes, one after another, and how many it used."""
    rest = list(outcomes)

    async def call() -> str:
        outcome = rest.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    answer = asyncio.run(retry(call, when=transient, waits=[0.0] * waits))
    return answer, len(outcomes) - len(rest)


def test_attempts_end_with_the_first_answer() -> None:
    assert attempts("a", "b", waits=2) == ("a", 1)
    assert attempts(TimeoutError(), TimeoutError(), "a", waits=2) == ("a", 3)


def test_attempts_end_with_the_waits() -> None:
    with pytest.raises(TimeoutError, match="second"):
        attempts(TimeoutError("first"), TimeoutError("second"), "a", waits=1)


def test_an_error_that_no_attempt_changes_passes_on() -> None:
    with pytest.raises(ValueError, match="wrong"):
        attempts(ValueError("wrong"), "a", waits=2)
