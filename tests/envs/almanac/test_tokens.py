"""The almanac with the tokenizer of the model that learns it: prompts and answers are short."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from aipo.rollout.prompt import Prompt
from envs.almanac import Almanac, agents
from envs.almanac.solution import NEXT
from graphs.solo import PROMPTS

ENV = Almanac(0)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2)


def test_a_digit_is_a_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("582+3") == ["5", "8", "2", "+", "3"]


def test_questions_and_derivations_are_short(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = Prompt.load(PROMPTS / "almanac.md")
    tasks = [task for split in ENV.splits() for task in ENV.tasks(split)]
    solo = [len(tokenizer.tokenize(prompt.render("solo", question=task.prompt))) for task in tasks]
    work = [len(tokenizer.tokenize(str(ENV.demonstration(task)))) for task in tasks]
    assert max(solo) < 40
    assert min(work) >= 15 and max(work) <= 45


def test_replies_are_short(tokenizer: PreTrainedTokenizerBase) -> None:
    knowledge, reasoning = agents.knowledge(), agents.reasoning()
    said = [
        knowledge.invoke(f"Task: answer\nRequest: {entry.unit} of {entry.name}").text
        for entry in ENV.book.unknown
    ]
    said += [
        reasoning.invoke(f"Task: next\nProblem:\n{task.prompt}\n\nRequest: {NEXT}").text
        for task in ENV.tasks("rules")
    ]
    assert max(len(tokenizer.tokenize(reply)) for reply in said) < 25
