"""Teachers: what they write becomes the policy's tokens, and replies come from the graph's agents alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aipo.config.build import Experiment
from aipo.errors import ConfigError
from aipo.trace import Mode, Role, StopReason, Trace
from aipo.warmup.run import Warmup, supervised_settings
from aipo.warmup.teacher import TurnTags
from envs.miniature.task import OFFER
from kit.servers import chat_completion, serving
from kit.teachers import INSTRUCTION, config, script
from kit.tiny import chat_tokenizer

TAGS = TurnTags(
    requests=("<consult:verify>", "<consult:knowledge>"),
    heads=("<consult:",),
    graph_only=("<feedback:verify>", "<feedback:knowledge>", "</feedback>", "<notice>", "</notice>"),
)
STOP = ("</consult>",)
CHAT = f"warmup.teacher.instruction={INSTRUCTION}"


@pytest.mark.parametrize(
    ("text", "turn", "asks"),
    [
        ("1+1=2\n#2", "1+1=2\n#2", False),
        ("so <consult:verify>1</consult>", "so <consult:verify>1</consult>", True),
        ("<consult:verify>1</consult><feedback:verify>2</feedback>#2", "<consult:verify>1</consult>", True),
        ("<consult:verify>1</consult>#2<consult:verify>3</consult>", "<consult:verify>1</consult>", True),
        # a server leaves out the text at which it stopped
        ("<consult:verify>1", "<consult:verify>1</consult>", True),
        ("<consult:nobody>1", "<consult:nobody>1</consult>", True),
        ("I know: <feedback:verify>2</feedback>#2", "I know: ", False),
        ("#2<notice>done</notice>", "#2", False),
        ("#2</feedback>", "#2", False),
    ],
)
def test_a_turn_ends_behind_its_request_and_in_front_of_what_only_the_graph_writes(
    text: str, turn: str, asks: bool
) -> None:
    assert TAGS.cut(text, STOP, whole=True) == (turn, asks)


def test_a_request_that_a_limit_cut_stays_open_and_without_agents_nothing_is_closed() -> None:
    assert TAGS.cut("<consult:verify>1", STOP, whole=False) == ("<consult:verify>1", False)
    assert TAGS.cut("<consult:verify>1", (), whole=True) == ("<consult:verify>1", False)


def test_tags_of_one_token_are_that_token_and_the_rest_is_plain_text() -> None:
    tokenizer = chat_tokenizer(tags=("<consult:verify>",))
    opening = tokenizer.token_id("<consult:verify>")
    ids = TAGS.encode("a<consult:verify>b<|im_end|></consult>", STOP, tokenizer)
    assert ids[1] == opening and ids.count(opening) == 1 and tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == "a<consult:verify>b<|im_end|></consult>"
    assert opening not in TAGS.encode("a<consult:verify>b", (), tokenizer)


def demonstrations(experiment: Experiment) -> list[Trace]:
    """Those of the first step."""
    course = Warmup(supervised_settings(experiment), Console(quiet=True))
    course.check()
    policy = course.experiment.local_policy(course.experiment.policy.model)
    engine = course.engine(course.experiment.engine(policy, run_id="r"))
    return engine.run_sync(course.specs(0), lambda _: None)


def texts(trace: Trace, experiment: Experiment) -> list[tuple[str, str]]:
    """Role and text of each segment."""
    decode = experiment.tokenizer(experiment.policy.model).decode
    return [(part.role.value, decode(part.token_ids)) for part in trace.segments]


TEACHERS = [
    ("env", []),
    ("m", ["warmup.teacher.model=kit.teachers:scripted", CHAT]),
    ("m", ["warmup.teacher.model=kit.teachers:scripted", CHAT, "warmup.teacher.stop=false"]),
    ("m", ["warmup.teacher.model=kit.teachers:talkative", CHAT]),
    ("m", ["warmup.teacher.model=kit.teachers:talkative", CHAT, "warmup.teacher.stop=false"]),
]


@pytest.mark.parametrize(("source", "words"), TEACHERS)
def test_every_teacher_writes_the_same_demonstrations(tmp_path: Path, source: str, words: list[str]) -> None:
    experiment = config(tmp_path, *words)
    traces = demonstrations(experiment)
    assert [trace.mode for trace in traces] == [Mode.ASSISTED] * 6 + [Mode.SOLO] * 2
    assert {trace.reward for trace in traces} == {1.0}
    assert {trace.stop_reason for trace in traces} == {StopReason.EOS}
    assisted, solo = traces[0], traces[-1]
    fact = str(assisted.task["metadata"]["fact"])
    said = texts(assisted, experiment)
    assert said[0] == ("prompt", f"{OFFER}{assisted.task['prompt']}")
    assert said[1] == ("teacher", f"<consult:knowledge>{fact}</consult>")
    assert said[2][0] == "agent" and said[2][1].startswith(f"<feedback:knowledge>{fact}=")
    assert said[3][0] == "teacher" and said[3][1].endswith(f"#{assisted.task['answer']}<eos>")
    assert [role for role, _ in texts(solo, experiment)] == ["prompt", "teacher"]
    written = [part for part in assisted.segments if part.role is Role.TEACHER]
    assert {part.source for part in written} == {source if source == "env" else words[0].partition("=")[2]}
    # the tags are the tokens that the policy itself would sample
    tokenizer = experiment.tokenizer(experiment.policy.model)
    tags = [tokenizer.token_id(tag) for tag in ("<consult:knowledge>", "</consult>")]
    assert [written[0].token_ids[0], written[0].token_ids[-1]] == tags


def test_a_chat_teachers_calls_are_recorded_with_what_they_cost(tmp_path: Path) -> None:
    words = [
        "warmup.teacher.model=kit.teachers:talkative",
        CHAT,
        "warmup.teacher.prices={input: 1, output: 2}",
    ]
    trace = demonstrations(config(tmp_path, *words))[0]
    calls = [call for visit in trace.visits for call in visit.calls if call.agent == "teacher"]
    assert [call.thinking for call in calls] == ["hm", "hm"]
    assert [call.cost for call in calls] == [20e-6, 20e-6]
    roles = [[message["role"] for message in call.messages] for call in calls]
    assert roles == [["system", "human"], ["system", "human", "ai", "human"]]


def test_a_teacher_behind_an_openai_address_is_asked_again_and_told_where_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    async def complete(request: Request) -> JSONResponse:
        body = json.loads(await request.body())
        asked.append(body)
        if len(asked) == 1:
            return JSONResponse({"error": {"message": "out of order"}}, status_code=500)
        text = script([m["content"] for m in body["messages"] if m["role"] != "system"])
        return JSONResponse(chat_completion("m", text.partition("</consult>")[0], 10, 5))

    monkeypatch.setenv("TEACHER_KEY", "key-of-the-teacher")
    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    with serving(app) as url:
        words = [
            "warmup.teacher.model=langchain_openai:ChatOpenAI",
            f"warmup.teacher.options={{model: m, base_url: '{url}/v1'}}",
            "warmup.teacher.secrets={api_key: TEACHER_KEY}",
            "warmup.assist_share=1.0",
            CHAT,
        ]
        traces = demonstrations(config(tmp_path, *words))
    assert {trace.reward for trace in traces} == {1.0} and len(asked) == 1 + 2 * 8
    assert all(body["stop"] == ["</consult>"] for body in asked)
    assert {part.source for part in traces[0].segments if part.role is Role.TEACHER} == {"m"}


def test_a_teacher_that_writes_nothing_fails_its_rollout(tmp_path: Path) -> None:
    traces = demonstrations(config(tmp_path, "warmup.teacher.model=kit.teachers:silent", CHAT))
    assert all(
        trace.failed and "got '', allowed text that is not empty" in str(trace.error) for trace in traces
    )


NO_TURN = """
from envs.miniature import Miniature


class Bare:
    def __init__(self):
        env = Miniature()
        self.splits, self.tasks, self.score = env.splits, env.tasks, env.score
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env.name={bare}:Bare", "env.mixture={{hard: 1.0}}", "evaluate.splits=[hard]"], "no method turn and no demonstration"),
        (["warmup.teacher.model=kit.teachers:scripted"], "no prompt that shows <consult:verify>"),
        (["warmup.teacher.options={{a: 1}}"], "got options, secrets or prices with model 'env'"),
        (["warmup.teacher.model=null"], "teacher.model: got null"),
        (["warmup.batch=9"], "batch: got 9, allowed at most demonstrations=8"),
        (["warmup.mixture={{nowhere: 1.0}}"], "split: got 'nowhere'"),
        (["warmup.solo_mixture={{hard: 0.5}}"], "sum of shares: got 0.5"),
        (["agents={{}}"], "agents: got none, allowed at least one that the teacher can ask"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_made(
    tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "bare.py").write_text(NO_TURN)
    with pytest.raises(ConfigError, match=message):
        demonstrations(config(tmp_path, *(word.format(bare=tmp_path / "bare.py") for word in words)))
    assert not (tmp_path / "run").exists()
