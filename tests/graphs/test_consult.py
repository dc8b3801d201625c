"""The main state machine, on token streams that can be read by eye."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.types import Command

from aipo.errors import ConfigError, GraphError, LoadError
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy
from aipo.rollout.agent import Agent, AgentState
from aipo.rollout.context import ChatModel
from aipo.rollout.graph import check_graph
from aipo.trace import Consult, Mode, Role, StopReason, concatenate
from graphs.consult import consult
from graphs.knowledge import knowledge
from graphs.protocol import Fault, Grammar
from graphs.reasoning import reasoning
from graphs.solo import solo
from graphs.verify import verify
from kit.agents import (
    NAMES,
    TOKENIZER,
    FunctionChat,
    HTTPError,
    SilentChat,
    build_agent,
    build_context,
    roll,
    shown,
    sub_graph,
)

FACTORIES = dict(zip(NAMES, (verify, knowledge, reasoning), strict=True))
FACT = FunctionChat(function=lambda _: "3@7=582")
ASK = ["<consult:knowledge>1</consult>", "#1"]
UNAVAILABLE = (Role.ENV, "notice", "<notice>knowledge is unavailable. Go on.</notice>")


def build(*names: str, budget: int = 9, max_notices: int = 8, grammar: Grammar | None = None, **agent):
    agents = {name: build_agent(FACTORIES[name], name, **agent) for name in names or NAMES}
    graph = consult(
        agents=agents, prompt="miniature.md", budget=budget, max_notices=max_notices, grammar=grammar
    )
    return check_graph(graph, "consult")


def replying(reply: object, *, name: str = "knowledge", **limits) -> dict[str, Agent]:
    """One agent that always gives this reply, or raises it."""

    async def answer(state: AgentState) -> dict:
        if isinstance(reply, BaseException):
            raise reply
        return {"reply": reply}

    return build_agents(answer, name=name, **limits)


def build_agents(node: Callable[[AgentState], Any], *, name: str = "knowledge", **limits) -> dict[str, Agent]:
    given = {"budget": 9, "deadline": 60.0, "max_tokens": 64} | limits
    return {name: Agent(name=name, graph=sub_graph(node), **given)}


def talk(script, agents: dict[str, Agent], **context):
    return roll(consult(agents=agents, prompt="miniature.md"), build_context(script, **context))


def ask_chat(chat: FunctionChat, **agent):
    """A rollout that asks `knowledge`, whose chat model this is, once: its consult, what follows it, and the calls."""
    context = build_context(ASK, chats={"knowledge": chat})
    state = roll(build("knowledge", **agent), context)
    return state["consults"][0], shown(state)[2], context.calls


def test_the_miniature_rollout():
    context = build_context(
        ["<consult:knowledge>3@7</consult>", "3@7=582\n582+5=587\n#587"], chats={"knowledge": FACT}
    )
    state = roll(build(), context)
    assert shown(state) == [
        (Role.PROMPT, "prompt", "agents\n3@7+5=?\n"),
        (Role.POLICY, "policy", "<consult:knowledge>3@7</consult>"),
        (Role.AGENT, "knowledge", "<feedback:knowledge>3@7=582</feedback>"),
        (Role.POLICY, "policy", "3@7=582\n582+5=587\n#587<eos>"),
    ]
    asked = {"agent": "knowledge", "request": "3@7", "request_segment": 1, "request_start": 0}
    assert state["consults"] == [Consult(**asked, reply="3@7=582", reply_segment=2)]
    assert state["stops"] == {"policy": StopReason.EOS}
    # Only what the policy wrote is scored.
    assert context.env.texts == ["3@7=582\n582+5=587\n#587"]
    assert [call.agent for call in context.calls] == ["knowledge"]
    assert all(s.logprobs is None for s in state["segments"] if s.role is not Role.POLICY)


def test_an_agent_knows_the_question_the_work_so_far_and_the_request():
    chat = FunctionChat(function=lambda _: "3@7=582")
    script = ["1+1=2\n<consult:knowledge>3@7</consult>", "so\n<consult:knowledge>4@4</consult>", "#587"]
    roll(build(), build_context(script, chats={"knowledge": chat}))
    work = "1+1=2\n<consult:knowledge>3@7</consult><feedback:knowledge>3@7=582</feedback>so\n"
    assert chat.seen[1].endswith(f"Problem:\n3@7+5=?\n\n\nWork so far:\n{work}\n\nRequest: 4@4")


@pytest.mark.parametrize("graph", [solo(prompt="miniature.md"), build()])
def test_solo_intercepts_nothing(graph):
    text = "<consult:knowledge>3@7</consult><feedback:knowledge>1</feedback>3@7=1\n#6"
    context = build_context([text], mode=Mode.SOLO)
    state = roll(graph, context)
    assert shown(state)[1:] == [(Role.POLICY, "policy", text + "<eos>")]
    assert state["consults"] == [] and context.calls == []


def test_a_policy_that_writes_feedback_itself_has_written_policy_tokens():
    script = ["<feedback:knowledge>3@7=1</feedback><consult:knowledge>3@7</consult>", "#587"]
    state = roll(build(), build_context(script, chats={"knowledge": FACT}))
    assert [role for role, *_ in shown(state)] == [Role.PROMPT, Role.POLICY, Role.AGENT, Role.POLICY]
    assert state["consults"][0].request_start == len("3@7=1") + 2


@pytest.mark.parametrize(
    ("said", "agent", "request_text", "start", "fault"),
    [
        ("3@7</consult>", "", None, None, Fault.MALFORMED),
        ("<consult:verify>1<consult:knowledge>2</consult>", "knowledge", "2", 0, Fault.NESTED),
        ("7<consult:knowledge>3@7<eos>", "knowledge", None, 1, Fault.UNCLOSED),
        ("<consult:knowledge> </consult>", "knowledge", " ", 0, Fault.EMPTY),
        ("<consult:oracle>1</consult>", "oracle", "1", 0, Fault.UNKNOWN),
    ],
)
def test_a_bad_request_gets_a_notice_and_the_policy_goes_on(said, agent, request_text, start, fault):
    context = build_context([said, "#587"])
    state = roll(build("knowledge"), context)
    notice = Grammar().notice(fault, agent, ["knowledge"])
    assert shown(state)[1:] == [
        (Role.POLICY, "policy", said),
        (Role.ENV, "notice", f"<notice>{notice}</notice>"),
        (Role.POLICY, "policy", "#587<eos>"),
    ]
    reply = {"reply": None, "error": f"{fault}: {notice}", "fault": fault, "reply_segment": 2}
    asked = {"agent": agent, "request": request_text, "request_segment": 1, "request_start": start}
    assert state["consults"] == [Consult(**asked, **reply)]
    assert state["stops"] == {"policy": StopReason.EOS}
    assert context.calls == []


def test_budgets():
    def told(state) -> list[str]:
        return [text for role, _, text in shown(state) if role in (Role.AGENT, Role.ENV)]

    script = [f"<consult:{name}>1</consult>" for name in ("verify", "verify", "knowledge")] + ["#1"]
    assert told(talk(script, replying("ok", name="verify", budget=1) | replying("ok"))) == [
        "<feedback:verify>ok</feedback>",
        "<notice>verify has no consults left. Agents: knowledge.</notice>",
        "<feedback:knowledge>ok</feedback>",
    ]
    script = [*ASK[:1] * 3, "3@7</consult>", "#1"]
    graph = consult(agents=replying("ok"), prompt="miniature.md", budget=2)
    state = roll(graph, build_context(script))
    exhausted = "<notice>No consults left. Go on alone.</notice>"  # whatever is wrong with the request
    assert told(state) == [*["<feedback:knowledge>ok</feedback>"] * 2, *[exhausted] * 2]
    assert [c.error for c in state["consults"][:2]] == [None, None]
    assert [c.fault for c in state["consults"]] == [None, None, Fault.EXHAUSTED, Fault.EXHAUSTED]


def test_an_agent_that_fails_has_been_consulted():
    state = talk([ASK[0], *ASK], replying(ValueError("broken"), budget=1))
    assert [text for role, _, text in shown(state) if role is Role.ENV] == [
        "<notice>knowledge is unavailable. Go on.</notice>",
        "<notice>No consults left. Go on alone.</notice>",
    ]
    assert state["consults"][0].error == "ValueError: broken"
    assert [c.fault for c in state["consults"]] == [Fault.UNAVAILABLE, Fault.EXHAUSTED]


def test_a_request_is_granted_with_a_probability_that_the_seed_decides():
    """Nobody is asked where it is not; and who was declined has asked, so that the budget ends."""
    context = replace(build_context([ASK[0], ASK[0], *ASK]), grant=0.0)
    state = roll(consult(agents=replying(ValueError("asked")), prompt="miniature.md", budget=2), context)
    assert [text for role, _, text in shown(state) if role is Role.ENV] == [
        *["<notice>knowledge does not answer now. Go on.</notice>"] * 2,
        "<notice>No consults left. Go on alone.</notice>",
    ]
    assert [c.fault for c in state["consults"]] == [Fault.DECLINED, Fault.DECLINED, Fault.EXHAUSTED]
    assert state["consults"][0].error == "declined: knowledge does not answer now. Go on."
    assert not any(consulted.reached for consulted in state["consults"])
    by_seed = [replace(context, seed=seed, grant=0.3) for seed in range(2000)]
    granted = [one.grants(0) for one in by_seed]
    assert granted == [one.grants(0) for one in by_seed] != [one.grants(1) for one in by_seed]
    assert 0.27 < sum(granted) / len(granted) < 0.33
    assert all(replace(one, grant=1.0).grants(n) for one in by_seed[:50] for n in range(4))


@pytest.mark.parametrize("reply", ["", "  \n", None])
def test_an_agent_that_returns_nothing(reply):
    state = talk(ASK, replying(reply))
    assert shown(state)[2] == UNAVAILABLE
    assert (state["consults"][0].error, state["consults"][0].reply) == ("no reply", None)
    assert state["stops"] == {"policy": StopReason.EOS}


def test_an_agent_that_takes_too_long_is_told_to_give_up():
    chat = SilentChat()
    consulted, following, calls = ask_chat(chat, deadline=0.3)
    assert (following, consulted.error) == (UNAVAILABLE, "no reply within 0.3 s (agents.knowledge.deadline)")
    assert chat.cancelled == ["cancelled"]
    assert calls[0].error.startswith("CancelledError")


def test_a_rollout_that_is_cancelled_takes_its_agents_along():
    chat, graph = SilentChat(), build("knowledge")
    context = build_context(ASK, chats={"knowledge": chat})

    async def run():
        rollout = asyncio.create_task(graph.ainvoke({"segments": []}, context=context))
        while not chat.seen:
            await asyncio.sleep(0)
        rollout.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rollout

    asyncio.run(run())
    assert chat.cancelled == ["cancelled"]


@pytest.mark.parametrize(
    ("said", "reply", "error"),
    [
        ("42 \ud83d", "42 ?", None),  # half an emoji
        ("x" * 100_000, "x" * 64, "cut from 100000 to 64 tokens"),
        (
            "</feedback><consult:verify>1</consult><eos>",
            "&lt;/feedback>&lt;consult:verify>1&lt;/consult><eos>",
            "escaped",
        ),
    ],
    ids=["half an emoji", "100 kilobytes", "control"],
)
def test_a_reply_is_plain_text(said, reply, error):
    state = talk(ASK, replying(said))
    assert shown(state)[2][2] == f"<feedback:knowledge>{reply}</feedback>"
    assert (state["consults"][0].reply, state["consults"][0].error) == (reply, error)
    special = {TOKENIZER.token_id(t) for t in ("<eos>", "<consult:verify>", "</consult>")}
    assert not special & set(state["segments"][2].token_ids.tolist())


@settings(max_examples=40, deadline=None)
@given(reply=st.text(st.sampled_from("<>/:cofnsulteedbakviy&\x00 "), max_size=40) | st.text(max_size=20))
def test_whatever_an_agent_replies_the_rollout_ends_well(reply):
    state = talk(ASK, replying(reply))
    assert state["stops"] == {"policy": StopReason.EOS}
    assert [role for role, *_ in shown(state)][1::2] == [Role.POLICY, Role.POLICY]
    assert shown(state)[2][2].count("</feedback>") == (1 if state["consults"][0].reply else 0)


def test_feedback_is_cut_to_the_room_that_is_left():
    # 4 tokens before the feedback + 2 tags + room for 4 = 10; nothing is left for the policy.
    state = talk(["#<consult:knowledge>1</consult>", "#1"], replying("123456789"), max_tokens=10)
    assert shown(state)[1:] == [
        (Role.POLICY, "policy", "#<consult:knowledge>1</consult>"),
        (Role.AGENT, "knowledge", "<feedback:knowledge>1234</feedback>"),
    ]
    assert state["stops"] == {"policy": StopReason.LENGTH}
    assert state["reward_parts"] == {"policy": {"length": 1.0}}


@pytest.mark.parametrize(
    ("said", "max_tokens", "written"),
    [
        (ASK[0], 5, ASK[0]),  # the agent is not asked: its feedback could not fit
        ("<consult:oracle>1</consult>", 40, "<consult:oracle>1</consult>"),  # nor could the notice
        ("<consult:knowledge>12345", 4, "<consult:knowledge>123"),  # cut off it is no request
    ],
)
def test_without_room_for_a_reply_the_rollout_ends(said, max_tokens, written):
    state = talk([said], replying("ok"), max_tokens=max_tokens)
    assert shown(state)[1:] == [(Role.POLICY, "policy", written)]
    assert state["stops"] == {"policy": StopReason.LENGTH} and state["consults"] == []


def test_notices_cannot_go_on_for_ever():
    turns = iter(["1</consult>", "2</consult>", "3</consult>"])
    graph = consult(agents=replying("ok"), prompt="miniature.md", max_notices=2)
    state = roll(graph, build_context(lambda _: next(turns)))
    assert [role for role, *_ in shown(state)] == [
        *(Role.PROMPT, Role.POLICY, Role.ENV, Role.POLICY, Role.ENV),
        Role.POLICY,  # the third tag is not intercepted any more
    ]
    assert shown(state)[-1][2] == "3</consult><eos>"


def test_a_mistake_in_an_agents_prompt_is_not_the_agents_failure(tmp_path):
    prompt = tmp_path / "knowledge.md"
    prompt.write_text("## answer\nTask: answer\n{{ reqest }}")
    with pytest.raises(LoadError, match="reqest"):
        roll(build("knowledge", prompt=prompt), build_context(["<consult:knowledge>1</consult>"]))


def test_two_shapes_of_the_grammar_in_one_rollout():
    grammar = Grammar(before="\n", after="\n", notices={Fault.UNKNOWN: "ask {allowed}"})
    graph = consult(agents=replying("ok"), prompt="miniature.md", grammar=grammar)
    state = roll(graph, build_context([ASK[0], "<consult:x>1</consult>", "#1"]))
    assert shown(state)[2][2] == "\n<feedback:knowledge>ok</feedback>\n"
    assert shown(state)[4][2] == "\n<notice>ask knowledge</notice>\n"


def test_tags_that_are_spelled_out_work_as_well():
    plain = CharTokenizer()
    policy = ScriptedPolicy(plain, ["ab<consult:knowledge>1</consult>", "#1"])
    state = talk(policy, replying("ok"))
    assert plain.decode(concatenate(state["segments"])) == (
        "agents\n3@7+5=?\nab<consult:knowledge>1</consult><feedback:knowledge>ok</feedback>#1<eos>"
    )
    assert state["consults"][0].request_start == 2


@pytest.mark.parametrize("name", ["policy", "segments", "asked", "a b", "", "a:b", "a|b"])
def test_names_that_cannot_be_nodes_or_tags(name):
    with pytest.raises(ConfigError, match="name of an agent"):
        consult(agents=replying("ok", name=name), prompt="miniature.md")


def test_the_prompt_names_the_agents_there_are():
    graph = consult(agents=replying("ok", name="verify") | replying("ok", name="calculate"))

    def prompt(graph, mode=Mode.ASSISTED) -> str:
        return shown(roll(graph, build_context(["#1"], prompt="why?", mode=mode)))[0][2]

    text = prompt(graph)
    lines = [line for line in text.splitlines() if line.startswith("- <consult:")]
    assert [line.split(">")[0] for line in lines] == ["- <consult:verify", "- <consult:calculate"]
    assert text.startswith("why?\n\nReason step by step")
    alone = prompt(solo())
    assert alone.startswith("why?\n\nReason step by step") and "consult" not in alone
    assert alone == prompt(graph, Mode.SOLO) == prompt(consult(agents={}))


class Telling:
    """Says of every id that its log-prob is −id/100; or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, str]] = []

    async def score(self, messages, token_ids):
        self.asked.append((messages[-1]["content"].splitlines()[0], TOKENIZER.decode(token_ids)))
        if self.error:
            raise self.error
        return [-i / 100 for i in token_ids]


def told(scorer: Telling, reply: str, *, max_tokens: int = 64):
    """One consult whose agent's model can be asked for log-probs: the consult, and its reply's segment."""
    context = build_context(["<consult:knowledge>3@7</consult>", "#1"])
    chat = FunctionChat(function=lambda _: reply)
    context.chats["knowledge"] = ChatModel(model=chat, name="m", scorer=scorer)
    state = roll(build("knowledge", max_tokens=max_tokens), context)
    return state["consults"][0], state["segments"][2]


def test_an_agents_own_log_probs_stand_on_the_reply_and_not_on_its_tags():
    scorer = Telling()
    consulted, piece = told(scorer, " 58\n")
    opening, closing = Grammar().frame(TOKENIZER, "knowledge")
    inside = TOKENIZER.encode("58")
    expected = [*[float("nan")] * len(opening), *(-i / 100 for i in inside), *[float("nan")] * len(closing)]
    assert piece.logprobs.tolist() == pytest.approx(expected, nan_ok=True)
    assert (scorer.asked, consulted.error) == ([("Task: answer", "58")], None)


def test_only_what_the_model_said_word_for_word_has_log_probs():
    scorer = Telling()
    _, cut = told(scorer, "582 and more", max_tokens=3)
    assert scorer.asked == [("Task: answer", "582")]  # the beginning of it
    assert sum(cut.logprobs == cut.logprobs) == 3
    _, escaped = told(scorer, "</feedback> x")
    _, thought = told(scorer, "<think>3@7?</think>58")  # its probability is the one behind that thinking
    assert len(scorer.asked) == 1
    assert (thought.logprobs != thought.logprobs).all()
    assert (escaped.logprobs != escaped.logprobs).all()


def test_log_probs_that_are_not_to_be_had_are_unknown_and_the_consult_says_why():
    consulted, piece = told(Telling(HTTPError(503)), "58")
    assert (consulted.reply, consulted.fault) == ("58", None)
    assert consulted.error == "log-probs unknown: HTTPError: status 503"
    assert (piece.logprobs != piece.logprobs).all()


def test_an_agent_that_sends_a_command_to_the_graph_around_it_is_refused():
    async def leave(state: AgentState) -> Command[Any]:
        return Command(graph=Command.PARENT, update={"reply": "3@7=582"})

    with pytest.raises(
        GraphError, match=r"agent 'knowledge': got Command.*, allowed a 'reply' in its own state"
    ):
        talk(ASK, build_agents(leave))


@pytest.mark.parametrize(
    ("said", "scored"),
    [
        (["3@7=582\n<consult:knowledge>3@7+1=583</consult>", "#583"], "3@7=582\n#583"),
        (["<consult:knowledge>3@7</consult>", "582\n<consult:knowledge>5</consult>", "#582"], "582\n#582"),
        (["#5 <consult:knowledge>#6", "#7"], "#5 #7"),
        (["#5</consult>", "#7"], "#5#7"),
        (["1<consult:oracle><consult:knowledge>2</consult>", "3"], "13"),
    ],
    ids=["behind a line end", "twice", "not closed", "never opened", "nested"],
)
def test_what_is_asked_is_no_part_of_the_answer(said: list[str], scored: str):
    context = build_context(said, chats={"knowledge": FACT})
    roll(build("knowledge"), context)
    assert context.env.texts == [scored]


def test_a_request_that_nobody_answers_is_no_part_of_the_answer_either():
    context = build_context(["582<consult:knowledge>582+1</consult>#583"], mode=Mode.SOLO)
    roll(build("knowledge"), context)
    assert context.env.texts == ["582#583"]
