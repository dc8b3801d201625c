"""The scripted policy: turns, stops, cuts, and its tokenizer of single characters."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import PolicyError
from aipo.policies import Completion, SampleRequest
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy

TAGS = ("<consult:verify>", "</consult>")
STOP = ("</consult>",)


def sample(policy: ScriptedPolicy, context: str, **arguments) -> Completion:
    ids = np.array(policy.tokenizer.encode(context, control=True), np.int32)
    return asyncio.run(policy.sample(SampleRequest(ids, **{"max_tokens": 100, "stop": STOP, **arguments})))


def text_of(policy: ScriptedPolicy, done: Completion) -> str:
    return policy.tokenizer.decode(done.token_ids)


def test_each_character_and_each_special_string_is_one_token():
    tokenizer = CharTokenizer(specials=TAGS, alphabet="ab")
    # 0 <eos>, 1 <consult:verify>, 2 </consult>, 3 unknown, 4 a, 5 b
    assert tokenizer.encode("a<consult:verify>b</consult><eos>", control=True) == [4, 1, 5, 2, 0]
    assert tokenizer.encode("</b") == [3, 3, 5]
    assert tokenizer.token_id("</consult>") == 2
    assert tokenizer.token_id("ab") is None
    assert tokenizer.eos_id == 0 and len(tokenizer) == 6


def test_of_overlapping_specials_the_longest_wins():
    tokenizer = CharTokenizer(specials=("<a", "<a>"))
    assert tokenizer.encode("<a><a", control=True) == [tokenizer.token_id("<a>"), tokenizer.token_id("<a")]


@given(st.text(alphabet="ab<>/:consultverify\n"))
def test_plain_text_never_becomes_a_special_token_and_survives(text: str):
    tokenizer = CharTokenizer(specials=TAGS)
    ids = tokenizer.encode(text + TAGS[0] + "<eos>" + text)
    assert not {tokenizer.token_id(t) for t in (*TAGS, "<eos>")} & set(ids)
    assert tokenizer.decode(ids) == text + TAGS[0] + "<eos>" + text


ASKS = ["<consult:verify>1?</consult>", "so 2"]
TWICE = ["a</consult>", "a</consult>", "b"]
STOPS = ["a</consult> never written", "b"]


@pytest.mark.parametrize(
    ("script", "context", "text", "finish"),
    [
        (ASKS, "Q\n", "<consult:verify>1?</consult>", "stop"),
        (ASKS, "Q\n<consult:verify>1?</consult> no ", "so 2<eos>", "eos"),
        (TWICE, "Q a</consult>", "a</consult>", "stop"),
        (TWICE, "Q a</consult>a</consult>", "b<eos>", "eos"),
        (STOPS, "Q", "a</consult>", "stop"),
        (STOPS, "Q a</consult>", "b<eos>", "eos"),
        (str.upper, "abc", "ABC<eos>", "eos"),
    ],
)
def test_the_next_text_of_a_script(script: Any, context: str, text: str, finish: str):
    policy = ScriptedPolicy(CharTokenizer(specials=TAGS), script)
    done = sample(policy, context)
    assert (text_of(policy, done), done.finish) == (text, finish)


def test_a_script_that_has_run_out_is_an_error():
    policy = ScriptedPolicy(CharTokenizer(specials=TAGS), ASKS)
    with pytest.raises(PolicyError, match="one turn more"):
        sample(policy, "Q\n<consult:verify>1?</consult> no so 2<eos>")


def test_max_tokens_cuts_and_a_stop_on_the_last_token_still_counts():
    policy = ScriptedPolicy(CharTokenizer(specials=TAGS), ["abc</consult>"])
    assert (text_of(policy, d := sample(policy, "Q", max_tokens=3)), d.finish) == ("abc", "length")
    assert sample(policy, "Q", max_tokens=4).finish == "stop"


def test_constants_have_one_value_per_token():
    done = sample(ScriptedPolicy(CharTokenizer(), ["ab"], logprob=-0.25), "Q")
    assert done.logprobs.tolist() == [-0.25, -0.25, -0.25]
    assert done.entropies is not None and len(done.entropies) == 3
    assert done.token_ids.dtype == np.int32 and done.policy_version == 0


def test_a_forbidden_token_is_an_error():
    tokenizer = CharTokenizer(specials=TAGS)
    policy, tag = ScriptedPolicy(tokenizer, ["a</consult>"]), tokenizer.token_id("</consult>")
    with pytest.raises(PolicyError, match=r"forbidden.*</consult>"):
        sample(policy, "Q", forbidden_ids=(tag,))
