"""What was sampled stands where it was sampled, unchanged; anything else is a failed rollout that says so."""

from dataclasses import replace
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite, Send, interrupt

from aipo.errors import GraphError
from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState, check_graph
from aipo.trace import Role, Segment, segment
from kit.engines import TOKENIZER, ask, chain, engine, failure, mark, policies, run, spec, texts, think

NOT_SAMPLED = (
    "tokens of 'policy' that were not sampled behind the segments before it, allowed what context.sample()"
)
HINT = segment(Role.ENV, "hint", [5])


def error_of(graph: Any) -> str:
    return str(failure(graph, policies=policies("42", "43", "44")).error)


async def hint(state: RolloutState) -> dict[str, Any]:
    return {"segments": [HINT]}


async def without_the_hint(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    piece, finish = await runtime.context.sample([s for s in state["segments"] if s.source != "hint"])
    return {"segments": [piece], "stops": {"policy": finish}}


def changing(change: Any) -> Any:
    async def node(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        piece, finish = await runtime.context.sample(state["segments"])
        return {"segments": change(state["segments"], piece), "stops": {"policy": finish}}

    return node


def part(piece: Segment, tokens: slice) -> Segment:
    return replace(piece, token_ids=piece.token_ids[tokens], logprobs=piece.logprobs[tokens], entropies=None)


def sampled(change: Any) -> Any:
    """A graph whose node changes what it has sampled."""
    return chain(ask=ask, think=changing(change), mark=mark)


def sampled_later(change: Any) -> Any:
    """`sampled`, by a second node."""
    return chain(ask=ask, think=think, again=changing(change), mark=mark)


def at_the_same_time() -> Any:
    graph = StateGraph(RolloutState, context_schema=RolloutContext)
    for name, node in (("ask", ask), ("left", think), ("right", think), ("mark", mark)):
        graph.add_node(name, node)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "left")
    graph.add_edge("ask", "right")
    graph.add_edge(["left", "right"], "mark")
    return graph.compile()


# --- every other way of LangGraph's to write a state -------------------------------------------------------------


async def appends(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    state["segments"].append(HINT)
    return {}


async def turns_over(state: RolloutState) -> dict[str, Any]:
    state["segments"].reverse()
    return {}


async def loses_the_prompt(state: RolloutState) -> dict[str, Any]:
    del state["segments"][0]
    return {}


async def overwrites(state: RolloutState) -> dict[str, Any]:
    return {"segments": Overwrite([HINT, *state["segments"]])}


async def returns_everything(state: RolloutState) -> dict[str, Any]:
    return {**state}


async def commands_everything(state: RolloutState) -> Command[Any]:
    return Command(update=dict(state))


async def fan_out(state: RolloutState) -> list[Send]:
    return [Send("think", state), Send("think", state)]


def fanned() -> Any:
    graph = StateGraph(RolloutState, context_schema=RolloutContext)
    for name, node in (("ask", ask), ("think", think), ("mark", mark)):
        graph.add_node(name, node)
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", fan_out, ["think"])
    graph.add_edge("think", "mark")
    return graph.compile()


NOT_AS_SAMPLED = {
    "cut": (sampled(lambda _, p: [part(p, slice(1))]), 1),
    "in two halves": (sampled(lambda _, p: [part(p, slice(1)), part(p, slice(1, None))]), 1),
    "with other log-probs": (sampled(lambda _, p: [replace(p, logprobs=p.logprobs - 1)]), 1),
    "of another version": (sampled(lambda _, p: [replace(p, policy_version=7)]), 1),
    "other tokens": (sampled_later(lambda _, p: [p, replace(p, token_ids=p.token_ids[::-1].copy())]), 3),
    "twice": (sampled(lambda _, p: [p, p]), 2),
    "behind what was put in front of it": (sampled(lambda _, p: [HINT, p]), 2),
    "without a hint that stands there": (chain(ask=ask, hint=hint, think=without_the_hint, mark=mark), 2),
    "by two nodes at the same time": (at_the_same_time(), 2),
    "by the same node twice at once": (fanned(), 2),
    "in a sub-graph that has the same segments": (chain(ask=ask, sub=chain(think=think), mark=mark), 2),
    "with the whole state": (sampled(lambda segments, p: [*segments, p]), 2),
    "and a whole state at the end": (chain(ask=ask, think=think, mark=mark, all=returns_everything), 3),
    "and a prompt deleted": (chain(ask=ask, again=ask, think=think, lose=loses_the_prompt, mark=mark), 1),
}


@pytest.mark.parametrize("how", NOT_AS_SAMPLED)
def test_what_does_not_stand_as_it_was_sampled_is_refused(how: str):
    graph, index = NOT_AS_SAMPLED[how]
    error = error_of(graph)
    assert f"segment {index} of the context of policy 'policy': got " in error and NOT_SAMPLED in error


AGAIN = "segment 1 of the context of policy 'policy': got the prompt once more"
CHANGED = {
    "a whole state before sampling": (chain(ask=ask, all=returns_everything, think=think, mark=mark), AGAIN),
    "a whole state by a command": (chain(ask=ask, all=commands_everything, think=think, mark=mark), AGAIN),
    "a whole state by a sub-graph": (chain(ask=ask, sub=chain(hint=hint), think=think, mark=mark), AGAIN),
    "overwritten": (chain(ask=ask, think=think, over=overwrites, mark=mark), "first segment: got 'env'"),
    "turned over": (chain(ask=ask, think=think, hint=hint, turn=turns_over, mark=mark), "first segment: got 'env'"),
    "another policy's": (sampled(lambda _, p: [replace(p, policy="other")]), "policies of segments: got ['policy', "),
    "another role's": (sampled_later(lambda _, p: [replace(p, role=Role.ENV)]), "got the role env for 3 tokens"),
    "an agent's": (sampled_later(lambda _, p: [replace(p, role=Role.AGENT)]), "got the role agent for 3 tokens"),
}  # fmt: skip


@pytest.mark.parametrize("how", CHANGED)
def test_a_state_that_is_not_only_added_to_is_refused(how: str):
    graph, says = CHANGED[how]
    assert says in error_of(graph)


async def command(state: RolloutState, runtime: Runtime[RolloutContext]) -> Command[Any]:
    return Command(update=await think(state, runtime), goto="mark")


AS_SAMPLED = {
    "a command that adds": chain(ask=ask, think=command, mark=mark),
    "a hint appended in place": chain(ask=ask, hint=appends, think=think, mark=mark),
    "the same hint twice": chain(ask=ask, hint=hint, think=think, again=hint, more=think, mark=mark),
    "prompts in parts": chain(ask=ask, more=ask, think=think, mark=mark),
}


@pytest.mark.parametrize("how", AS_SAMPLED)
def test_a_state_that_is_added_to_is_fine(how: str):
    [trace] = run(AS_SAMPLED[how], policies=policies("4", "42"))
    assert trace.error is None


def test_turns_with_text_of_others_in_between_are_fine():
    graph = chain(ask=ask, think=think, hint=hint, again=think, mark=mark)
    [trace] = run(graph, policies=policies("4", "42"))
    assert not trace.failed
    assert texts(trace)[1:] == ["policy: 4<eos>", f"env: {TOKENIZER.decode([5])}", "policy: 42<eos>"]


# --- graphs that stop on their way --------------------------------------------------------------------------


async def asks_a_person(state: RolloutState) -> dict[str, Any]:
    return interrupt("what is 6x7?")


async def lost(state: RolloutState) -> Command[Any]:
    return Command(goto="nowhere")


def test_a_node_that_asks_a_person_is_named():
    error = error_of(chain(ask=ask, person=asks_a_person, think=think, mark=mark))
    assert error == (
        "GraphError: node 'person': got interrupt('what is 6x7?'), allowed a node that runs to its end: "
        "nobody answers in a rollout"
    )


def test_a_graph_that_ends_too_early_says_where():
    error = error_of(chain(ask=ask, think=think, lost=lost))
    assert "(the graph ended after node 'lost'; a goto=... to a node that is not there ends it, too)" in error


@pytest.mark.parametrize("setting", ["interrupt_before", "interrupt_after"])
def test_a_graph_that_is_compiled_to_pause_is_refused(setting: str):
    graph = chain(ask=ask).builder.compile(**{setting: ["ask"]})
    with pytest.raises(
        GraphError, match=rf"{setting} of graph 'g': got \['ask'\], allowed none in a rollout"
    ):
        check_graph(graph, "g")


@pytest.mark.parametrize("setting", ["interrupt_before", "interrupt_after"])
def test_a_sub_graph_that_pauses_is_told_of_only_where_it_is_called(setting: str):
    class State(TypedDict):
        text: str

    async def inner(state: State) -> State:
        return state

    built = StateGraph(State).add_node("inner", inner).add_edge(START, "inner")
    modes = {"auto": built.compile(), "human": built.compile(**{setting: ["inner"]})}

    def calling(mode: str) -> Any:
        async def node(state: RolloutState) -> dict[str, Any]:
            await modes[mode].ainvoke({"text": ""})
            return {}

        return node

    auto = check_graph(chain(ask=ask, agent=calling("auto"), think=think, mark=mark), "g")
    [trace] = run(auto, policies=policies("42"))
    assert not trace.failed
    human = check_graph(chain(ask=ask, agent=calling("human"), think=think, mark=mark), "g")
    assert error_of(human) == (
        "GraphError: sub-graph (in node agent): got interrupt_before or interrupt_after, at which it paused, allowed "
        "none in a rollout"
    )


def test_an_exit_in_a_node_is_told_with_its_place():
    async def leaves(state: RolloutState) -> dict[str, Any]:
        raise SystemExit(3)

    with pytest.raises(
        GraphError, match=r"code of a rollout: got sys.exit\(3\), .* in .*test_sampled_contexts.py:\d+"
    ):
        engine(chain(ask=ask, leaves=leaves)).run_sync([spec()], lambda trace: None)


def test_one_text_to_stop_at_is_one_text():
    """Not one text for each of its characters."""

    async def until(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        piece, _ = await runtime.context.sample(state["segments"], stop="45")
        return {"segments": [piece]}

    [trace] = run(chain(ask=ask, until=until, mark=mark), policies=policies("4245"))
    assert texts(trace)[1:] == ["policy: 4245"]
