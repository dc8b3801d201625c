"""Log-probs by agents' own models: a real server that answers as vLLM does, and what is refused with a reason."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aipo.config.build import Experiment, load_experiment
from aipo.errors import AgentError, ConfigError
from aipo.policies.scripted import CharTokenizer
from aipo.rollout.agent_logprobs import PLAIN, ServedScorer, check_scorers
from aipo.util.event_loop import LOOP
from kit.servers import serving

TOKENIZER = CharTokenizer(specials=())
MESSAGES = ({"role": "system", "content": "be short"}, {"role": "human", "content": "2+2"})
OPTIONS = {"model": "m", "temperature": 1, "top_p": 1, "extra_body": dict(PLAIN)}


class VLLM:
    """A character is a token, and the log-prob of id i behind n ids is −i/100 − n/1000."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.tokens = TOKENIZER.encode
        self.message: dict[str, Any] = {"role": "assistant", "content": "4"}
        self.prompt_token_ids: list[int] | None = None
        self.choice: dict[str, Any] | None = None
        self.failures: list[int] = []

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self.answer, methods=["POST"])])

    async def answer(self, request: Request) -> JSONResponse:
        path, body = request.url.path, await request.json()
        self.asked.append((path, body))
        if path == "/v1/completions":
            return self.complete(body["prompt"])
        said = "".join(f"{m['role'][0]}{m['content']}" for m in body.get("messages", ()))
        prompt = self.tokens(f"{said}a" if said else body["prompt"])
        if path == "/tokenize":
            return JSONResponse({"tokens": prompt})
        ids = prompt if self.prompt_token_ids is None else self.prompt_token_ids
        return JSONResponse({"choices": [{"message": self.message}], "prompt_token_ids": ids})

    def complete(self, ids: list[int]) -> JSONResponse:
        if self.failures:
            return JSONResponse({"error": {"message": "no"}}, status_code=self.failures.pop(0))
        told = [{str(i): {"logprob": -i / 100 - n / 1000}} for n, i in enumerate(ids)]
        return JSONResponse({"choices": [self.choice or {"text": "x", "prompt_logprobs": [None, *told[1:]]}]})


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> VLLM:
    monkeypatch.setenv("AGENTS_KEY", "secret")
    return VLLM()


@pytest.fixture
def url(vllm: VLLM) -> Iterator[str]:
    with serving(vllm.app()) as address:
        yield address
        LOOP.close()


def config(url: str, **options: Any) -> Experiment:
    given = {**OPTIONS, "base_url": f"{url}/v1", **options}
    agent = {
        "graph": "graphs.verify:verify",
        "model": "langchain_openai:ChatOpenAI",
        "options": {key: value for key, value in given.items() if value is not None},
        "secrets": {"api_key": "AGENTS_KEY"},
    }
    return load_experiment(
        "aipo_distil", ["method.coefficient=ratio", f"agents={json.dumps({'verify': agent})}"]
    )


def served(url: str, **options: Any) -> ServedScorer:
    scorer = config(url, **options).scored_chats()["verify"].scorer
    assert isinstance(scorer, ServedScorer)
    return scorer


def test_the_servers_log_probs_of_exactly_these_ids(vllm: VLLM, url: str) -> None:
    ids = TOKENIZER.encode("4!")
    got = LOOP.run(served(url).score(MESSAGES, ids))
    prompt = TOKENIZER.encode("sbe shortu2+2a")
    expected = [-i / 100 - n / 1000 for n, i in enumerate(ids, len(prompt))]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    chat = [{"role": "system", "content": "be short"}, {"role": "user", "content": "2+2"}]
    request = {"prompt": [*prompt, *ids], "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
    assert vllm.asked == [
        ("/tokenize", {"model": "m", "messages": chat, "add_generation_prompt": True}),
        ("/v1/completions", {"model": "m", **request}),
    ]


def test_arguments_of_the_chat_template_are_those_of_the_agents_calls(vllm: VLLM, url: str) -> None:
    extra = {**PLAIN, "chat_template_kwargs": {"enable_thinking": False}}
    LOOP.run(served(url, extra_body=extra).score(MESSAGES, [1]))
    assert vllm.asked[0][1]["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_server_that_can_do_it_passes(vllm: VLLM, url: str) -> None:
    LOOP.run(check_scorers(config(url).scored_chats(), TOKENIZER))
    assert {path for path, _ in vllm.asked} == {"/tokenize", "/v1/chat/completions", "/v1/completions"}


def test_a_transient_failure_is_tried_again_and_another_one_is_not(vllm: VLLM, url: str) -> None:
    vllm.failures = [503]
    assert len(LOOP.run(served(url).score(MESSAGES, [1, 2]))) == 2
    vllm.failures = [400]
    with pytest.raises(Exception, match="400"):
        LOOP.run(served(url).score(MESSAGES, [1, 2]))
    assert vllm.failures == []


@pytest.mark.parametrize("told", [None, [None], [{"0": {}}] * 99])
def test_an_answer_without_log_probs_is_an_error(vllm: VLLM, url: str, told: object) -> None:
    vllm.choice = {"text": "x", "prompt_logprobs": told}
    with pytest.raises(AgentError, match="got no prompt_logprobs"):
        LOOP.run(served(url).score(MESSAGES, [1, 2]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokens": lambda text: [len(text)]}, "another tokenizer than the policy's"),
        ({"prompt_token_ids": [1, 2]}, "another prompt from /tokenize than /v1/chat/completions sees"),
        ({"message": {"content": "", "reasoning": "hm"}}, "a model that thinks where nobody sees it"),
        ({"choice": {"text": "x"}}, "no log-probs of given ids: AgentError"),
    ],
)
def test_a_server_that_cannot_is_refused_with_the_reason(
    vllm: VLLM, url: str, changes: dict[str, Any], says: str
) -> None:
    for name, value in changes.items():
        setattr(vllm, name, value)
    with pytest.raises(ConfigError, match=rf"agents\.verify \(m\) at {url}: got {says}.*coefficient=ratio"):
        LOOP.run(check_scorers(config(url).scored_chats(), TOKENIZER))


def test_another_kind_of_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTS_KEY", "secret")
    with (
        serving(Starlette()) as url,
        pytest.raises(ConfigError, match=r"got no log-probs of given ids: .*404"),
    ):
        LOOP.run(check_scorers(config(url).scored_chats(), TOKENIZER))
    LOOP.close()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": None},
        {"top_p": None},
        {"top_p": 0.9},
        {"extra_body": None},
        {"extra_body": {**PLAIN, "top_k": 20}},
        {"extra_body": {**PLAIN, "structured_outputs": {"regex": "[0-9]+"}}},
        {"extra_body": {**PLAIN, "presence_penalty": 1.0}},
        {"frequency_penalty": 1.5},
        {"presence_penalty": 1.0},
        {"logit_bias": {5: 100}},
        {"model_kwargs": {"best_of": 2}},
    ],
)
def test_sampling_from_another_distribution_is_refused(vllm: VLLM, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"agents\.verify\.options: got .*allowed temperature: 1, top_p: 1"):
        config("http://127.0.0.1:1", **options).scored_chats()
    LOOP.close()


def test_models_that_tell_no_log_probs_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"agents\.verify\.model: got envs\.miniature\.agents:verify, which tells no"
    ):
        load_experiment("aipo_distil", ["method.coefficient=ratio"]).scored_chats()
    nobody = load_experiment("aipo_distil", ["method.coefficient=ratio", "agents.verify.model=null"])
    with pytest.raises(ConfigError, match=r"agents\.verify\.model: got none, allowed one whose log-probs"):
        nobody.scored_chats()


def test_only_the_agent_whose_own_coefficient_needs_them_is_asked(vllm: VLLM, url: str) -> None:
    ratio = {"method.coefficient": "mask", "method.agents": {"verify": {"coefficient": "ratio"}}}
    assert config(url).with_settings(ratio).scored_chats()["verify"].scorer is not None
    other = {**ratio, "method.coefficient": "ratio", "method.agents": {"verify": {"coefficient": "pi"}}}
    assert config(url).with_settings(other).scored_chats()["verify"].scorer is None
    with pytest.raises(ConfigError, match=r"agents\.knowledge\.model: got envs\.miniature\.agents:knowledge"):
        load_experiment("aipo_distil", ["method.agents.knowledge.coefficient=ratio"]).scored_chats()


def test_nobody_is_asked_where_the_method_does_not_need_it() -> None:
    assert [chat.scorer for chat in load_experiment("aipo_distil").scored_chats().values()] == [None] * 3
