"""`aipo eval` and `aipo try` with a model behind an OpenAI-compatible address."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import Result

from aipo.config.build_chat import build_openai_chat
from aipo.errors import AipoError, ConfigError, LoadError, PolicyError
from aipo.policies.text_tokenizer import TextTokenizer
from aipo.policies.tokenizer import HFTokenizer
from aipo.replay.recordings import Recordings
from aipo.trace import Mode, Role
from aipo.trace.store import TraceStore
from envs.miniature import Facts
from envs.miniature.model import cold_start
from kit.commands import invoke
from kit.servers import chat_completion, serving
from kit.tiny_vllm import TinyVLLM

FACTS = Facts.draw(0).value
FEW = """
from envs.miniature import Miniature

class Few(Miniature):
    def tasks(self, split):
        return super().tasks(split)[:4]
"""


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """Settings for two rollouts of each of four tasks."""
    (tmp_path / "few.py").write_text(FEW)
    return [
        f"env={{name: '{tmp_path}/few.py:Few', mixture: {{hard: 1}}}}",
        *(
            "evaluate.splits=[hard]",
            "evaluate.samples=2",
            "evaluate.ks=[1, 2]",
            f"run.out={tmp_path / 'served'}",
        ),
    ]


def knows(question: str) -> str:
    """The right answer where the first operand is even; with thinking, which is none of the answer."""
    fact, operand = question.removesuffix("=?\n").split("+")
    value = FACTS[fact]
    total = value + int(operand) + int(operand) % 2
    return f"<think>it is\n#1</think>{fact}={value}\n{value}+{operand}={total}\n#{total}"


@contextmanager
def served(
    answer: Callable[[str], str] = knows, *, refuse: int = 0, finish: str = "stop", key: str = "sesame"
) -> Iterator[tuple[str, list[Request]]]:
    """The address of a server, and what it was asked. The first `refuse` requests come too early."""
    asked: list[Request] = []

    async def complete(request: Request) -> JSONResponse:
        asked.append(request)
        body = await request.json()
        if request.headers["authorization"] != f"Bearer {key}" or body["model"] != "clever":
            return JSONResponse({"error": {"message": "no such model or key"}}, status_code=401)
        if len(asked) <= refuse:
            return JSONResponse({"error": {"message": "later"}}, status_code=429)
        text = body["messages"][-1]["content"]
        reply = answer(text) if "@" in text else "2"
        completion = chat_completion("clever", reply, 1, 1)
        completion["choices"][0]["finish_reason"] = finish
        return JSONResponse(completion)

    with serving(Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])) as url:
        yield f"{url}/v1", asked


def aipo(*words: object) -> Result:
    return invoke(*words, columns=100, MY_KEY="sesame")


def endpoint(url: str, *words: object, model: str = "clever", secret: str = "MY_KEY") -> list[object]:
    return ["--endpoint", url, "--model", model, "--secret", secret, *words]


def test_a_served_model_is_evaluated_and_its_traces_say_that_they_are_text(
    tmp_path: Path, small: list[str]
) -> None:
    out = tmp_path / "served"
    with served(refuse=3) as (url, asked):
        done = aipo("eval", "--json", *endpoint(url), *small)
    last = json.loads(done.stdout.splitlines()[-1])
    (solo,) = last["results"]["hard"].values()
    assert last["event"] == "finished" and list(last["results"]["hard"]) == ["solo"]
    # 9@5+30, +7, +1 and +80: an odd operand is added wrongly.
    assert solo["counts"] == {"tasks": 4, "rollouts": 8, "verdicts": 8, "correct": 4, "failed": 0}
    assert solo["mode"] == "text" and solo["pass_at"] == {"1": 0.5, "2": 0.5}
    assert len(asked) == 1 + 3 + 8  # asked once before; what came too early is asked again
    # Which comes first depends on which request was asked again; the export has the right ones.
    trace = next(trace for trace in TraceStore(out / "evaluations/eval").read() if trace.reward)
    assert (trace.mode, trace.kind) == (Mode.TEXT, "text")
    assert [(s.role, s.logprobs) for s in trace.segments] == [(Role.PROMPT, None), (Role.AGENT, None)]
    text = TextTokenizer().decode(trace.segments[1].token_ids)
    assert text.startswith(f"{trace.task['metadata']['fact']}=") and "think" not in text
    recordings = Recordings(path=out / "evaluations/eval")
    assert recordings.read(0) == []
    assert set(recordings.left_out.values()) == {next(iter(recordings.left_out.values()))}
    assert "kind: got 'text', the answer of a served model" in recordings.left_out[trace.trace_id]
    aipo("export", out / "evaluations/eval", "--format", "sft")
    rows = map(json.loads, (out / "evaluations/eval/exports/sft.jsonl").read_text().splitlines())
    exported = [[(message["role"], message["content"]) for message in row["messages"]] for row in rows]
    assert [("user", trace.task["prompt"]), ("assistant", text)] in exported
    listed = aipo("traces", out / "evaluations/eval", "kind=text", "--limit", 1)
    assert listed.stdout.splitlines()[1].split()[2] == "text"


def test_benchmarks_of_two_kinds_are_evaluated_without_a_configuration(tmp_path: Path) -> None:
    items = {
        "math500": {"problem": "2@2?", "answer": "4", "level": 1},
        "gpqa-diamond": {
            "Question": "2@2?",
            "Correct Answer": "4",
            **{f"Incorrect Answer {n}": str(n) for n in (1, 2, 3)},
        },
    }
    for name, item in items.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(item))
    settings = [f"env.options.folder={tmp_path}", f"run.out={tmp_path / 'served'}"]
    with served(lambda _: "It is \\boxed{4}.") as (url, asked):
        done = aipo("eval", "--json", "--env", "math500,gpqa_diamond", *endpoint(url), *settings)
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert {split: kinds["solo"]["pass_at"] for split, kinds in results.items()} == {
        "math500": {"1": 1.0},
        "gpqa-diamond": {"1": 1.0},
    }
    assert len(asked) == 1 + 2
    with pytest.raises(LoadError, match=r"allowed one file called amc with .jsonl"):
        aipo(
            "eval",
            "--env",
            "amc",
            *endpoint(url),
            f"env.options.folder={tmp_path}",
            f"run.out={tmp_path / 'new'}",
        )
    assert not (tmp_path / "new").exists()


def test_with_its_tokenizer_a_served_model_leaves_whole_traces(tmp_path: Path, small: list[str]) -> None:
    folder = cold_start(seed=0, steps=2)
    words = HFTokenizer(AutoTokenizer.from_pretrained(folder))
    tiny = TinyVLLM(AutoModelForCausalLM.from_pretrained(folder), words)
    out = tmp_path / "served"
    with serving(tiny.app) as url:
        served_model = ["--endpoint", f"{url}/v1", "--model", tiny.name, "--tokenizer", folder]
        aipo("eval", *served_model, *small, "rollout.max_tokens=8")
    traces = list(TraceStore(out / "evaluations/eval").read())
    assert {trace.kind for trace in traces} == {"solo", "suppressed", "assisted"}
    policy = [s for trace in traces for s in trace.segments if s.role is Role.POLICY]
    assert all(s.logprobs is not None and len(s.logprobs) == len(s.token_ids) for s in policy)
    assert len(Recordings(path=out / "evaluations/eval").read(0)) == len(traces)
    kept = AutoTokenizer.from_pretrained(out / "tokenizer")  # the viewer and exports read it
    assert kept.get_vocab() == words.inner.get_vocab()


@pytest.mark.parametrize("finish", ["stop", "length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_one_question_to_a_served_model(finish: str) -> None:
    with served(finish=finish) as (url, _):
        done = aipo("try", "9@5+30=?", "--config", "aipo_distil", *endpoint(url))
        document = json.loads(aipo("try", "9@5+30=?", "--json", *endpoint(url)).stdout)
    ended = "eos" if finish == "stop" else "length"
    assert f"hard/9@5+30 · text · step 0 · reward 1 · ended by {ended}" in done.stdout
    assert done.stdout.splitlines()[-1] == "expected: 549"
    (trace,) = document["traces"]
    assert (trace["reward"], trace["kind"], document["answer"]) == (1.0, "text", "549")
    assert trace["texts"] == ["9@5+30=?\n", "9@5=519\n519+30=549\n#549"]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--model", "clever"], ConfigError, "--model: got one without --endpoint"),
        (["--tokenizer", "x"], ConfigError, "--tokenizer: got one without --endpoint"),
        (["--endpoint", "URL"], ConfigError, "--endpoint: got no --model"),
        (["--endpoint", "URL", "--model", "clever", "--run", "x"], ConfigError, "allowed one of them"),
        (
            ["--endpoint", "URL", "--model", "clever", "--secret", "UNSET"],
            LoadError,
            "--secret: got no environment variable 'UNSET'",
        ),
        (
            ["--endpoint", "https://api.openai.com/v1", "--model", "clever"],
            LoadError,
            "--secret: got no environment variable 'OPENAI_API_KEY'",
        ),
        (
            ["--endpoint", "URL", "--model", "other", "--secret", "MY_KEY"],
            PolicyError,
            "no such model or key",
        ),
        (
            ["--endpoint", "clever", "--model", "other", "--secret", "MY_KEY"],
            ConfigError,
            "--endpoint: got 'clever' (no http:// or https:// before it), allowed an address",
        ),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is_made(
    tmp_path: Path,
    small: list[str],
    words: list[str],
    error: type[AipoError],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with served() as (url, _), pytest.raises(error) as caught:
        aipo("eval", *(url if word == "URL" else word for word in words), *small)
    assert message in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("url", "base", "secret", "sent"),
    [
        ("https://api.openai.com/v1", None, None, "openai"),
        ("https://here.invalid/v1", "https://here.invalid:8000", None, "openai"),
        ("https://other.invalid/v1", "https://here.invalid:8000", None, "none"),
        ("https://api.openai.com.other.invalid/v1", None, None, "none"),
        ("https://other.invalid/v1", None, "MY_KEY", "sesame"),
        ("https://api.openai.com/v1", None, "MY_KEY", "sesame"),
    ],
)
def test_the_key_of_openai_goes_to_no_other_host_unless_it_is_named(
    url: str, base: str | None, secret: str | None, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"OPENAI_API_KEY": "openai", "MY_KEY": "sesame", "OPENAI_BASE_URL": base}.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    options = {"base_url": url, "model": "clever"}
    chat: Any = build_openai_chat(options, variable=secret).model
    assert chat.root_async_client.api_key == sent
    assert chat.root_async_client.base_url.host == urlsplit(url).hostname


def test_a_server_without_keys_needs_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with served(key="none") as (url, _):
        done = aipo("try", "9@5+30=?", "--config", "aipo_distil", "--endpoint", url, "--model", "clever")
    assert done.stdout.splitlines()[-1] == "expected: 549"
