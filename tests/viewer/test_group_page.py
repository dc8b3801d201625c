"""The group page: where rollouts part, how advantages came about, and every rollout with what became of it."""

import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.config.load import load_config
from aipo.errors import TraceError
from aipo.method.credit import group, reward
from aipo.method.settings import MethodSettings
from aipo.trace import Mode, Role, StopReason, Trace
from aipo.trace.store import TraceStore
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.data.passages import Passage
from aipo.viewer.links import Links
from aipo.viewer.pages.advantages import Rewards, explanation
from aipo.viewer.pages.branches import Leaf, branches, branches_svg
from aipo.viewer.pages.group import group_page, stretches
from kit.handmade import prompt, trace
from kit.recorded import make_run

METHOD = {"credit": "group", "scale_by_std": False, "negative_weight": 1.0, "per_mode_baseline": False}


# where they part


def test_rollouts_part_at_the_first_token_that_differs() -> None:
    parted = branches(["abcd", "abce", "abx", "abcd"])
    assert parted.majority == 0 and parted.common == 2
    assert [parted.leaves(n, parted.majority) for n in range(4)] == [None, 3, 2, None]
    assert parted.cuts(0) == {2, 3} and parted.cuts(2) == {2}


def test_the_majority_goes_with_most_at_every_token() -> None:
    assert branches(["b", "ax", "ay", "ay"]).majority == 2
    assert branches(["a", "ab", "ab"]).majority == 1  # to go on is more common than to end
    assert branches(["a", "b"]).majority == 0  # of equals the first
    assert branches([""]).majority == 0


def test_one_that_ends_early_leaves_where_it_ends() -> None:
    parted = branches(["abc", "a", "abc"])
    assert parted.leaves(1, 0) == 1 and parted.leaves(0, 1) == 1


words = st.lists(st.text("ab", max_size=6), min_size=1, max_size=6)


@given(words)
def test_nobody_leaves_before_what_all_share_nor_after_two_differ(group: list[str]) -> None:
    parted = branches(group)
    for number, text in enumerate(group):
        at = parted.leaves(number, parted.majority)
        assert at is None or at >= parted.common
        assert (at is None) == (text == group[parted.majority])
        assert at is None or text[:at] == group[parted.majority][:at]
        assert at is None or text[at : at + 1] != group[parted.majority][at : at + 1]


@given(words)
def test_any_rollouts_make_a_tree(group: list[str]) -> None:
    leaves = [
        Leaf(
            tokens=[ord(c) for c in text],
            colours=[(len(text), "policy")],
            label="<b>",
            href="#",
            verdict="good",
        )
        for text in group
    ]
    svg = branches_svg(leaves)
    ElementTree.fromstring(svg)
    assert svg.count("<circle") == len(group) and "<b>" not in svg and "nan" not in svg


def test_what_rollouts_share_is_drawn_once() -> None:
    def leaf(text: str) -> Leaf:
        colours = [(2, "policy"), (len(text) - 2, "agent0")]
        return Leaf(tokens=[ord(c) for c in text], colours=colours, label=text, href="t", verdict="bad")

    svg = branches_svg([leaf("abcd"), leaf("abce")])
    # Two tokens of the policy and one of the agent in common, then one of the agent each.
    assert re.findall(r'class="stretch (\w+)"', svg) == ["policy", "agent0", "agent0", "agent0"]


# the text, cut


def passage(text: str, *, parts: bool = True, role: Role = Role.POLICY) -> Passage:
    ids = tuple(map(ord, text))
    known = tuple(text) if parts else None
    return Passage(role=role, source="p", label="p", colour=str(role), ids=ids, text=text, parts=known)


def test_a_token_at_which_somebody_leaves_stands_alone() -> None:
    found = stretches([passage("abc"), passage("d\n", role=Role.AGENT)], {1, 4}, 2)
    assert [(s.text, s.at, s.sign, s.common) for s in found] == [
        ("a", "", "", True),
        ("b", "1", "", True),
        ("c", "", "", False),
        ("d", "", "", False),
        ("\n", "4", "↵", False),
    ]


def test_text_whose_tokens_nobody_knows_is_marked_whole() -> None:
    found = stretches([passage("abc", parts=False), passage("de")], {1, 2, 3}, 3)
    assert [(s.text, s.at, s.common) for s in found] == [
        ("abc", "1 2", True),
        ("d", "3", False),
        ("e", "", False),
    ]


@given(
    st.lists(st.tuples(st.text("ab\n", max_size=5), st.booleans()), max_size=4), st.sets(st.integers(0, 20))
)
def test_cutting_loses_nothing(made: list[tuple[str, bool]], cuts: set[int]) -> None:
    found = stretches([passage(text, parts=parts) for text, parts in made], cuts, 3)
    assert "".join(s.text for s in found) == "".join(text for text, _ in made)
    inside = {at for at in cuts if at < sum(len(text) for text, _ in made)}
    assert {int(at) for s in found for at in s.at.split()} == inside


# advantages

MEAN = MethodSettings(scale_by_std=False)


def rollouts(*rewards: float | None, mode: Mode = Mode.SOLO) -> list[Trace]:
    failed = {"stop_reason": StopReason.ERROR}
    return [
        trace(prompt(), reward=r, advantage=None, mode=mode, **({} if r is not None else failed))
        for r in rewards
    ]


def test_mean_and_standard_deviation_of_rewards() -> None:
    of = Rewards.of(rollouts(1.0, 0.0, None))
    assert (of.count, of.mean, of.std) == (2, 0.5, pytest.approx(0.5**0.5))
    assert Rewards.of(rollouts(1.0)) == Rewards(count=1, mean=1.0, std=None)
    assert Rewards.of(rollouts(None)) == Rewards(count=0, mean=None, std=None)


def test_the_explanation_follows_the_configuration() -> None:
    both = [*rollouts(1.0, 1.0, mode=Mode.ASSISTED), *rollouts(1.0, 0.0)]
    said = explanation(
        group(both, MethodSettings(scale_by_std=True, negative_weight=0.3)).traces,
        METHOD | {"scale_by_std": True, "negative_weight": 0.3},
    )
    assert said == [
        "Baseline: the mean of 4 rewards, which assisted and solo rollouts share: 0.75.",
        "Advantage: reward − mean, divided by the standard deviation.",
        "Negative advantages count 0.3 times.",
    ]
    said = explanation(
        group(both, MethodSettings(scale_by_std=False, per_mode_baseline=True)).traces,
        METHOD | {"per_mode_baseline": True},
    )
    assert said[0] == "Baselines: 1 for assisted rollouts, 0.5 for solo rollouts."


def test_equal_rewards_teach_nothing() -> None:
    said = explanation(group(rollouts(1.0, 1.0), MEAN).traces, METHOD)
    assert said[-1] == "Rewards do not differ: nothing is learned from this group."


def test_rewards_can_be_the_advantages() -> None:
    itself = "Advantage: the reward itself; no baseline is subtracted."
    for rewards in ((1.0, 0.0, None), (1.0, 1.0)):  # equal ones teach, too
        assert explanation(reward(rollouts(*rewards), MEAN).traces, {"credit": "reward"}) == [itself]
    said = explanation(reward(rollouts(0.0, 0.0), MEAN).traces, {"credit": "reward"})
    assert said == [itself, "Every reward is 0: nothing is learned from this group."]


@pytest.mark.parametrize("method", [METHOD, {"credit": "reward"}])
def test_advantages_that_the_configuration_does_not_give_are_told(method: dict[str, object]) -> None:
    wrong = [replace(t, advantage=9.0) for t in rollouts(1.0, 0.0)]
    assert explanation(wrong, method)[-1] == "The recorded advantages are not what this configuration gives."


def test_no_advantage_and_other_credit() -> None:
    assert explanation(rollouts(1.0), METHOD)[0].startswith("No rollout of this group has an advantage")
    assert explanation(group(rollouts(1.0, 0.0), MEAN).traces, {"credit": "branch"}) == [
        "Credit was given by branch."
    ]


@pytest.mark.parametrize(
    "wrong", [{"negative_weight": "abc"}, {"negative_weight": math.nan}, {"scale_by_std": 3}]
)
def test_a_configuration_that_makes_no_sense_is_told(wrong: dict[str, object]) -> None:
    (said,) = explanation(group(rollouts(1.0, 0.0), MEAN).traces, METHOD | wrong)
    assert said.startswith("config.yaml does not say how advantages came about") and "got" in said


def test_advantages_that_are_missing_are_not_called_wrong() -> None:
    (first, second) = group(rollouts(1.0, 0.0), MEAN).traces
    said = explanation([first, replace(second, advantage=None)], METHOD)
    assert said[-1] == "Not every scored rollout has an advantage yet: they were not checked."


# the page


def test_a_large_group_is_explained_whole(own_runs: Path) -> None:
    # The first 75 of 100 are right. Of those that are shown, all are: their mean would be 1.
    rewards = [1.0] * 75 + [0.0] * 25
    made = [
        trace(prompt(), group_id="g", trace_id=f"t{i}", index=i, reward=reward)
        for i, reward in enumerate(rewards)
    ]
    config = load_config(str(own_runs / "aipo" / "config.yaml"), ()).method
    given = group(made, config).traces
    shutil.rmtree(own_runs / "aipo" / "traces")
    with TraceStore(own_runs / "aipo" / "traces") as store:
        store.seal(0, given)
    html = group_page(RunLibrary(own_runs).run("aipo"), "g", Links(3))
    assert "the mean of 100 rewards: 0.75." in html and "0.75 ± 0.435" in html
    assert "are not what this configuration gives" not in html
    assert html.count('<li class="rollout') == 64 and "36 more rollouts" in html


def page(root: Path, number: int = 1, *, live: bool = True) -> tuple[str, list[str]]:
    """The page of one of the run's groups, and the groups' ids."""
    run = RunLibrary(root).run("aipo")
    names = [g.group_id for g in run.index.groups(order="step")]
    return group_page(run, names[number], Links(3, live=live)), names


def test_every_rollout_is_there_with_what_became_of_it(little_runs: Path) -> None:
    html, names = page(little_runs)
    of_group = RunLibrary(little_runs).run("aipo").index.of_groups(names)[names[1]]
    assert re.findall(r'<li class="rollout (\w+)" data-row="(\d)"', html) == [
        ("none" if t.reward is None else "good" if t.reward > 0 else "bad", str(t.index)) for t in of_group
    ]
    for summary in of_group:
        assert f'href="{Links(3).trace("aipo", summary.trace_id)}"' in html
    data = json.loads(re.findall(r'id="branches">(.*?)</script>', html)[0])
    assert len(data["shared"]) == len(of_group) and data["majority"] in range(len(of_group))


def test_the_default_says_that_advantages_are_rewards(tmp_path: Path) -> None:
    make_run(tmp_path / "aipo", steps=1)
    html, names = page(tmp_path)
    assert "Advantage: the reward itself; no baseline is subtracted." in html
    assert "are not what this configuration gives" not in html
    of_group = RunLibrary(tmp_path).run("aipo").index.of_groups(names)[names[1]]
    assert {t.advantage for t in of_group} == {t.reward for t in of_group}


def test_groups_lead_to_their_neighbours(little_runs: Path) -> None:
    for number in range(3):
        html, names = page(little_runs, number)
        assert (f'rel="prev" href="../../../run/aipo/group/{names[number - 1]}.html"' in html) == (number > 0)
        assert f'rel="next" href="../../../run/aipo/group/{names[number + 1]}.html"' in html
    last, names = page(little_runs, -1)
    assert 'rel="next"' not in last and len(names) == 8


def test_what_a_model_wrote_does_no_harm(little_runs: Path) -> None:
    hostile = 0
    for number in range(8):
        html, _ = page(little_runs, number)
        hostile += "document.title" in html
        assert "<img" not in html and "\u202e" not in html and "\u2028" not in html and "style=" not in html
        assert all(
            tag in ("json", "src") for tag in re.findall(r"<script (?:type=\"application/)?(\w+)", html)
        )
    assert hostile


def test_without_a_tokenizer_texts_are_shown_all_the_same(own_runs: Path) -> None:
    before, _ = page(own_runs)
    shutil.rmtree(own_runs / "aipo" / "tokenizer")
    after, _ = page(own_runs)
    texts = [
        re.sub(r"<[^>]*>", "", re.findall(r"<ol class=\"rollouts\">.*</ol>", html, re.DOTALL)[0])
        for html in (before, after)
    ]
    assert texts[0] == texts[1]


def test_a_static_site_has_no_page_for_every_pair(little_runs: Path) -> None:
    assert "compare/" in page(little_runs)[0] and "compare/" not in page(little_runs, live=False)[0]


def test_a_group_that_is_not_there_is_named(little_runs: Path) -> None:
    with pytest.raises(TraceError, match="got 'gone'"):
        group_page(RunLibrary(little_runs).run("aipo"), "gone", Links(3))


def test_rows_follow_each_other_by_index(little_runs: Path) -> None:
    indices = [int(i) for i in re.findall(r'id="r(\d+)"', page(little_runs)[0])]
    assert all(b == a + 1 for a, b in pairwise(indices))
