"""The almanac's agents: what they reply, how often they err, what they report of themselves."""

import asyncio
from math import sqrt

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage

from aipo.errors import ConfigError
from aipo.rollout.prompt import Prompt
from envs.almanac import Book
from envs.almanac.agents import knowledge, reasoning, verify
from envs.almanac.wording import read_line
from envs.rules import LOST
from graphs.solo import PROMPTS

BOOK = Book.draw(0)
ENTRY = next(entry for entry in BOOK.unknown if entry.unit == "steps")
VALUE = BOOK.value(ENTRY)
FACT = f"{ENTRY.name} has {VALUE} steps."
NEVER_LEARNED = BOOK.rules[0]
RULE = BOOK.rule(NEVER_LEARNED)
TURNED = f"{NEVER_LEARNED} turns 123 into {RULE.turn(123)}."
TOTAL = RULE.turn(123) + RULE.constant
FACTORIES = (knowledge, verify, reasoning)


def ask(agent: BaseChatModel, prompt: str, step: str, **payload: str) -> str:
    """The reply to the shipped prompt, rendered as the agent's graph renders it."""
    message = Prompt.load(PROMPTS / f"{prompt}.md").render(step, **{"question": "", "context": "", **payload})
    return str(asyncio.run(agent.ainvoke([HumanMessage(message)])).text)


def look_up(agent: BaseChatModel, request: str, question: str = "") -> str:
    return ask(agent, "knowledge", "answer", request=request, question=question)


def check(agent: BaseChatModel, claim: str, question: str = "") -> str:
    return ask(agent, "verify", "check", request=claim, claim=claim, question=question)


def go_on(agent: BaseChatModel, question: str, context: str = "") -> str:
    return ask(agent, "reasoning", "next", request="next step", question=question, context=context)


def test_knowledge_knows_the_whole_almanac() -> None:
    agent = knowledge(seed=0)
    for entry in BOOK.entries[::20]:
        said = look_up(agent, f"{entry.unit} of {entry.name}")
        assert said == f"{entry.name} has {BOOK.value(entry)} {entry.unit}."


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (f"steps of {ENTRY.name}", FACT),
        (f"How many steps has the lighthouse of {ENTRY.name.upper()}?", FACT),
        (f"the lighthouse of {ENTRY.name}", FACT),
        (ENTRY.name, FACT),
        (f"boats of {ENTRY.name}", LOST),
        ("steps of Nowhere", LOST),
        (f"rule of {NEVER_LEARNED}", LOST),
        (f"steps of {ENTRY.name} and {BOOK.known[0].name}, {BOOK.known[0].unit}", LOST),
        ("47 + 8 = 55", LOST),
        ("", LOST),
    ],
)
def test_knowledge_reads_a_request_as_a_person_would(request_: str, reply: str) -> None:
    assert look_up(knowledge(), request_) == reply


@pytest.mark.parametrize(
    ("claim", "reply"),
    [
        ("47 + 8 = 55", "right"),
        ("47+8=55.", "right"),
        ("47 + 8 = 45", "wrong: 47 + 8 = 55"),
        ("523 - 7 = 524", "wrong: 523 - 7 = 516"),
        (FACT, LOST),  # that is not for Verify to know
        (TURNED, LOST),
        ("47 + 8", LOST),
        ("", LOST),
    ],
)
def test_verify_works_sums_out(claim: str, reply: str) -> None:
    assert check(verify(), claim) == reply


@pytest.mark.parametrize(
    ("question", "context", "reply"),
    [
        ("What is 47 + 8?", "", "47 + 8 = 55"),
        ("What is 47 + 8?", "47 + 8 = 45\n", "47 + 8 = 55"),
        ("What is 47 + 8?", "47 + 8 = 55\n", "Answer: 55"),
        (f"Use the rule of {NEVER_LEARNED} on 123.", "", TURNED),
        (f"What is 123 by the rule of {NEVER_LEARNED}?", f"{TURNED}\n", f"{RULE.turn(123)} + {RULE.constant} = {TOTAL}"),
        (
            f"What is 123 by the rule of {NEVER_LEARNED}?",
            f"<feedback:reasoning>{TURNED}</feedback>{TURNED}\n{RULE.turn(123)} + {RULE.constant} = {TOTAL}",
            f"Answer: {TOTAL}",
        ),
        (f"Add 3 to the steps of the lighthouse of {ENTRY.name}.", "", f"First find the steps of {ENTRY.name}."),
        (f"Add 3 to the steps of the lighthouse of {ENTRY.name}.", f"{ENTRY.name} has 100 steps.\n", "100 + 3 = 103"),
        ("How far is the moon?", "", LOST),
    ],
)  # fmt: skip
def test_reasoning_gives_the_next_line(question: str, context: str, reply: str) -> None:
    assert go_on(reasoning(), question, context) == reply


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("text", ["", "hello", f"Task: dance\nRequest: steps of {ENTRY.name}"])
def test_a_message_of_another_kind_is_not_understood(factory, text: str) -> None:
    assert factory().invoke([HumanMessage(text)]).text == LOST


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_error_rate(rate: float) -> None:
    """Whether an agent errs depends on the whole message: here on another question each time."""
    agents = [factory(error_rate=rate) for factory in FACTORIES]
    asked = [f"What is {n} + 8?" for n in range(400)]
    wrong = [
        sum(look_up(agents[0], ENTRY.name, question) != FACT for question in asked),
        sum(check(agents[1], "47 + 8 = 55", question) != "right" for question in asked),
        sum(go_on(agents[2], question) != f"{n} + 8 = {n + 8}" for n, question in enumerate(asked)),
    ]
    sigma = sqrt(rate * (1 - rate) / len(asked))
    assert all(abs(count / len(asked) - rate) < 3 * sigma for count in wrong)
    # an error has the form of a right reply, and the same message gets the same reply
    assert {type(read_line(look_up(agents[0], ENTRY.name, question))).__name__ for question in asked} == {
        "Statement"
    }
    assert look_up(agents[0], ENTRY.name, asked[0]) == look_up(agents[0], ENTRY.name, asked[0])


@pytest.mark.parametrize("factory", FACTORIES)
def test_an_error_rate_is_a_probability(factory) -> None:
    with pytest.raises(ConfigError, match=r"error_rate of almanac agents: got 1\.1, allowed 0 to 1"):
        factory(error_rate=1.1)


def test_what_they_report_of_themselves() -> None:
    agent = verify(seed=3, error_rate=0.5)
    assert agent._llm_type == "almanac-adder"
    assert agent._identifying_params == {"model_name": "almanac-adder", "seed": 3, "error_rate": 0.5}
