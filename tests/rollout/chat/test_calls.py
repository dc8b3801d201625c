"""Calls of the policy as a chat model: what was sampled stays, what is new is rendered, and every call is matched."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import MessagesState

from aipo.rollout import policy_chat
from aipo.trace import Role, Trace, histories
from kit.chat_agents import add, calculator, calling, chat_run, messages_graph, tool_tokenizer, written

CALL = calling("add", '{"a": 1, "b":41}', thinking="hm")
ANSWER = "<think>\nok\n</think>\n\n42"
TOLD = "\n<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


def script(context: str) -> str:
    return ANSWER if "42\n</tool_response>" in context else CALL


def counts(trace: Trace) -> dict[str, float]:
    return {name.removeprefix("chat_"): count for name, count in trace.sampling["notes"].items() if count}


def test_an_agent_with_tools_is_one_history_and_nothing_sampled_is_rendered_again():
    [trace] = chat_run(calculator(), script)
    assert (trace.stop_reason, trace.error, trace.reward_parts["correct"]) == ("eos", None, 1.0)
    prompt, *rest = written(trace.segments)
    assert prompt[:3] == ("prompt", "chat", 0)
    assert prompt[3].startswith("<|im_start|>system\nBe short.\n\n# Tools\n")
    assert prompt[3].endswith("<|im_start|>user\n6x7=<|im_end|>\n<|im_start|>assistant\n")
    assert rest == [
        ("policy", "think", 0, f"{CALL}<|im_end|>"),  # thinking too, which the template would leave out later
        ("env", "add", 0, TOLD),
        ("policy", "think", 0, "<think>\nok\n</think>\n\n42<|im_end|>"),
    ]
    assert counts(trace) == {"began": 1.0, "clean": 1.0}
    assert [visit.path for visit in trace.visits] == [
        "graph",
        "graph/think",
        "graph/tools",
        "graph/think",
        "score",
    ]


def test_the_first_prompt_is_what_the_template_says():
    [trace] = chat_run(calculator(), script)
    from langchain_core.utils.function_calling import convert_to_openai_tool

    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "6x7="}]
    text = tool_tokenizer().chat_text(messages, tools=[convert_to_openai_tool(add)])
    assert trace.segments[0].token_ids.tolist() == tool_tokenizer().encode(text, control=True)


def seen_by(change: Callable[[list[BaseMessage]], list[BaseMessage]]) -> Trace:
    [trace] = chat_run(calculator(change=change), script)
    assert not trace.failed, trace.error
    return trace


def reworded(messages: list[BaseMessage]) -> list[BaseMessage]:
    """A copy of each AI message, with other spaces and another id."""
    copies = [
        AIMessage(f" {m.text}\n", tool_calls=m.tool_calls) if isinstance(m, AIMessage) else m
        for m in messages
    ]
    return copies


def test_a_message_in_another_form_has_its_recorded_ids():
    trace = seen_by(reworded)
    assert counts(trace) == {"began": 1.0, "realigned": 1.0}
    assert written(trace.segments)[1:] == written(seen_by(list).segments)[1:]


def question_changed(messages: list[BaseMessage]) -> list[BaseMessage]:
    return [HumanMessage("7x6="), *messages[1:]] if len(messages) > 1 else messages


def question_dropped(messages: list[BaseMessage]) -> list[BaseMessage]:
    return messages[1:] if len(messages) > 1 else messages


def turned_round(messages: list[BaseMessage]) -> list[BaseMessage]:
    return [*messages[1:], messages[0]]


def answer_edited(messages: list[BaseMessage]) -> list[BaseMessage]:
    return [m.model_copy(update={"content": "edited"}) if isinstance(m, AIMessage) else m for m in messages]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (question_changed, "message 1 (human) differs"),
        (question_dropped, "message 1 (ai) differs"),
        (turned_round, "message 1 (ai) differs"),
        (answer_edited, "message 2 (ai) differs"),
    ],
)
def test_another_message_than_recorded_begins_another_history_and_is_named(change: Any, why: str):
    trace = seen_by(change)
    assert counts(trace) == {"began": 1.0, "forked": 1.0}
    assert trace.sampling["chat_forks"] == [why]
    first, second = histories(trace.segments)
    assert [s.role for s in first] == [s.role for s in second] == [Role.PROMPT, Role.POLICY]
    assert written(second)[1][3] == "<think>\nok\n</think>\n\n42<|im_end|>"
    assert "42\n</tool_response>" in written(second)[0][3]


def test_other_tools_begin_another_history():
    async def first(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await policy_chat().bind_tools([add]).ainvoke(state["messages"])]}

    async def second(state: MessagesState) -> dict[str, Any]:
        told = ToolMessage("42", tool_call_id=state["messages"][-1].tool_calls[0]["id"], name="add")  # type: ignore[union-attr]
        return {"messages": [told, await policy_chat().ainvoke([*state["messages"], told])]}

    [trace] = chat_run(messages_graph(first=first, second=second), script)
    assert trace.sampling["chat_forks"] == ["other tools"]


def test_two_calls_at_one_place_share_its_context_and_train_it_once():
    async def think(state: MessagesState) -> dict[str, Any]:
        start = [*state["messages"], await policy_chat().ainvoke(state["messages"])]
        for word in ("left", "right"):
            answer = await policy_chat().ainvoke([*start, HumanMessage(word)])
        return {"messages": [answer]}

    def words(context: str) -> str:
        return "first" if "first" not in context else f"42 {'left' if 'left' in context else 'right'}"

    [trace] = chat_run(messages_graph(think=think), words)
    assert counts(trace) == {"began": 1.0, "clean": 2.0}
    left, right = histories(trace.segments)
    assert [s[:2] for s in written(left)] == [
        ("prompt", "chat"), ("policy", "think"), ("env", "human"), ("policy", "think")
    ]  # fmt: skip
    assert [s[:2] for s in written(right)] == [("prompt", "chat"), ("policy", "think")]
    shared = np.concatenate([s.token_ids for s in left[:2]])
    assert np.array_equal(right[0].token_ids[: len(shared)], shared)
    assert written(right)[1][3] == "42 right<|im_end|>"


def test_the_same_call_twice_has_two_seeds_whatever_ends_first():
    seeds: list[int] = []

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [(await policy_chat().abatch([state["messages"]] * 2))[0]]}

    from dataclasses import replace

    from kit.chat_agents import chat_engine
    from kit.engines import specs

    engine = chat_engine(messages_graph(think=think), ["42"])
    policy: Any = engine.policies["policy"]
    sample = policy.sample

    async def noted(request: Any) -> Any:
        seeds.append(request.seed)
        return await sample(request)

    policy.sample = noted
    for _ in range(2):
        replace(engine).run_sync(specs(1), lambda trace: None)
    assert len(set(seeds[:2])) == 2
    assert seeds[:2] == seeds[2:]


@pytest.mark.parametrize("sync", [True, False])
def test_nodes_may_wait_in_threads(sync: bool):
    def waits(state: MessagesState) -> dict[str, Any]:
        return {"messages": [policy_chat().invoke(state["messages"])]}

    async def blocks(state: MessagesState) -> dict[str, Any]:
        return waits(state)

    [trace] = chat_run(messages_graph(think=waits if sync else blocks), ["42"])
    assert trace.stop_reason == ("eos" if sync else "error")
    assert sync or "got `invoke` in an async function" in str(trace.error)


def test_a_limit_of_one_call_and_stop_strings():
    async def think(state: MessagesState) -> dict[str, Any]:
        short = await policy_chat(max_tokens=3).ainvoke(state["messages"])
        rest = await policy_chat(stop=["4"]).ainvoke([*state["messages"], short, HumanMessage("go on")])
        assert (short.response_metadata["finish_reason"], rest.response_metadata["finish_reason"]) == (
            "length",
            "stop",
        )
        return {"messages": [rest]}

    def words(context: str) -> str:
        return "42" if "go on" in context else "a long word"

    [trace] = chat_run(messages_graph(think=think), words)
    assert not trace.failed, trace.error
    # What was cut has no end of its own: the template's is put behind it.
    assert [text for *_, text in written(trace.segments)[1:]] == [
        "a l",
        "<|im_end|>\n<|im_start|>user\ngo on<|im_end|>\n<|im_start|>assistant\n",
        "4",
    ]


def test_where_no_room_is_left_the_reply_is_empty_and_the_rollout_ends_by_length():
    from aipo.policies import Sampling

    room = len(tool_tokenizer().encode(CALL, control=True)) + 10  # less than the tool's result
    [trace] = chat_run(calculator(), script, sampling=Sampling(max_tokens=room))
    assert (trace.stop_reason, trace.reward_parts["correct"]) == ("length", 0.0)
    assert [s.role for s in trace.segments] == [Role.PROMPT, Role.POLICY]


def test_a_tool_call_that_cannot_be_read_is_a_recorded_fault_and_the_graph_decides():
    seen: list[BaseMessage] = []

    async def think(state: MessagesState) -> dict[str, Any]:
        model = policy_chat().bind_tools([add])
        seen.append(await model.ainvoke(state["messages"]))
        return {"messages": seen}

    [trace] = chat_run(messages_graph(think=think), ['<tool_call>\n{"name": "add", "arg\n</tool_call>'])
    assert not trace.failed
    assert counts(trace) == {"began": 1.0, "faults": 1.0}
    [call] = seen[0].invalid_tool_calls  # type: ignore[attr-defined]
    assert "could not parse region as JSON" in call["error"]
    assert '{"name": "add"' in seen[0].text


def test_text_that_spells_control_tokens_is_plain_text():
    async def think(state: MessagesState) -> dict[str, Any]:
        start = [SystemMessage("s"), HumanMessage("<|im_end|>")]
        first = await policy_chat().ainvoke(start)
        last = await policy_chat().ainvoke(
            [*start, first, HumanMessage("a<|im_start|>b"), AIMessage("<tool_call>")]
        )
        return {"messages": [last]}

    [trace] = chat_run(messages_graph(think=think), lambda context: "42")
    end, start, tag = (tool_tokenizer().token_id(t) for t in ("<|im_end|>", "<|im_start|>", "<tool_call>"))
    prompt, _, told, agent, _ = (s.token_ids.tolist() for s in trace.segments)
    assert prompt.count(end) == 2 and prompt.count(start) == 3  # those of the template, as is its question
    assert told.count(start) == 1 and tag not in agent
    assert written(trace.segments)[2][3] == "\n<|im_start|>user\na<|im_start|>b<|im_end|>\n"
    assert [(s.role, s.source) for s in trace.segments][2:4] == [(Role.ENV, "human"), (Role.AGENT, "ai")]


def test_a_call_without_a_new_message_begins_another_turn():
    async def think(state: MessagesState) -> dict[str, Any]:
        first = await policy_chat().ainvoke(state["messages"])
        return {"messages": [await policy_chat().ainvoke([*state["messages"], first])]}

    [trace] = chat_run(messages_graph(think=think), ["4", "2"])
    assert [text for *_, text in written(trace.segments)[1:]] == [
        "4<|im_end|>", "\n<|im_start|>assistant\n", "2<|im_end|>"
    ]  # fmt: skip
