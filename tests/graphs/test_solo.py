"""Solo: a prompt, what the policy says, its score; nothing else."""

from dataclasses import replace
from typing import Any

import pytest

from aipo.errors import LoadError
from aipo.rollout.graph import check_graph
from aipo.rollout.prompt import Prompt
from aipo.trace import Mode, Role, StopReason
from envs.miniature import Miniature
from graphs.consult import consult
from graphs.solo import PROMPTS, policy_prompt, solo
from kit.agents import build_context, roll, shown


def test_a_solo_rollout():
    context = build_context(["3@7=582\n#587"], mode=Mode.SOLO)
    state = roll(check_graph(solo(prompt="miniature.md"), "solo"), context)
    assert shown(state) == [
        (Role.PROMPT, "prompt", "3@7+5=?\n"),
        (Role.POLICY, "policy", "3@7=582\n#587<eos>"),
    ]
    assert state["stops"] == {"policy": StopReason.EOS}
    assert state["reward_parts"] == {"policy": {"length": 12.0}}
    assert context.env.texts == ["3@7=582\n#587"]  # without the end token


def test_a_solo_rollout_without_room_or_without_an_answer():
    state = roll(solo(prompt="miniature.md"), build_context(["123456789"], max_tokens=4))
    assert shown(state)[1:] == [(Role.POLICY, "policy", "1234")]
    assert state["stops"] == {"policy": StopReason.LENGTH}
    state = roll(solo(prompt="miniature.md"), build_context([""]))
    assert state["reward_parts"] == {"policy": None}  # what cannot be scored is not zero


@pytest.mark.parametrize("graph", [solo(prompt="miniature.md"), consult(agents={}, prompt="miniature.md")])
def test_a_demonstration_is_asked_and_scored_like_a_solo_rollout(graph: Any):
    """Whatever graph the rollouts beside it run through."""
    context = build_context(["nobody asks the policy"], mode=Mode.EXPERT)
    context.env.demonstration = lambda task: "3@7=582\n#587"
    state = roll(graph, context)
    assert shown(state) == [
        (Role.PROMPT, "prompt", "3@7+5=?\n"),
        (Role.AGENT, "expert", "3@7=582\n#587<eos>"),
    ]
    assert (state["stops"], state["consults"]) == ({"policy": StopReason.EOS}, [])
    assert context.env.texts == ["3@7=582\n#587"]


def test_prompts_are_found_by_name_or_by_path(tmp_path, monkeypatch):
    mine = tmp_path / "mine.md"
    mine.write_text("## solo\nQ: {{ question }}")
    monkeypatch.chdir(tmp_path)
    assert policy_prompt("policy.md").file == PROMPTS / "policy.md"
    assert policy_prompt("mine.md").file == policy_prompt(mine).file == mine
    assert policy_prompt(Prompt.load(mine)).file == mine
    state = roll(solo(prompt="mine.md"), build_context(["1"], prompt="why?"))
    assert shown(state)[0] == (Role.PROMPT, "prompt", "Q: why?")
    with pytest.raises(LoadError, match=r"other\.md.*allowed one of.*'policy\.md'"):
        policy_prompt("other.md")


@pytest.mark.parametrize("graph", [solo(prompt="miniature.md"), consult(agents={}, prompt="miniature.md")])
@pytest.mark.parametrize(
    ("said", "correct"),
    [
        ("713+90=803\n<consult:verify>713+90=803</consult>#803", 1.0),
        ("713+90=803\n<consult:verify>713+90=803</consult>\n#803", 1.0),
        ("713+90=803<consult:verify>713+90=803</consult>\n#803", 1.0),
        ("713+90=803\n#803<consult:verify>713+90=803</consult>", 1.0),
        ("713+90=803\n#80<consult:verify>3</consult>", 0.0),
        ("713+90=803\n<consult:verify>#803</consult>", 0.0),
        ("713+90=803\n#803<consult:verify>713+90", 1.0),
    ],
)
def test_the_miniature_reads_the_answer_around_requests(graph: Any, said: str, correct: float):
    """Nobody answers a solo rollout; the text that counts is the same."""
    env = Miniature()
    task = replace(env.tasks("easy")[0], prompt="713+90=?\n", answer="803")
    context = replace(build_context([said], mode=Mode.SOLO), task=task, env=env)
    assert roll(graph, context)["reward_parts"]["policy"]["correct"] == correct
