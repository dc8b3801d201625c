"""The miniature's peers: who knows what, and what they are shown of a discussion."""

import random
from dataclasses import replace

import pytest

from aipo.policies.scripted import CharTokenizer
from envs.miniature import Miniature
from envs.miniature.curriculum import Piece, reserved
from envs.miniature.peers import SIDES, PeerDemonstrator, facts_of
from graphs.hearing import Heard, hear
from graphs.solo import policy_prompt

ENV = Miniature(0)


def demonstrator(side: str) -> PeerDemonstrator:
    return PeerDemonstrator(facts_of(ENV.facts, side), reserved(ENV))


def drawn(side: str, kind: str) -> list[Piece]:
    return getattr(demonstrator(side), f"_{kind}")(random.Random(0))


def test_each_side_knows_half_of_what_is_unknown():
    left, right = (facts_of(ENV.facts, side) for side in SIDES)
    assert set(left.known) & set(right.known) == set(ENV.facts.known)
    assert set(left.known) | set(right.known) == set(ENV.facts.known) | set(ENV.facts.unknown)
    assert (len(left.known), len(right.known)) == (50, 50)
    assert set(left.unknown) == set(right.known) - set(ENV.facts.known)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", ["kept", "taken"])
def test_an_idea_that_starts_with_a_known_fact_is_kept_and_another_is_replaced(side: str, kind: str):
    facts = facts_of(ENV.facts, side)
    prompt, idea, heard, answer = drawn(side, kind)
    fact = prompt.text.partition("+")[0]
    assert (fact in facts.known) == (kind == "kept") and (fact in facts.practice) == (kind == "taken")
    assert [piece.learned for piece in (prompt, idea, heard, answer)] == [False, kind == "kept", False, True]
    said = heard.text.removeprefix("peer:").removesuffix(";")
    assert answer.text.removesuffix("<eos>") == (idea.text.removesuffix("<eos>") if kind == "kept" else said)


def test_what_is_heard_is_as_the_prompt_has_it():
    """The policies are taught this form."""
    _, _, heard, _ = drawn("left", "taken")
    said = heard.text.removeprefix("peer:").removesuffix(";")
    prompt, tokenizer = policy_prompt("miniature_fuse.md"), CharTokenizer()
    [(name, told)] = hear(tokenizer, prompt, "fuse", [Heard("right", said)], max_words=256)
    assert (name, tokenizer.decode(told.token_ids)) == ("right", heard.text)


def test_nothing_that_is_evaluated_is_shown():
    none = replace(demonstrator("left"), reserved=frozenset())
    rng = random.Random(0)
    shown = {piece.text for _ in range(2000) for piece in demonstrator("left").draw(rng)}
    prompts = {task.prompt for split in ("easy", "heldout") for task in ENV.tasks(split)}
    assert not prompts & shown
    assert prompts & {piece.text for _ in range(2000) for piece in none.draw(rng)}
