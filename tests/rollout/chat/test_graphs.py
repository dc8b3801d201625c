"""Graphs of the user's own: what runs as it is, and what is refused by name."""

import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.cache.memory import InMemoryCache as NodeCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, RetryPolicy, Send, interrupt

from aipo.errors import AgentError, AipoError, ConfigError
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy
from aipo.rollout import policy_chat
from aipo.rollout.chat.graph import rollout_graph
from aipo.rollout.chat.settings import DEFAULTS, ChatGraphSettings
from aipo.trace import Role, Trace, histories
from kit import engines
from kit.chat_agents import add, calculator, calling, chat_run, messages_graph, tool_tokenizer, written

SETTINGS = DEFAULTS


async def answers(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await policy_chat().ainvoke(state["messages"])]}


class Plan(TypedDict):
    """The state of a plan-and-execute graph: no messages."""

    question: str
    steps: list[str]
    notes: Annotated[list[str], operator.add]
    result: dict[str, str]


async def plan(state: Plan) -> Command[str]:
    said = await policy_chat().ainvoke([HumanMessage(f"plan {state['question']}")])
    return Command(
        goto=[Send("work", {"step": step}) for step in str(said.text).split()], update={"steps": []}
    )


async def work(state: dict[str, str]) -> dict[str, Any]:
    return {"notes": [str((await policy_chat().ainvoke(f"work on {state['step']}")).text)]}


async def sum_up(state: Plan) -> dict[str, Any]:
    said = await policy_chat().ainvoke(f"sum up {' '.join(sorted(state['notes']))}")
    return {"result": {"text": str(said.text)}}


def planner() -> Any:
    graph = StateGraph(Plan)
    graph.add_node("plan", plan, destinations=("work",))
    graph.add_node("work", work)
    graph.add_node("sum_up", sum_up)
    graph.add_edge(START, "plan")
    graph.add_edge("work", "sum_up")
    graph.add_edge("sum_up", END)
    return graph.compile()


def planned(context: str) -> str:
    if "plan" in context:
        return "left right up"
    return "42" if "sum up" in context else "did " + context.split("work on ")[1].split("<")[0]


PLAN = {"question": "question", "answer": "result"}


def test_plan_and_execute_with_parallel_branches_has_a_row_for_each_call():
    [trace] = chat_run(planner(), planned, chat=PLAN)
    assert (trace.error, trace.reward_parts["correct"]) == (None, 1.0)
    replies = [
        (source, history, text) for role, source, history, text in written(trace.segments) if role == "policy"
    ]
    assert replies == [
        ("plan", 0, "left right up<|im_end|>"),
        ("work", 1, "did left<|im_end|>"),
        ("work", 2, "did right<|im_end|>"),
        ("work", 3, "did up<|im_end|>"),
        ("sum_up", 4, "42<|im_end|>"),
    ]
    assert [len(history) for history in histories(trace.segments)] == [2] * 5


def test_the_answer_can_be_a_function_of_the_last_state():
    [trace] = chat_run(planner(), planned, chat=PLAN | {"answer": f"{__file__}:best_note"})
    assert trace.reward_parts["correct"] == 0.0 and trace.task["answer"] == "42"


def best_note(state: Plan) -> str:
    assert sorted(state["notes"]) == ["did left", "did right", "did up"]
    return state["notes"][0]


def supervisor(**compiled: Any) -> Any:
    """Two agents as sub-graphs, each with a history of its own, and a node that speaks last."""
    graph = StateGraph(MessagesState)
    graph.add_node("adder", calculator(system="You add."))
    graph.add_node("critic", messages_graph(judge=answers))
    graph.add_edge(START, "adder")
    graph.add_edge("adder", "critic")
    graph.add_edge("critic", END)
    return graph.compile(**compiled)


def supervised(context: str) -> str:
    if "You add." not in context:
        return "42 is right"
    return "42" if "<tool_response>" in context else calling("add", '{"a": 1, "b": 41}')


def test_sub_graphs_speak_under_their_names_and_other_nodes_can_be_agents():
    chat = {"policy_nodes": ["adder"], "agent_tools": ["add"]}
    [trace] = chat_run(supervisor(), supervised, chat=chat)
    assert trace.error is None
    assert [s[:3] for s in written(trace.segments)] == [
        ("prompt", "chat", 0),
        ("policy", "adder/think", 0),
        ("agent", "add", 0),
        ("policy", "adder/think", 0),
        ("prompt", "chat", 1),  # without the adder's system prompt: another history
        ("agent", "critic/judge", 1),
    ]
    assert trace.sampling["chat_forks"] == ["message 0 (human) differs"]


def test_an_auxiliary_call_is_recorded_and_never_trained():
    [trace] = chat_run(supervisor(), supervised, chat={"untrained_nodes": ["critic"]})
    [*_, last] = trace.segments
    assert (last.role, last.source, last.logprobs is not None) == (Role.ENV, "critic/judge", True)


@pytest.mark.parametrize(
    ("graph", "error"),
    [
        (messages_graph(a=lambda state: {"messages": [interrupt("sure?")]}), "got interrupt('sure?'), allowed a node that runs"),
        (
            messages_graph(a=lambda state: Command(graph=Command.PARENT, goto="x")),
            "got Command(graph=Command.PARENT) of the outermost graph",
        ),
        (
            messages_graph(a=lambda state: {"messages": [AIMessage("42")]}),
            "calls of policy_chat: got none in the whole graph, allowed 1 or more: the graph's model has to be policy_chat(...)",
        ),
    ],
)  # fmt: skip
def test_what_ends_a_rollout(graph: Any, error: str):
    [trace] = chat_run(graph, ["42"])
    assert trace.failed and error in str(trace.error)


def failing(**call: Any) -> Any:
    async def node(state: MessagesState) -> dict[str, Any]:
        first = await policy_chat().ainvoke(state["messages"])
        return {
            "messages": [
                await policy_chat().bind(**call).ainvoke([*state["messages"], first, HumanMessage("and?")])
            ]
        }

    return messages_graph(node=node)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"temperature": 0.0}, "settings of a call: got ['temperature'], allowed"),
        ({"top_k": 1}, "settings of a call: got ['top_k'], allowed"),
    ],
)
def test_a_failed_rollout_keeps_what_the_policy_wrote(call: Any, error: str):
    [trace] = chat_run(failing(**call), ["42"])
    assert trace.failed and error in str(trace.error) and "(in node graph/node)" in str(trace.error)
    assert [s.role for s in trace.segments] == [Role.PROMPT, Role.POLICY]


def test_a_tool_that_hangs_ends_the_rollout_at_its_deadline_and_names_the_node():
    async def hangs(a: int) -> str:
        """Hangs."""
        import asyncio

        await asyncio.Event().wait()
        return ""

    [trace] = chat_run(calculator([hangs]), [calling("hangs", '{"a": 1}')], deadline=3.0)
    assert trace.stop_reason == "deadline" and "(in node graph/tools)" in str(trace.error)
    assert [s.role for s in trace.segments] == [Role.PROMPT, Role.POLICY]


def test_a_tool_that_raises_is_told_to_the_policy_or_ends_the_rollout_as_langgraph_has_it():
    def breaks(a: int) -> int:
        """Breaks."""
        raise ValueError(f"no {a}")

    [trace] = chat_run(calculator([breaks]), [calling("breaks", '{"a": 1}')])
    assert trace.failed and "ValueError: no 1" in str(trace.error)
    assert [s.role for s in trace.segments] == [Role.PROMPT, Role.POLICY]


@pytest.mark.parametrize(
    "part",
    [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "image", "url": "x"}, {"type": "audio"}],
)
def test_images_are_refused(part: dict[str, Any]):
    async def node(state: MessagesState) -> dict[str, Any]:
        return {
            "messages": [await policy_chat().ainvoke([HumanMessage([{"type": "text", "text": "see"}, part])])]
        }

    [trace] = chat_run(messages_graph(node=node), ["42"])
    assert f"part: got {part['type']!r}, allowed text, in a message of kind 'human' to policy_chat" in str(
        trace.error
    )


def test_checkpointers_and_stores_are_new_in_each_rollout():
    store = InMemoryStore()
    store.put(("facts",), "a", {"text": "given"})

    async def node(state: MessagesState, runtime: Runtime[None]) -> dict[str, Any]:
        assert runtime.store is not None
        assert [item.key for item in runtime.store.search(("facts",))] == ["a"]
        assert len(state["messages"]) == 1
        runtime.store.put(("facts",), "b", {})
        return await answers(state)

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    traces = chat_run(graph.compile(checkpointer=InMemorySaver(), store=store), ["42"], 3)
    assert [trace.error for trace in traces] == [None] * 3
    assert [item.key for item in store.search(("facts",))] == ["a"]


@dataclass
class Reader:
    """A graph's own context."""

    name: str
    age: int = 3


def with_context() -> Any:
    async def node(state: MessagesState, runtime: Runtime[Reader]) -> dict[str, Any]:
        assert runtime.context == Reader("Ada", 3)
        return await answers(state)

    graph = StateGraph(MessagesState, context_schema=Reader)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    return graph.compile()


def test_a_graph_has_its_own_context():
    [trace] = chat_run(with_context(), ["42"], chat={"context": {"name": "Ada"}})
    assert trace.error is None


class OtherSaver(InMemorySaver.__mro__[1]):  # type: ignore[misc]
    """A checkpointer that is not in memory."""


@pytest.mark.parametrize(
    ("graph", "settings", "error"),
    [
        (lambda: 7, {}, "got int, allowed a compiled StateGraph"),
        (planner, {}, "state of graph 'mine': got the keys ['notes', 'question', 'result', 'steps'], allowed `messages`, a key"),
        (planner, {"question": "question"}, "a key that graph.chat.answer names"),
        (with_context, {}, "graph.chat.context: got {}, allowed fields of Reader"),
        (supervisor, {"context": {"a": 1}}, "graph.chat.context: got {'a': 1}, allowed none: the graph has no context_schema"),
        (lambda: supervisor(cache=NodeCache()), {}, "cache: got 'InMemoryCache', allowed none: a rollout would get what another one sampled, in graph 'mine'"),
        (lambda: supervisor(interrupt_before=["critic"]), {}, "interrupt_before of graph 'mine': got"),
        (lambda: supervisor(checkpointer=OtherSaver()), {}, "checkpointer: got 'OtherSaver', allowed none or, of the outermost graph, InMemorySaver"),
        (engines.chain, {"answer": "x"}, "graph.chat: got settings with graph 'mine', whose state is a RolloutState"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_rollout_is_refused_before_anything_runs(graph: Any, settings: Any, error: str):
    made = engines.chain(ask=engines.ask) if graph is engines.chain else graph()
    with pytest.raises(AipoError) as raised:
        rollout_graph(made, "mine", ChatGraphSettings(**settings))
    assert error in str(raised.value)


def test_a_graph_that_keeps_the_contract_is_taken_as_it_is():
    graph = engines.chain(ask=engines.ask, think=engines.think, mark=engines.mark)
    assert rollout_graph(graph, "mine", SETTINGS) is graph


def test_langchains_cache_never_answers_for_the_policy():
    set_llm_cache(InMemoryCache())
    try:
        traces = chat_run(messages_graph(node=answers), ["42"], 2)
    finally:
        set_llm_cache(None)
    assert [[s.role for s in trace.segments] for trace in traces] == [[Role.PROMPT, Role.POLICY]] * 2
    with pytest.raises(ValueError, match="cache"):
        policy_chat().model_validate({"policy": "policy", "cache": True})


def test_a_node_that_is_tried_again_asks_again():
    tries: list[int] = []

    async def node(state: MessagesState) -> dict[str, Any]:
        answer = await answers(state)
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("lost")
        return answer

    graph = StateGraph(MessagesState)
    graph.add_node("node", node, retry_policy=RetryPolicy(initial_interval=0.01))
    graph.add_edge(START, "node")
    [trace] = chat_run(graph.compile(), ["42"])
    assert trace.error is None and len(histories(trace.segments)) == 2


def test_streaming_and_structured_output():
    from pydantic import BaseModel

    class Verdict(BaseModel):
        """A verdict."""

        right: bool

    async def node(state: MessagesState) -> dict[str, Any]:
        model: Any = policy_chat().with_structured_output(Verdict)
        verdict = await model.ainvoke(state["messages"])
        assert verdict == Verdict(right=True)
        return {"messages": [chunk async for chunk in policy_chat().astream([HumanMessage("go on")])]}

    def words(context: str) -> str:
        return "42" if "go on" in context else calling("Verdict", '{"right": true}')

    [trace] = chat_run(messages_graph(node=node), words)
    assert (trace.error, trace.reward_parts["correct"]) == (None, 1.0)


def test_a_model_without_a_chat_template_is_refused():
    policy = ScriptedPolicy(CharTokenizer(), ["42"])
    trace: Trace
    [trace] = chat_run(messages_graph(node=answers), ["42"], policies={"policy": policy})
    assert "chat template of policy 'policy': got none (CharTokenizer), allowed a model with one" in str(
        trace.error
    )
    tokenizer = tool_tokenizer("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    [trace] = chat_run(calculator(), ["42"], tokenizer=tokenizer)
    assert "got a chat template whose tool calls nobody can read" in str(trace.error)


def test_other_policies_and_calls_outside_of_a_rollout_are_refused():
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await policy_chat("other").ainvoke(state["messages"])]}

    [trace] = chat_run(messages_graph(node=node), ["42"])
    assert "policy of policy_chat: got 'other', allowed ['policy'], in this run" in str(trace.error)
    with pytest.raises(AgentError, match="got a call outside of a rollout"):
        policy_chat().invoke("hello")
    with pytest.raises(ConfigError, match="max_tokens: got 0, allowed 1 or more"):
        policy_chat(max_tokens=0)
    with pytest.raises(ConfigError, match="tool_choice: got 'none'"):
        policy_chat().bind_tools([add], tool_choice="none")
