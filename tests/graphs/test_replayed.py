"""Whatever the engine recorded comes out again, token for token; an edit forks exactly where it should."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aipo.policies import Policy, Sampling
from aipo.policies.scripted import ScriptedPolicy
from aipo.replay.chat import AgentModel
from aipo.replay.engine import Replay, TracePair, fork_token, shared_calls
from aipo.replay.questions.check import divergence
from aipo.rollout.context import ChatModel
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.env import Task
from aipo.rollout.prompt import Prompt
from aipo.trace import Mode, StopReason, Trace
from graphs.consult import consult
from graphs.knowledge import knowledge
from graphs.verify import verify
from kit.agents import PROMPTS, TOKENIZER, FunctionChat, HTTPError, SilentChat, build_agent
from kit.engines import Exam, engine, spec, task

PIECES = (
    *("2+2=4 ", "so ", "<eos>", "</consult>", "? ", "! "),
    *(f"<consult:verify>{request}</consult>" for request in ("2+2=4", "2+2=5", "", "<consult:knowledge>x")),
    *(f"<consult:knowledge>{request}</consult>" for request in ("3@7", "a\nb", "fail", "long")),
    *("<consult:nobody>x</consult>", "<consult:verify>never closed"),
)
TURNS = st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join), max_size=6)


class Grader(Exam):
    """Scores how much was written; an answer with a `?` cannot be scored, one with a `!` breaks the grader."""

    def score(self, task: Task, text: str) -> dict[str, float] | None:
        if "!" in text:
            raise ZeroDivisionError("half a point")
        return None if "?" in text else {"length": float(len(text)), "sum": float("2+2=4" in text)}


def answer(text: str) -> str:
    """What both agents' chat models say."""
    if "fail" in text:
        raise HTTPError(400)
    if "Request: long" in text:
        return "very " * 100 + "long"
    return "right" if "2+2=4" in text else "wrong: 2+2=4 </feedback>"


@dataclass(kw_only=True)
class Room:
    """A consult graph with scripted everything, to record in and to replay in."""

    prompt: str | Path | Prompt = "policy.md"
    budget: int = 2
    max_notices: int = 3
    verify_prompt: Path | None = None
    attempts: int = 1
    timeout: float = 60.0
    cache: bool = False
    chat: Callable[[str], str] = answer
    chats: dict[str, FunctionChat] = field(default_factory=dict[str, FunctionChat])

    def __post_init__(self) -> None:
        node = {"attempts": self.attempts, "timeout": self.timeout, "cache": self.cache}
        node |= {"settings": {"temperature": 0}}
        agents = {
            "verify": build_agent(verify, "verify", prompt=self.verify_prompt, max_tokens=24, **node),
            "knowledge": build_agent(knowledge, "knowledge", max_tokens=24, **node),
        }
        limits = {"budget": self.budget, "max_notices": self.max_notices}
        self.graph = consult(agents=agents, prompt=self.prompt, **limits)
        self.chats = {name: FunctionChat(function=self.chat) for name in agents} | self.chats

    def engine(self, policies: Mapping[str, Policy], max_tokens: int = 400) -> RolloutEngine:
        return engine(
            self.graph,
            env=Grader(),
            policies=policies,
            chats={
                name: ChatModel(model=chat, name=f"model of {name}", settings={"t": (0, 1)})
                for name, chat in self.chats.items()
            },
            sampling=Sampling(max_tokens=max_tokens),
            reward_weights={"length": 0.25, "sum": 1.0},
            forbidden_ids=TOKENIZER.encode("<consult:verify>", control=True),
        )

    def record(self, script: Sequence[str], *, max_tokens: int = 400, **changes: Any) -> Trace:
        turns = iter(script)  # texts may repeat
        policy = ScriptedPolicy(TOKENIZER, lambda _: next(turns, "<eos>"), logprob=-0.25)
        rollout = spec(task=task("t", prompt="3@7+5=?"), group_id="g", **{"seed": 11, **changes})
        (trace,) = self.engine({"policy": policy}, max_tokens).run_sync([rollout], lambda _: None)
        return Trace.from_json(trace.to_json())  # as it comes out of a store

    def replay(
        self, *traces: Trace, live: Policy | None = None, chats: bool = False, **rest: Any
    ) -> list[TracePair]:
        agent_models = {
            name: AgentModel(f"model of {name}", {"t": [0, 1]}, model if chats else None)
            for name, model in self.chats.items()
        }
        made = Replay(
            engine=replace(self.engine({"policy": ScriptedPolicy(TOKENIZER, ())}), run_id="again"),
            tokenizers={"policy": TOKENIZER},
            agents=agent_models,
            live={"policy": live} if live else {},
            **rest,
        )
        return made.run(traces, lambda _: None)


def texts(trace: Trace) -> list[str]:
    return [f"{s.role}: {TOKENIZER.decode(s.token_ids)}" for s in trace.segments]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=TURNS,
    mode=st.sampled_from([Mode.ASSISTED, Mode.ASSISTED, Mode.SOLO]),
    suppress=st.booleans(),
    budget=st.integers(1, 3),
    max_notices=st.integers(0, 3),
    max_tokens=st.one_of(st.just(400), st.integers(1, 120)),
    grant=st.sampled_from([1.0, 0.5, 0.0]),
)
def test_what_the_engine_recorded_comes_out_again(
    script: list[str],
    mode: Mode,
    suppress: bool,
    budget: int,
    max_notices: int,
    max_tokens: int,
    grant: float,
) -> None:
    room = Room(budget=budget, max_notices=max_notices)
    trace = room.record(script, mode=mode, suppress=suppress, max_tokens=max_tokens, grant=grant)
    assert trace.grant == grant
    asked = {name: len(chat.seen) for name, chat in room.chats.items()}
    (pair,) = room.replay(trace)
    assert divergence(pair) is None
    assert {name: len(chat.seen) for name, chat in room.chats.items()} == asked  # no model was called
    assert (pair.trace.parent_id, pair.trace.fork_token) == (trace.trace_id, None)
    assert (pair.reuse.live_turns, pair.reuse.live_calls, pair.reuse.fork) == (0, 0, None)


def test_one_rollout_with_everything_in_it() -> None:
    """The property above, with a literal that a reader can follow."""
    room = Room(budget=2, max_notices=4)
    requests = ("verify>2+2=5", "knowledge>fail", "nobody>x", "verify>2+2=4")
    trace = room.record([*(f"<consult:{request}</consult>" for request in requests), "2+2=4"])
    roles = "prompt policy agent policy env policy env policy env policy"
    assert [s.role.value for s in trace.segments] == roles.split()
    assert [c.error for c in trace.consults] == [
        "escaped",
        "HTTPError: status 400",
        "exhausted: No consults left. Go on alone.",
        "exhausted: No consults left. Go on alone.",
    ]
    (pair,) = room.replay(trace)
    assert divergence(pair) is None
    assert (pair.reuse.turns, pair.reuse.calls) == (5, 2)
    assert (pair.trace.trace_id, pair.trace.run_id) == ("again/g/0", "again")
    assert (pair.trace.reward, pair.trace.seed) == (trace.reward, 11)


def test_errors_that_ended_rollouts_end_them_again() -> None:
    room = Room()
    traces = [room.record([text], index=index) for index, text in enumerate(("?", "!", "2+2=4"))]
    assert [t.stop_reason for t in traces] == [StopReason.UNSCORED, StopReason.ERROR, StopReason.EOS]
    pairs = room.replay(*traces)
    assert [divergence(pair) for pair in pairs] == [None] * 3
    assert pairs[1].trace.error == "ZeroDivisionError: half a point (in node score)"


def test_retries_and_time_outs_come_out_again() -> None:
    answers = iter([HTTPError(503), "right"])

    def flaky(text: str) -> str:
        said = next(answers)
        if isinstance(said, Exception):
            raise said
        return said

    room = Room(attempts=2, chat=flaky)
    trace = room.record(["<consult:verify>2+2=4</consult>", "done"])
    (calls,) = [v.calls for v in trace.visits if v.calls]
    assert [(c.reply, c.error) for c in calls] == [(None, "HTTPError: status 503"), ("right", None)]
    assert [divergence(pair) for pair in room.replay(trace)] == [None]

    silent = Room(timeout=0.3, chats={"verify": SilentChat()})
    trace = silent.record(["<consult:verify>2+2=4</consult>", "done"])
    assert "NodeTimeoutError" in str(trace.consults[0].error)
    assert [divergence(pair) for pair in silent.replay(trace)] == [None]


def test_replies_from_a_cache_are_found_in_other_rollouts() -> None:
    room = Room(cache=True)
    script = ["<consult:knowledge>3@7</consult>", "done"]
    traces = [room.record(script, index=index) for index in range(2)]
    assert [sum(len(v.calls) for v in t.visits) for t in traces] == [1, 0]
    fresh = Room()  # nothing is cached in a replay
    pairs = fresh.replay(*traces, shared=shared_calls(traces, ["knowledge"]))
    assert [divergence(pair) for pair in pairs] == [None, None]


@given(tokens=st.integers(0, 3), at=st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_an_edited_prompt_forks_at_its_first_other_token(tokens: int, at: int) -> None:
    """A word is put into the policy's prompt; the replay forks where it stands."""
    trace = Room().record(["<consult:verify>2+2=4</consult>", "2+2=4"])
    plain = Prompt.load(PROMPTS / "policy.md")
    text = plain.sections["assisted"]
    place = len("{{ question }}") + at % 60
    text = text[:place] + "@" * tokens + text[place:]
    edited = replace(plain, sections={**plain.sections, "assisted": text})
    (pair,) = Room(prompt=edited).replay(trace, live=ScriptedPolicy(TOKENIZER, lambda _: "live"), chats=True)
    was, now = trace.token_ids, pair.trace.token_ids
    if not tokens:
        assert pair.trace.fork_token is None
        assert pair.reuse.fork is None
        return
    first = next(i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b)
    assert pair.trace.fork_token == first
    assert pair.reuse.fork.at == "prompt"
    assert f"token {first} of the context is '@'" in pair.reuse.fork.detail
    assert texts(pair.trace)[1:] == ["policy: live<eos>"]


@pytest.fixture
def strict_verify(tmp_path: Path) -> Path:
    """The verifier's prompt with one more line."""
    text = (PROMPTS / "verify.md").read_text(encoding="utf-8")
    path = tmp_path / "verify.md"
    path.write_text(text.replace("Task: check\n", "Task: check\nBe strict.\n"))
    return path


def test_an_agents_edited_prompt_asks_live_and_the_policy_goes_on_from_there(strict_verify: Path) -> None:
    trace = Room().record(["<consult:knowledge>3@7</consult>", "<consult:verify>2+2=4</consult>", "2+2=4"])

    def says(text: str) -> str:
        return "wrong: 2+2=5" if "strict" in text else answer(text)

    room = Room(verify_prompt=strict_verify, chat=says)
    live = ScriptedPolicy(TOKENIZER, lambda context: "then 2+2=5")
    (pair,) = room.replay(trace, live=live, chats=True)
    assert texts(pair.trace)[:4] == texts(trace)[:4]  # prompt, request, feedback, request: reused
    assert texts(pair.trace)[4:] == ["agent: <feedback:verify>2+2=5</feedback>", "policy: then 2+2=5<eos>"]
    assert {name: len(chat.seen) for name, chat in room.chats.items()} == {"verify": 1, "knowledge": 0}
    before = sum(map(len, trace.segments[:4]))
    opening = len(TOKENIZER.encode("<feedback:verify>", control=True))
    assert pair.trace.fork_token == before + opening
    assert pair.reuse.fork.at == "call of verify"
    assert "Be strict." in pair.reuse.fork.detail
    assert (pair.reuse.turns, pair.reuse.live_turns, pair.reuse.calls, pair.reuse.live_calls) == (2, 1, 1, 1)


def test_a_frozen_replay_stops_by_name_where_an_agent_would_be_asked(strict_verify: Path) -> None:
    trace = Room().record(["<consult:verify>2+2=4</consult>", "2+2=4"])
    (pair,) = Room(verify_prompt=strict_verify).replay(trace)
    assert texts(pair.trace) == texts(trace)[:2]  # no notice that the agent were unavailable
    assert pair.trace.stop_reason is StopReason.ERROR
    assert pair.trace.reward is None
    assert "needs a live call here: a call of 'verify' in 'run/g/0': messages: got" in str(pair.trace.error)
    assert pair.reuse.fork is not None


def test_a_graph_that_listens_where_it_did_not_takes_the_recorded_answer_up_to_the_request() -> None:
    """Alone nothing stops at a request; with a grammar that does, the answer ends inside of the recording."""
    said = "<consult:verify>2+2=4</consult>2+2=4<eos>"
    trace = Room().record([said], mode=Mode.SOLO)
    assert texts(trace)[1:] == [f"policy: {said}"]
    prompt = Room().record(["x"]).segments[0]
    listening = replace(trace, mode=Mode.ASSISTED, segments=(prompt, *trace.segments[1:]))
    (pair,) = Room().replay(listening, live=ScriptedPolicy(TOKENIZER, lambda _: "live"), chats=True)
    assert texts(pair.trace)[1:] == [
        "policy: <consult:verify>2+2=4</consult>",
        "agent: <feedback:verify>right</feedback>",
        "policy: live<eos>",
    ]
    assert pair.reuse.fork.at == "sampling"
    assert (pair.reuse.turns, pair.reuse.live_turns, pair.reuse.live_calls) == (1, 1, 1)
    assert pair.trace.fork_token == sum(map(len, pair.trace.segments[:2]))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda t: _segment(t, 1, token_ids=t.segments[1].token_ids[::-1].copy()), "segment 1, token_ids"),
        (lambda t: _segment(t, 2, source="knowledge"), "segment 2, source"),
        (lambda t: replace(t, segments=t.segments[:-1]), "visit 4 (policy), outcome"),
        (lambda t: replace(t, consults=()), "consult 0"),
        (lambda t: replace(t, consults=(replace(t.consults[0], reply="wrong"),)), "consult 0, reply"),
        (lambda t: replace(t, visits=t.visits[:-1]), "visit 5"),
        (lambda t: _first_call(t, reply="wrong: no"), "segment 2, token_ids"),
        (lambda t: _first_call(t, tokens_in=3), "visit 3 (verify/check), call 0, tokens_out"),
        (lambda t: _first_call(t, error="ValueError: no", reply=None), "segment 2, role"),
        (lambda t: replace(t, reward_parts={**t.reward_parts, "sum": 0.0}), "reward part 'sum'"),
        (lambda t: replace(t, reward=9.0), "reward"),
        (lambda t: replace(t, stop_reason=StopReason.LENGTH), "stop_reason"),
    ],
)
def test_a_tampered_trace_is_reported_with_its_first_divergence(
    change: Callable[[Trace], Trace], where: str
) -> None:
    trace = Room().record(["<consult:verify>2+2=4</consult>", "2+2=4"])
    (pair,) = Room().replay(change(trace))
    found = divergence(pair)
    assert found.trace_id == "run/g/0"
    assert found.where.startswith(where), found


def _segment(trace: Trace, number: int, **changes: Any) -> Trace:
    pieces = [replace(s, **changes) if i == number else s for i, s in enumerate(trace.segments)]
    return replace(trace, segments=tuple(pieces))


def _first_call(trace: Trace, **changes: Any) -> Trace:
    visits = [
        replace(v, calls=(replace(v.calls[0], **changes), *v.calls[1:])) if v.calls else v
        for v in trace.visits
    ]
    return replace(trace, visits=tuple(visits))


def test_the_first_token_that_was_not_reused() -> None:
    trace = Room().record(["2+2=4"])
    longer = replace(trace, segments=(*trace.segments, trace.segments[0]))
    assert fork_token(trace, trace, None) is None
    assert fork_token(longer, trace, None) is None  # it ended earlier, with nothing of its own
    assert fork_token(trace, longer, None) == len(trace.token_ids)
    assert fork_token(trace, trace, 3) == 3  # sampled again, and the same came
