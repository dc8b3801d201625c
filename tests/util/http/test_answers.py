"""What a body with status 200 says: an error, an answer, or nothing."""

import json
from typing import Any

import pytest

from aipo.errors import AgentError, AnswerError
from aipo.util.http.answers import chat_answer, status_said, tokens

MESSAGE = {"role": "assistant", "content": "7"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, 429),
        ({"error": {"code": "503", "message": "x"}}, 503),
        ({"error": {"status": 400, "message": "x"}}, 400),
        ({"error": {"message": "x", "http_status": 502}}, 502),
        ({"error": {"code": "rate_limit_exceeded", "message": "x"}}, 429),
        ({"error": {"type": "overloaded_error", "message": "Overloaded"}}, 503),
        ({"error": {"type": "invalid_request_error", "code": None, "message": "x"}}, 400),
        ({"error": {"type": "authentication_error", "message": "x"}}, 401),
        ({"error": {"code": 14, "status": "UNAVAILABLE", "message": "x"}}, 503),
        ({"error": {"status": "RESOURCE_EXHAUSTED"}}, 429),
        ({"error": {"message": "x"}, "status": 504}, 504),
        ({"error": "overloaded"}, 503),
        ({"error": "model 'x' not found"}, 404),
        ({"error": "Too Many Requests"}, 429),
        ({"error": "something"}, 500),
        ({"error": "the request exceeds quota of 4096 context length"}, 400),
        ({"error": "rate limit: prompt is too long for the context window"}, 400),
        ({"error": "the request took too long, timed out"}, 504),
        ({"error": True}, 500),
        ({"error": [{"code": 401}]}, 401),
        ({"errors": [{"code": 429}]}, 429),
        ({"error": {"code": 999}}, 500),
        ({"error": {"code": 429.0, "message": "x"}}, 500),
        ({"detail": "Not Found"}, 404),
        ({"detail": "Rate limit reached"}, 429),
        ({"detail": "hm"}, None),
        ({"message": "server is busy", "code": 10}, 503),
        ({"code": 429, "msg": "x"}, 429),
        ({"object": "error", "message": "x", "type": "BadRequestError", "code": 400}, 400),
        ({"choices": [], "error": {"code": 429}}, 429),
        ({"choices": None, "error": {"code": 502}}, 502),
        ({"choices": [{"error": {"code": 429}, "finish_reason": "error"}]}, 429),
        ({"choices": [{"message": MESSAGE}], "error": None}, None),
        ({"choices": [{"message": {"content": 'the "error" is 429'}}]}, None),
        ({"choices": [{"message": MESSAGE}], "code": 429, "message": "x"}, None),
        ({"data": [], "object": "list"}, None),
        ({"success": False}, None),
        ({"version": "0.32", "status": 500}, None),
        ([1], None),
        ("text", None),
        (None, None),
    ],
)
def test_the_status_that_a_body_says(body: object, status: int | None) -> None:
    assert status_said(json.dumps(body).encode()) == status


# Bodies as the servers send them; where their status is 200, or they come in a stream, this is all there is.
BODIES = """
OpenAI       | 429 | {"error": {"message": "You exceeded your current quota, please check your plan and billing details.", "type": "insufficient_quota", "param": null, "code": "insufficient_quota"}}
OpenAI       | 429 | {"error": {"message": "Rate limit reached for gpt-5 on tokens per min. Please try again in 2s.", "type": "tokens", "param": null, "code": "rate_limit_exceeded"}}
OpenAI       | 401 | {"error": {"message": "Incorrect API key provided: EMPTY.", "type": "invalid_request_error", "param": null, "code": "invalid_api_key"}}
OpenAI       | 404 | {"error": {"message": "The model `gpt-9` does not exist or you do not have access to it.", "type": "invalid_request_error", "param": null, "code": "model_not_found"}}
OpenAI       | 400 | {"error": {"message": "This model's maximum context length is 8192 tokens. However, your messages resulted in 8227 tokens.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}}
OpenAI       | 400 | {"error": {"message": "Rate of top_p: unavailable, try again with 1.", "type": "invalid_request_error", "param": "top_p", "code": null}}
OpenAI       | 500 | {"error": {"message": "The server had an error while processing your request. If it was not found, try again.", "type": "server_error", "param": null, "code": null}}
vLLM         | 400 | {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "type": "BadRequestError", "param": null, "code": 400}
vLLM         | 404 | {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}}
vLLM         | 500 | {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", "type": "InternalServerError", "param": null, "code": 500}}
vLLM         | 401 | {"error": "Unauthorized"}
Azure        | 404 | {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again."}}
Azure        | 404 | {"error": {"message": "The API deployment for this resource does not exist, try again.", "type": "invalid_request_error", "param": null, "code": "DeploymentNotFound"}}
Azure        | 400 | {"error": {"message": "The response was filtered.", "type": null, "param": "prompt", "code": "content_filter", "status": 400}}
Azure        | 429 | {"error": {"code": "429", "message": "Requests have exceeded the call rate limit. Please retry after 6 seconds."}}
Azure        | 401 | {"statusCode": 401, "message": "Unauthorized. Access token is missing, invalid, or expired."}
OpenRouter   | 429 | {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "error code: 1015", "provider_name": "Kluster"}}}
OpenRouter   | 400 | {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "{\\"error\\": {\\"type\\": \\"overloaded\\"}}"}}, "user_id": "org_2x"}
OpenRouter   | 502 | {"choices": [{"error": {"code": 502, "message": "not found"}, "finish_reason": "error"}]}
LiteLLM      | 400 | {"error": {"message": "litellm.BadRequestError: AnthropicException - You have reached your usage limits: rate limit", "type": null, "param": null, "code": "400"}}
LiteLLM      | 429 | {"error": {"message": "No deployments available for selected model, try again in 5 seconds", "type": "throttling_error", "param": null, "code": "429"}}
Ollama       | 404 | {"error": {"message": "model \\"x\\" not found, try pulling it first", "type": "api_error", "param": null, "code": null}}
Ollama       | 404 | {"error": "model 'llama3.2:latest' not found"}
Ollama       | 503 | {"error": "server busy, please try again.  maximum pending requests exceeded"}
SGLang       | 400 | {"object": "error", "message": "The input (61709 tokens) is longer than the model's context length (40960 tokens).", "type": "BadRequestError", "param": null, "code": 400}
SGLang       | 503 | {"error": {"message": "The request queue is full.", "type": "service_unavailable", "code": 503}}
TGI          | 422 | {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 6000", "error_type": "validation"}
TGI          | 503 | {"error": "Model is overloaded", "error_type": "overloaded"}
Anthropic    | 503 | {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
Anthropic    | 400 | {"type": "error", "error": {"type": "invalid_request_error", "message": "You have reached your specified API usage limits: not found"}}
Anthropic    | 400 | {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}
Google       | 429 | [{"error": {"code": 429, "message": "Resource has been exhausted (e.g. check quota).", "status": "RESOURCE_EXHAUSTED"}}]
Google       | 403 | {"error": {"message": "The caller is unavailable", "status": "PERMISSION_DENIED"}}
llama.cpp    | 503 | {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
FastAPI      | 422 | {"detail": "Unprocessable Entity"}
"""


@pytest.mark.parametrize("line", BODIES.strip().splitlines())
def test_the_status_in_the_bodies_of_servers(line: str) -> None:
    _, status, body = map(str.strip, line.split(" | ", 2))
    assert status_said(body.encode()) == int(status)


@pytest.mark.parametrize("body", [b"", b"<html>502</html>", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_says_no_status(body: bytes) -> None:
    assert status_said(body) is None


def answer(**changes: Any) -> bytes:
    return json.dumps({"choices": [{"message": MESSAGE}]} | changes).encode()


@pytest.mark.parametrize(
    "message",
    [*({"content": text} for text in ("7", "", None, [{"type": "text", "text": "7"}])), {"tool_calls": []}],
)
def test_a_chat_completion_stays_as_it_is(message: dict[str, Any]) -> None:
    body = answer(choices=[{"message": {"role": "assistant"} | message}])
    assert chat_answer(body, "m") is body


@pytest.mark.parametrize("role", [{}, {"role": None}])
def test_a_message_without_a_role_is_the_assistants(role: dict[str, None]) -> None:
    body = answer(choices=[{"message": {"content": "7"} | role}])
    assert json.loads(chat_answer(body, "m"))["choices"][0]["message"] == MESSAGE


def test_half_an_emoji_and_what_is_no_number_stay() -> None:
    body = (
        b'{"choices": [{"message": {"role": "assistant", "content": "\\ud83d"}}], "usage": {}, "score": NaN}'
    )
    read = json.loads(chat_answer(body, "m"))
    assert (read["choices"][0]["message"]["content"], read["usage"]) == ("\ud83d", None)


@pytest.mark.parametrize(
    "body",
    [
        *(answer(choices=choices) for choices in ([], None, {}, "x", [None], ["x"], [{}], [{"text": "7"}])),
        *(
            answer(choices=[{"message": message}])
            for message in (None, "7", [], {"content": 7}, {"content": {}})
        ),
        *(b"{}", b"[]", b"null", b'"text"', b"7", b"", b"{", b"<html>bad gateway</html>", b"\xff"),
    ],
)
def test_what_is_no_chat_completion_is_named(body: bytes) -> None:
    with pytest.raises(AnswerError, match=r"answer of http://m: got .*, allowed a chat completion") as caught:
        chat_answer(body, "http://m")
    assert isinstance(caught.value, AgentError)


WHOLE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (WHOLE, WHOLE),
        (None, None),
        ({"prompt_tokens": 3.0, "completion_tokens": 5.0}, {"prompt_tokens": 3, "completion_tokens": 5}),
        (
            WHOLE | {"prompt_tokens_details": {"cached_tokens": 2}},
            WHOLE | {"prompt_tokens_details": {"cached_tokens": 2}},
        ),
        (WHOLE | {"prompt_tokens_details": "x", "cost": 1}, WHOLE),
        (WHOLE | {"prompt_tokens_details": {"cached_tokens": "2"}}, WHOLE | {"prompt_tokens_details": {}}),
        (WHOLE | {"total_tokens": "8"}, {"prompt_tokens": 3, "completion_tokens": 5}),
        *((WHOLE | {"prompt_tokens": wrong}, None) for wrong in (None, -1, "3", 3.5, 2**53, True, [3])),
        *((WHOLE | {"completion_tokens": wrong}, None) for wrong in (None, -1, "5", 5.5, 1e300, False, {})),
        ({"prompt_tokens": 3}, None),
        *((wrong, None) for wrong in ({}, [], "x", 7, 0, False)),
    ],
)
def test_usage_is_numbers_or_not_known(usage: object, read: object) -> None:
    assert json.loads(chat_answer(answer(usage=usage), "m"))["usage"] == read


@pytest.mark.parametrize(
    ("said", "known"),
    [
        *((0, 0), (7, 7), (7.0, 7), (-0.0, 0), (2**53 - 1, 2**53 - 1)),
        *((no, None) for no in (2**53, 10**20, -1, 7.5, float("nan"), float("inf"), True, "7", None)),
    ],
)
def test_a_number_of_tokens(said: object, known: int | None) -> None:
    assert tokens(said) == known
