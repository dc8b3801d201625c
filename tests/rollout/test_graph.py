"""The contract of graphs: what is refused, and what the context records."""

import asyncio
import operator
import subprocess
import sys
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.language_models import BaseChatModel, FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from aipo.errors import AgentError, GraphError, PolicyError
from aipo.policies import Completion, SampleRequest, Sampling
from aipo.policies.scripted import ScriptedPolicy
from aipo.rollout.context import ChatModel, RolloutContext, current_visit
from aipo.rollout.graph import RolloutState, check_graph
from aipo.rollout.spec import derive_seed
from aipo.trace import Mode, Role, segment
from kit.agents import FunctionChat, SilentChat
from kit.engines import TOKENIZER, Exam, chain, policies, task


def context(**changes: Any) -> RolloutContext:
    given = {
        "task": task(),
        "mode": Mode.SOLO,
        "env": Exam(),
        "policies": policies("42"),
        "chats": {},
        "sampling": Sampling(max_tokens=10),
        "seed": 7,
    }
    return RolloutContext(**{**given, **changes})


PROMPT = segment(Role.PROMPT, "task", TOKENIZER.encode_prompt("6x7="))


def idle(state: Any) -> dict[str, Any]:
    return {}


def compiled(state: Any = RolloutState, schema: Any = RolloutContext, **settings: Any) -> Any:
    builder = StateGraph(state, context_schema=schema)
    builder.add_sequence([("idle", idle)])
    builder.add_edge(START, "idle")
    return builder.compile(**settings)


# --- check_graph ------------------------------------------------------------------------------------------


def test_a_graph_that_keeps_the_contract_is_given_back():
    class Mine(RolloutState):
        notes: list[str]

    class Context(RolloutContext):
        pass

    graph = compiled(Mine, Context)
    assert check_graph(graph, "mine") is graph


def latest(old: Any, new: Any) -> Any:
    return new


def with_key(name: str, hint: Any) -> Any:
    """A graph whose state has this key in another way, or not at all."""
    hints = {**RolloutState.__annotations__, name: hint}
    return compiled(TypedDict("State", {key: hint for key, hint in hints.items() if hint is not None}))


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (StateGraph(RolloutState), "got StateGraph, allowed a compiled StateGraph"),
        (None, "got NoneType"),
        (with_key("stops", None), "state key 'stops' of graph 'mine': got no such key"),
        (with_key("stops", dict[str, Any]), "state key 'stops' of graph 'mine': got a key without a reducer"),
        (
            with_key("stops", Annotated[dict[str, Any], latest]),
            "got the reducer latest, allowed the reducer operator.or_, as",
        ),
        (
            with_key("segments", Annotated[list[Any], operator.or_]),
            "key 'segments' of graph 'mine': got the reducer or_, allowed the reducer operator.add",
        ),
        (compiled(schema=None), "context_schema of graph 'mine': got None, allowed RolloutContext"),
        (compiled(schema=Sampling), "context_schema of graph 'mine': got"),
        (compiled(checkpointer=InMemorySaver()), "graph 'mine': got a checkpointer"),
        (compiled(cache=InMemoryCache()), "graph 'mine': got a cache, allowed none"),
    ],
)
def test_a_graph_that_breaks_the_contract_is_refused(graph: Any, reason: str):
    with pytest.raises(GraphError) as caught:
        check_graph(graph, "mine")
    assert reason in str(caught.value)


# --- sampling ---------------------------------------------------------------------------------------------


class Spy(ScriptedPolicy):
    """Remembers what it was asked."""

    asked: list[SampleRequest]

    async def sample(self, request: SampleRequest) -> Completion:
        self.asked = [*getattr(self, "asked", []), request]
        return await super().sample(request)


def test_the_policy_sees_its_own_context_and_what_is_left():
    spy = Spy(TOKENIZER, ["<consult:verify>?</consult>", "42"])
    mine = context(
        policies={"policy": spy}, forbidden_ids=(5,), sampling=Sampling(temperature=0.7, max_tokens=20)
    )
    others = segment(Role.PROMPT, "task", [9], policy="bob")
    first, finish = asyncio.run(mine.sample([PROMPT, others], stop=("</consult>",)))
    assert finish == "stop" and TOKENIZER.decode(first.token_ids) == "<consult:verify>?</consult>"
    reply = segment(Role.AGENT, "verify", TOKENIZER.encode("no"))
    second, finish = asyncio.run(mine.sample([PROMPT, others, first, reply], source="again"))
    assert (finish, second.source, second.role, second.policy_version) == ("eos", "again", Role.POLICY, 0)
    one, two = spy.asked
    assert one.token_ids.tolist() == PROMPT.token_ids.tolist()
    assert two.token_ids.tolist() == [*PROMPT.token_ids, *first.token_ids, *reply.token_ids]
    assert one.max_tokens == 20 and two.max_tokens == 20 - 3 - 2
    assert one.stop == ("</consult>",) and two.stop == ()
    assert one.temperature == 0.7 and one.forbidden_ids == (5,)
    assert (one.seed, two.seed) == (derive_seed(7, "policy", 0), derive_seed(7, "policy", 1))


def test_everything_after_the_prompt_counts_as_spent():
    spent = segment(Role.ENV, "notice", [1] * 4)
    other = segment(Role.ENV, "notice", [1] * 4, policy="bob")
    assert context().room([PROMPT]) == 10
    assert context().room([PROMPT, spent, other]) == 6
    assert context().room([PROMPT, spent, other], policy="bob") == 6


@pytest.mark.parametrize(
    ("policy", "spent", "reason"),
    [
        (
            "policy",
            10,
            r"tokens left for 'policy': got 0 of 10 \(rollout.max_tokens\), allowed >= 1, in task 't0'",
        ),
        (
            "policy",
            13,
            r"tokens left for 'policy': got -3 of 10 \(rollout.max_tokens\), allowed >= 1, in task 't0'",
        ),
        ("bob", 0, r"policy: got 'bob', allowed \['policy'\]"),
    ],
)
def test_an_unknown_policy_or_one_without_room_is_an_error(policy: str, spent: int, reason: str):
    full = segment(Role.ENV, "notice", [1] * spent)
    with pytest.raises(PolicyError, match=reason):
        asyncio.run(context().sample([PROMPT, full], policy=policy))


# --- chat calls -------------------------------------------------------------------------------------------


def chatting(model: BaseChatModel) -> RolloutContext:
    return context(chats={"verify": ChatModel(model=model, name="m", settings={"temperature": 0})})


def raises(error: Exception) -> FunctionChat:
    def fail(_: str) -> str:
        raise error

    return FunctionChat(function=fail)


def test_a_chat_call_is_recorded():
    answer = AIMessage("42", usage_metadata={"input_tokens": 5, "output_tokens": 2, "total_tokens": 7})
    mine = chatting(GenericFakeChatModel(messages=iter([answer])))
    said = asyncio.run(mine.chat("verify", [SystemMessage("be short"), HumanMessage("6x7?")]))
    assert said == "42"
    [call] = mine.calls
    assert call.messages == (
        {"role": "system", "content": "be short"},
        {"role": "human", "content": "6x7?"},
    )
    assert (call.agent, call.visit, call.model, call.reply, call.error) == ("verify", "", "m", "42", None)
    assert (call.settings, call.tokens_in, call.tokens_out) == ({"temperature": 0}, 5, 2)
    assert call.started >= 0 and call.seconds >= 0


@pytest.mark.parametrize(
    ("model", "raised", "error"),
    [
        (raises(ConnectionError("refused")), ConnectionError, "ConnectionError: refused"),
        (raises(ValueError("bad \ud800")), ValueError, "ValueError: bad ?"),
        (SilentChat(), TimeoutError, "CancelledError: "),
    ],
)
def test_a_failed_chat_call_is_recorded_and_passed_on(
    model: BaseChatModel, raised: type[Exception], error: str
):
    mine = chatting(model)

    async def main() -> None:
        async with asyncio.timeout(0.05):
            await mine.chat("verify", [HumanMessage("? \ud83d")])

    with pytest.raises(raised):
        asyncio.run(main())
    [call] = mine.calls
    assert (call.messages[0]["content"], call.reply, call.error) == ("? ?", None, error)


def test_half_an_emoji_in_a_reply_is_replaced():
    mine = chatting(FakeListChatModel(responses=["42 \ud83d"]))
    assert asyncio.run(mine.chat("verify", [HumanMessage("?")])) == "42 ?" == mine.calls[0].reply


def test_an_agent_without_a_model_is_an_error():
    with pytest.raises(AgentError, match=r"chat model of agent: got 'verify', allowed \[\]"):
        asyncio.run(context().chat("verify", []))


# --- the rest ---------------------------------------------------------------------------------------------


def test_a_visit_has_an_id_inside_a_node_only():
    seen: list[str] = []

    async def look(state: RolloutState) -> dict[str, Any]:
        seen.append(current_visit())
        return {}

    empty = {"segments": [], "consults": [], "stops": {}, "reward_parts": {}}
    asyncio.run(chain(one=look, two=look).ainvoke(empty, context=context()))
    assert len(set(seen)) == 2 and all(seen)
    assert current_visit() == ""


def test_seeds_depend_on_every_part_and_on_nothing_else():
    parts = [(1, "a"), (1, "b"), (2, "a"), ("a", 1), (1,), (), *((0, i) for i in range(1000))]
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(parts) and all(0 <= seed < 2**63 for seed in seeds)
    code = "from aipo.rollout.spec import derive_seed; print(derive_seed(1, 'a'))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(other.stdout) == seeds[0]
