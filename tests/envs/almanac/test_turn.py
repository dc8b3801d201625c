"""The almanac's policy with agents at hand: `turn` through the real graph, its agents and their prompts."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo.policies import Sampling
from aipo.policies.scripted import ScriptedPolicy
from aipo.rollout import Task
from aipo.rollout.context import ChatModel, RolloutContext
from aipo.trace import Mode, Role
from envs.almanac import Almanac, agents
from envs.almanac.wording import find_question
from graphs.consult import consult
from graphs.knowledge import knowledge
from graphs.reasoning import reasoning
from graphs.verify import verify
from kit.agents import NAMES, TOKENIZER, build_agent

ENV = Almanac(0)
TASKS = [task for split in ENV.splits() for task in ENV.tasks(split)]
GRAPH = consult(
    agents={
        name: build_agent(factory, name, max_tokens=64)
        for name, factory in zip(NAMES, (verify, knowledge, reasoning), strict=True)
    },
    prompt="almanac.md",
)


def roll(task: Task, mode: Mode = Mode.ASSISTED, **options: float) -> tuple[str, dict[str, float], list[str]]:
    """The text after the prompt, its score, and the agents that replied."""

    def write(context: str) -> str:
        written = context.partition(" first.")[2]
        return ENV.turn(task, written) if mode is Mode.ASSISTED else str(ENV.demonstration(task))

    chats = {name: ChatModel(model=getattr(agents, name)(**options), name=name) for name in NAMES}
    context = RolloutContext(
        task=task,
        mode=mode,
        env=ENV,
        policies={"policy": ScriptedPolicy(TOKENIZER, write)},
        chats=chats,
        sampling=Sampling(max_tokens=500),
        seed=1,
    )
    state = asyncio.run(GRAPH.ainvoke({"segments": []}, context=context))
    written = [s for s in state["segments"] if s.role is not Role.PROMPT]
    text = "".join(TOKENIZER.decode(s.token_ids) for s in written).removesuffix("<eos>")
    return text, state["reward_parts"]["policy"], [c.agent for c in state["consults"] if c.fault is None]


def first(split: str, text: str) -> Task:
    return next(task for task in ENV.tasks(split) if text in task.prompt)


def test_an_unknown_entry_is_looked_up_and_copied() -> None:
    task = ENV.tasks("facts")[0]
    unit, name = ENV.book.unknown[0]
    value, number = ENV.book.value(ENV.book.unknown[0]), task.metadata["number"]
    line = f"{name} has {value} {unit}."
    text = (
        f"<consult:knowledge>{unit} of {name}</consult><feedback:knowledge>{line}</feedback>{line}\n"
        f"{value} + {number} = {value + number}\nAnswer: {value + number}"
    )
    assert roll(task) == (text, {"correct": 1.0, "derivation": 1.0}, ["knowledge"])


@pytest.mark.parametrize(("is_wrong", "reply"), [(True, ""), (False, "right")])
def test_a_sum_is_claimed_and_checked(is_wrong: bool, reply: str) -> None:
    """The claim is wrong as often as right; what follows is right."""
    for task in ENV.tasks("sums"):
        question = find_question(task.prompt)
        assert question is not None
        a, b = question.number, question.operand
        claim = a + b - 10 if is_wrong else a + b
        if f">{a} + {b} = {claim}<" in ENV.turn(task, ""):
            break
    else:
        pytest.fail("no such claim")
    text, score, asked = roll(task)
    line = f"{a} + {b} = {a + b}"
    assert text == (
        f"<consult:verify>{a} + {b} = {claim}</consult><feedback:verify>{reply or line}</feedback>{line}\n"
        f"Answer: {a + b}"
    )
    assert (score, asked) == ({"correct": 1.0, "derivation": 1.0}, ["verify"])


def test_a_rule_is_followed_step_by_step() -> None:
    task = ENV.tasks("rules")[0]
    question = find_question(task.prompt)
    assert question is not None
    rule = ENV.book.rule(question.name)
    turned = rule.turn(question.number)
    one = f"{question.name} turns {question.number} into {turned}."
    two = f"{turned} + {rule.constant} = {turned + rule.constant}"
    ask, reply = "<consult:reasoning>next step</consult>", "<feedback:reasoning>{}</feedback>"
    text = f"{ask}{reply.format(one)}{one}\n{ask}{reply.format(two)}{two}\nAnswer: {turned + rule.constant}"
    assert roll(task) == (text, {"correct": 1.0, "derivation": 1.0}, ["reasoning", "reasoning"])


@pytest.mark.parametrize(
    ("split", "asked"),
    [
        *(("easy", []), ("easy_train", [])),
        *((name, ["knowledge"]) for name in ("facts", "facts_reworded", "practice_facts")),
        *((name, ["verify"]) for name in ("sums", "practice_sums")),
        *((name, ["reasoning"] * 2) for name in ("rules", "practice_rules")),
    ],
)
def test_who_is_asked(split: str, asked: list[str]) -> None:
    assert [roll(task)[2] for task in ENV.tasks(split)[:3]] == [asked] * 3


@settings(max_examples=60)
@given(st.sampled_from(TASKS))
def test_demonstrations_and_assisted_rollouts_are_right(task: Task) -> None:
    for mode in (Mode.SOLO, Mode.ASSISTED):
        text, score, _ = roll(task, mode)
        assert score == {"correct": 1.0, "derivation": 1.0}
    assert ENV.demonstration(task) == roll(task, Mode.SOLO)[0]
    # without consults and replies an assisted rollout is the demonstration
    assert text.endswith(str(ENV.demonstration(task)).rpartition("\n")[2])


@settings(max_examples=30)
@given(st.sampled_from(TASKS))
def test_a_wrong_reply_is_copied_and_found_out(task: Task) -> None:
    _, score, asked = roll(task, error_rate=1.0)
    assert score["derivation"] == float(not asked)


@pytest.mark.parametrize(
    ("split", "reply"),
    [
        ("facts", "I do not understand."),
        ("sums", "I do not understand."),
        ("sums", "Answer: 3"),
        ("rules", "Stuck."),
    ],
)
def test_without_a_reply_the_answer_is_unknown_and_earns_nothing(split: str, reply: str) -> None:
    for tags in (("<notice>", "</notice>"), ("<feedback:verify>", "</feedback>")):
        task = ENV.tasks(split)[0]
        text = ENV.turn(task, tags[0] + reply + tags[1])
        assert text == "Answer: unknown" and ENV.score(task, text)["correct"] == 0.0
    rule = ENV.tasks("rules")[0]
    first = str(ENV.demonstration(rule)).partition("\n")[0]
    asked = ENV.turn(rule, f"<feedback:reasoning>{first}</feedback>")
    assert asked.startswith(f"{first}\n<consult:reasoning>")
    assert ENV.turn(rule, f"<feedback:reasoning>{first}</feedback><notice>No.</notice>") == "Answer: unknown"
