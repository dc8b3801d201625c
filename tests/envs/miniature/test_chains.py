"""The miniature's chains: tasks that need as many consults as they have facts, and what their policy is shown."""

import random

import pytest

from aipo.errors import ConfigError
from envs.miniature import Miniature
from envs.miniature.chains import LENGTHS, ChainDemonstrator, Chains, cold_start
from envs.miniature.curriculum import OFFER, reserved

ENV = Chains(0)
DEMONSTRATOR = ChainDemonstrator(ENV.facts, reserved(ENV))
VALUE = ENV.facts.value


@pytest.mark.parametrize(("name", "length"), LENGTHS.items())
def test_a_task_takes_one_consult_for_each_of_its_facts(name: str, length: int):
    train, heldout = ENV.tasks(f"{name}_train"), ENV.tasks(name)
    assert (len(train), len(heldout)) == (480, 120)
    for task in (*train, *heldout):
        written, asked = "", list[str]()
        while "<consult:knowledge>" in (turn := ENV.turn(task, written)):
            fact = turn.removesuffix("</consult>").rpartition(">")[2]
            asked.append(fact)
            written += f"{turn}<feedback:knowledge>{fact}={VALUE[fact]}</feedback>"
        assert len(set(asked)) == length and set(asked) <= set(ENV.facts.unknown)
        assert asked == [*task.metadata["values"]]
        assert ENV.score(task, ENV.demonstration(task) or "") == {"correct": 1.0, "derivation": 1.0}


def test_the_last_digit_of_a_value_is_the_row_of_the_next_fact():
    task = ENV.tasks("three")[0]
    facts = [*task.metadata["values"]]
    assert [fact[0] for fact in facts[1:]] == [str(VALUE[fact])[-1] for fact in facts[:-1]]
    assert task.prompt == f"{facts[0]}@{facts[1][-1]}@{facts[2][-1]}+{task.metadata['operand']}=?\n"
    assert task.answer == str(VALUE[facts[2]] + task.metadata["operand"])


@pytest.mark.parametrize("name", LENGTHS)
def test_no_chain_that_is_trained_on_is_held_out(name: str):
    train, heldout = (
        {task.prompt.partition("+")[0] for task in ENV.tasks(split)} for split in (f"{name}_train", name)
    )
    assert not train & heldout


def test_a_wrong_line_on_the_way_to_the_right_answer_is_noted():
    task = ENV.tasks("two")[0]
    first, *rest = (ENV.demonstration(task) or "").split("\n")
    text = "\n".join([f"{first[:-1]}{(int(first[-1]) + 1) % 10}", *rest])
    assert ENV.score(task, text) == {"correct": 1.0, "derivation": 0.0}


def test_the_other_splits_are_those_of_the_miniature():
    plain = Miniature(0)
    assert ENV.splits()[: len(plain.splits())] == plain.splits()
    assert all(ENV.tasks(split) == plain.tasks(split) for split in plain.splits())
    assert ENV.facts == plain.facts
    task = plain.tasks("hard")[0]
    assert ENV.demonstration(task) == plain.demonstration(task)


def test_a_shown_chain_is_one_and_asks_for_practice_facts_alone():
    rng = random.Random(0)
    for asked in (True, False):
        for _ in range(300):
            prompt, *work = DEMONSTRATOR._chain(rng, asked=asked)
            text = "".join(piece.text for piece in work)
            consults = [piece.text for piece in work if piece.text.startswith("<consult")]
            facts = {text.removesuffix("</consult>").rpartition(">")[2] for text in consults}
            assert facts <= set(ENV.facts.practice)
            assert asked or not facts
            assert all(piece.learned != piece.text.startswith("<feedback") for piece in work)
            lines = [line.rpartition(">")[2] for line in text.split("\n")]
            links = [line.split("=") for line in lines if "@" in line]
            assert len(links) == len({fact for fact, _ in links}) == prompt.text.count("@")
            assert [fact[0] for fact, _ in links[1:]] == [value[-1] for _, value in links[:-1]]
            assert not set(ENV.facts.unknown) & {fact for fact, _ in links}


def test_chains_are_half_of_what_is_shown_and_agents_are_offered_where_they_are_asked():
    rng = random.Random(1)
    shown = [DEMONSTRATOR.draw(rng) for _ in range(1000)]
    chains = [pieces for pieces in shown if pieces[0].text.count("@") > 1]
    assert 430 < len(chains) < 570
    for prompt, *work in chains:
        assert prompt.text.startswith(OFFER) or not any("<consult" in piece.text for piece in work)
    assert any(not prompt.text.startswith(OFFER) for prompt, *_ in chains)


def test_a_policy_without_a_step_is_refused():
    with pytest.raises(ConfigError, match="steps of the miniature's policy: got 0, allowed 1 or more"):
        cold_start(steps=0)
