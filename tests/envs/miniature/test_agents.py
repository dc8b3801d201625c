"""The miniature's agents: what they reply, how often they err, what they report of themselves."""

import asyncio
import re
from math import sqrt

import pytest
from jinja2 import Template
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage

from aipo.errors import ConfigError
from aipo.rollout.prompt import Prompt
from envs.miniature.agents import knowledge, reasoning, verify
from envs.miniature.task import Facts
from envs.rules import LOST
from graphs.solo import PROMPTS

FACTS = Facts.draw(0)
FACT, VALUE = "3@7", FACTS.value["3@7"]
FACTORIES = (knowledge, verify, reasoning)


def ask(agent: BaseChatModel, prompt: str, step: str, **payload: str) -> str:
    """The reply to the shipped prompt, rendered as the agent's graph renders it."""
    message = Prompt.load(PROMPTS / f"{prompt}.md").render(step, **{"question": "", "context": "", **payload})
    return str(asyncio.run(agent.ainvoke([HumanMessage(message)])).text)


def look_up(agent: BaseChatModel, fact: str, question: str = "") -> str:
    return ask(agent, "knowledge", "answer", request=fact, question=question)


def check(agent: BaseChatModel, claim: str) -> str:
    return ask(agent, "verify", "check", request=claim, claim=claim)


def go_on(agent: BaseChatModel, question: str, context: str = "") -> str:
    return ask(agent, "reasoning", "next", request="next", question=question, context=context)


def test_knowledge_knows_the_whole_table() -> None:
    agent = knowledge(seed=0)
    assert [look_up(agent, fact) for fact in FACTS.value] == [f"{f}={v}" for f, v in FACTS.value.items()]


@pytest.mark.parametrize("fact", ["3@7", " 3@7 ", "3@7=", "3@7=?"])
@pytest.mark.parametrize("other", ["3@", "37", "582+5", "what?", "3@7+5", "３@7"])
def test_knowledge_reads_a_request_as_a_person_would(fact: str, other: str) -> None:
    assert look_up(knowledge(), fact) == f"3@7={VALUE}"
    assert look_up(knowledge(), other) == LOST == "I do not understand the request."


@pytest.mark.parametrize(
    ("claim", "reply"),
    [
        ("582+20=602", "right"),
        ("582+20=601", "wrong: 582+20=602"),
        ("582+25=606", "wrong: 582+25=607"),
        ("523-7=524", "wrong: 523-7=516"),
        ("523-7=516", "right"),
        ("3@7=582", LOST),  # that is not for Verify to know
        ("582+20", LOST),
        ("", LOST),
    ],
)
def test_verify_works_sums_out(claim: str, reply: str) -> None:
    assert check(verify(), claim) == reply


@pytest.mark.parametrize(
    ("form", "reply"),
    [
        ("wrong: the corrected claim", "wrong: 582+20=602"),
        ("wrong: the sum", "wrong: 582+20=602"),
        ("wrong", "wrong"),
        ("- `wrong`", "wrong"),
    ],
)
def test_verify_gives_a_correction_where_its_prompt_asks_for_one(form: str, reply: str) -> None:
    prompt = Prompt.load(PROMPTS / "verify.md").sections["check"].replace("wrong: the corrected claim", form)
    for claim, answer in (("582+20=601", reply), ("582+20=602", "right")):
        text = Template(prompt).render(question="582+20=?", context="582+20=601\nwrong\n", claim=claim)
        assert verify().invoke(text).text == answer


@pytest.mark.parametrize(
    ("question", "context", "reply"),
    [
        ("582+20=?\n", "", "582+20=602"),
        ("582+20=?\n", "582+20=602\n", "#602"),
        ("582+20=?\n", "582+20=601\n", "582+20=602"),
        ("3@7+20=?\n", "", "First find 3@7."),
        ("3@7+20=?\n", "3@7=582\n", "582+20=602"),
        ("3@7+20=?\n", "3@7=582\n582+20=602\n", "#602"),
        ("3@7+20=?\n", "<feedback:knowledge>3@7=582</feedback>", "582+20=602"),
        ("3@7+20=?\n", "3@7=582\n<feedback:verify>582+20=602</feedback>", "#602"),
        ("3@7+20=?\n", "4@7=111\n", "First find 3@7."),
        ("3@7@4+20=?\n", "", "First find 3@7."),
        ("3@7@4+20=?\n", "3@7=582\n", "First find 2@4."),
        ("3@7@4+20=?\n", "3@7=582\n2@4=617\n", "617+20=637"),
        ("3@7@4+20=?\n", "3@7=582\n2@4=617\n617+20=637\n", "#637"),
        ("~582+20=?\n", "", "~582=417"),
        ("~582+20=?\n", "~582=417\n", "417+20=437"),
        ("~582+20=?\n", "~582=417\n417+20=437\n", "#437"),
        ("~582+20=?\n", "582=417\n", "~582=417"),
        ("13@7+20+5=?", "13@7=582", "582+20=602"),
        ("13@7+20+5=?", "13@7=582\n582+20=602", "602+5=607"),
        ("13@7+20+5=?", "13@7=582\n582+20=602\n602+5=607", "#607"),
        ("523-7-30=?\n", "", LOST),  # that is for Verify
        ("How far is the moon?", "", LOST),
    ],
)
def test_reasoning_gives_the_next_line(question: str, context: str, reply: str) -> None:
    assert go_on(reasoning(), question, context) == reply


@pytest.mark.parametrize(
    ("factory", "step", "payload", "reply"),
    [
        (verify, "find", {"request": "582+20=602"}, "582+20=602"),
        (verify, "verdict", {"request": "", "claim": "c", "finding": LOST}, LOST),
        (knowledge, "formulate", {"request": "3@7"}, "3@7"),
        (knowledge, "condense", {"request": "3@7", "reply": "3@7=582"}, "3@7=582"),
        (reasoning, "restate", {"request": "next"}, "next"),
        (reasoning, "condense", {"request": "next", "reply": "582+20=602"}, "582+20=602"),
    ],
)
def test_the_other_steps_pass_their_payload_on(
    factory, step: str, payload: dict[str, str], reply: str
) -> None:
    assert ask(factory(), factory.__name__, step, **payload) == reply


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("text", ["", "hello", "Task: dance\nRequest: 3@7", "Request: 3@7"])
def test_a_message_of_another_kind_is_not_understood(factory, text: str) -> None:
    assert factory().invoke([HumanMessage(text)]).text == LOST


def test_the_last_message_and_its_last_payload_line_count() -> None:
    messages = [
        SystemMessage("Task: answer\nRequest: 1@1"),
        HumanMessage("Task: answer\nRequest: 1@1\nRequest: 3@7"),
    ]
    assert knowledge().invoke(messages).text == f"3@7={VALUE}"


def within_three_sigma(wrong: int, of: int, rate: float) -> bool:
    return abs(wrong / of - rate) < 3 * sqrt(rate * (1 - rate) / of)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_error_rate_of_knowledge(seed: int, rate: float) -> None:
    agent, values = knowledge(seed=seed, error_rate=rate), Facts.draw(seed).value
    replies = [(f, look_up(agent, f, f"{f}+{b}=?")) for f in values for b in range(10)]
    assert all(re.fullmatch(rf"{fact}=[1-8][0-9]{{2}}", reply) for fact, reply in replies)
    assert within_three_sigma(sum(reply != f"{f}={values[f]}" for f, reply in replies), 1000, rate)


def test_error_rate_of_verify_and_reasoning() -> None:
    # one slip of its own makes Verify reject a right sum, and Reasoning write a wrong line
    said = [check(verify(error_rate=0.3), f"{a}+5={a + 5}") for a in range(200, 800)]
    assert within_three_sigma(sum(reply != "right" for reply in said), 600, 0.3)
    said = [go_on(reasoning(error_rate=0.3), f"{a}+5=?\n") for a in range(200, 800)]
    wrong = sum(reply != f"{a}+5={a + 5}" for a, reply in zip(range(200, 800), said, strict=True))
    assert within_three_sigma(wrong, 600, 0.3)


def test_asides_stand_behind_and_no_error_of_theirs_is_in_what_was_asked() -> None:
    agent, values = knowledge(distractors=2, distractor_error_rate=0.3), FACTS.value
    replies = [look_up(agent, FACT, f"{FACT}+{b}=?").split(" ") for b in range(400)]
    assert all(len(set(reply)) == 3 and reply[0] == f"{FACT}={VALUE}" for reply in replies)
    distractors = [line.split("=") for reply in replies for line in reply[1:]]
    assert within_three_sigma(sum(int(value) != values[fact] for fact, value in distractors), 800, 0.3)


@pytest.mark.parametrize(
    ("option", "number", "most"),
    [("distractors", -1, 99), ("distractors", 100, 99), ("distractor_error_rate", 2, 1)],
)
def test_asides_are_counted(option: str, number: int, most: int) -> None:
    with pytest.raises(ConfigError, match=f"{option} of miniature agents: got {number}, allowed 0 to {most}"):
        knowledge(**{option: number})


def test_always_and_never_wrong() -> None:
    assert look_up(knowledge(error_rate=1.0), FACT) != f"3@7={VALUE}" == look_up(knowledge(), FACT)


def test_errors_are_the_messages_and_the_seeds() -> None:
    def errors(seed: int) -> list[str]:
        return [check(verify(seed=seed, error_rate=0.5), f"{a}+5={a + 5}") for a in range(200, 240)]

    assert errors(0) == errors(0) != errors(1)
    # the same request in another question is another message
    agent = knowledge(error_rate=0.5)
    assert len({look_up(agent, FACT, f"3@7+{b}=?") for b in range(20)}) > 1


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_an_error_rate_is_a_probability(factory, rate: float) -> None:
    with pytest.raises(ConfigError, match=r"error_rate of miniature agents: got .*, allowed 0 to 1"):
        factory(error_rate=rate)


def test_what_they_say_of_themselves() -> None:
    agent = knowledge(seed=3, error_rate=0.1)
    assert agent._llm_type == "miniature-knowledge"
    rates = {"error_rate": 0.1, "distractors": 0, "distractor_error_rate": 0.0}
    assert agent._identifying_params == {"model_name": "miniature-knowledge", "seed": 3} | rates
    text = "Task: answer\nRequest: 3@7"
    reply = agent.invoke([HumanMessage(text)])
    assert len(reply.text) == 7
    # characters: 12 + 1 + 12 in, 7 out
    assert reply.usage_metadata == {"input_tokens": 25, "output_tokens": 7, "total_tokens": 32}


def test_the_table_is_that_of_the_environment_of_the_same_seed() -> None:
    assert look_up(knowledge(seed=5), FACT) == f"3@7={Facts.draw(5).value[FACT]}"
