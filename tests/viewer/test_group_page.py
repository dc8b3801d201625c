"""The group page: where rollouts part, how advantages came about, and every rollout with what became of it."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.config.load import load_config
from aipo.errors import TraceError
from aipo.method.credit import group
from aipo.trace import Role
from aipo.trace.index import Summary
from aipo.trace.store import TraceStore
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.data.passages import Passage
from aipo.viewer.links import Links
from aipo.viewer.pages.branches import Leaf, branches_svg, leaves_at, majority
from aipo.viewer.pages.group import explanation, group_page, stretches
from kit.handmade import prompt, trace

# where they part


@pytest.mark.parametrize(
    ("completions", "most", "leaves"),
    [
        (["abcd", "abce", "abx", "abcd"], 0, [None, 3, 2, None]),
        (["b", "ax", "ay", "ay"], 2, [0, 1, None, None]),
        (["abc", "a", "abc"], 0, [None, 1, None]),
        (["a", "ab", "ab"], 1, [1, None, None]),  # to go on is more common than to end
        (["a", "b"], 0, [None, 0]),  # of equals the first
        ([""], 0, [None]),
    ],
)
def test_rollouts_part_where_they_differ(completions: list[str], most: int, leaves: list[int | None]) -> None:
    assert majority(completions) == most
    assert [leaves_at(each, completions[most]) for each in completions] == leaves


def leaf(text: str, colours: Sequence[tuple[int, str]] = ()) -> Leaf:
    return Leaf(tokens=[ord(c) for c in text], colours=colours, label="<b>", href="#", verdict="good")


@given(st.lists(st.text("ab", max_size=6), min_size=1, max_size=6))
def test_any_rollouts_make_a_tree(group: list[str]) -> None:
    svg = branches_svg([leaf(text, [(len(text), "policy")]) for text in group])
    ElementTree.fromstring(svg)
    assert svg.count("<circle") == len(group) and "<b>" not in svg and "nan" not in svg
    assert svg.count("fork") < len(group)


def test_what_rollouts_share_is_drawn_once() -> None:
    svg = branches_svg([leaf(text, [(2, "policy"), (2, "agent0")]) for text in ("abcd", "abce")])
    # Two tokens of the policy and one of the agent in common, then one of the agent each.
    assert re.findall(r'class="stretch (\w+)"', svg) == ["policy", "agent0", "agent0", "agent0"]
    assert svg.count('class="fork"') == 1


# the text, cut


def passage(text: str, *, parts: bool = True, role: Role = Role.POLICY) -> Passage:
    ids, each = tuple(map(ord, text)), tuple(text) if parts else None
    return Passage(role=role, colour=str(role), ids=ids, text=text, parts=each)


@pytest.mark.parametrize(
    ("completion", "leaves", "common", "pieces"),
    [
        ([passage("abc"), passage("d\n", role=Role.AGENT)], 4, 2,
         [("ab", "common"), ("c", ""), ("d", ""), ("\n", "leaves")]),
        ([passage("abc"), passage("d")], None, 4, [("abc", "common"), ("d", "common")]),
        # Text whose tokens nobody knows is marked whole.
        ([passage("abc", parts=False), passage("de")], 1, 1, [("abc", "leaves"), ("de", "")]),
        ([passage("abc")], 3, 3, [("abc", "common")]),  # it leaves where it ends
    ],
)  # fmt: skip
def test_the_token_at_which_it_leaves_stands_alone(
    completion: list[Passage], leaves: int | None, common: int, pieces: list[tuple[str, str]]
) -> None:
    result = stretches(completion, leaves, common)
    assert [(s.text, "leaves" if s.leaves else "common" if s.common else "") for s in result] == pieces


TEXTS = st.lists(st.tuples(st.text("ab\n", max_size=5), st.booleans()), max_size=4)


@given(TEXTS, st.none() | st.integers(0, 20), st.integers(0, 20))
def test_cutting_loses_nothing(texts: list[tuple[str, bool]], leaves: int | None, common: int) -> None:
    result = stretches([passage(text, parts=parts) for text, parts in texts], leaves, common)
    whole = "".join(text for text, _ in texts)
    assert "".join(s.text for s in result) == whole
    assert sum(s.leaves for s in result) == (leaves is not None and leaves < len(whole))


# advantages


def rollouts(kind: str, *rewards: float, **changes: Any) -> list[Summary]:
    values = ({"kind": kind, "reward": reward, "advantage": reward - 0.5} for reward in rewards)
    return [Summary(**(dict.fromkeys(Summary.__slots__) | each | changes)) for each in values]


BOTH = [*rollouts("assisted", 1.0, 1.0), *rollouts("solo", 1.0), *rollouts("suppressed", 0.0)]
SHARED = "Baseline: the mean of 4 rewards, which assisted and solo rollouts share: 0.75."
MINUS_MEAN = "Advantage: reward − mean."
ITSELF = "Advantage: the reward itself; no baseline is subtracted."
NOTHING = "Every advantage is 0: nothing is learned from this group."
NONE = "No rollout of this group has an advantage: they were only looked at, or none was scored."


@pytest.mark.parametrize(
    ("summaries", "method", "sentences"),
    [
        (BOTH, {"credit": "group"}, [SHARED, MINUS_MEAN]),
        (BOTH, {"credit": "group", "scale_by_std": True, "negative_weight": 0.3},
         [SHARED, "Advantage: reward − mean, divided by the standard deviation.", "Negative advantages count 0.3 times."]),
        (BOTH, {"credit": "group", "per_mode_baseline": True},
         ["Baselines: 1 for assisted rollouts, 0.5 for solo rollouts.", MINUS_MEAN]),
        (rollouts("solo", 1.0, 1.0, advantage=0.0), {"credit": "group"},
         ["Baseline: the mean of 2 rewards: 1.", MINUS_MEAN, NOTHING]),
        (BOTH, {"credit": "reward"}, [ITSELF]),
        (rollouts("solo", 0.0, advantage=0.0), {"credit": "reward"}, [ITSELF, NOTHING]),
        (BOTH, {"credit": "calibrated", "scale_by_std": True},
         ["A reward is calibrated: it is compared with those of the other policies for the same task.",
          "Advantage: calibrated reward − mean of them, divided by the standard deviation."]),
        (rollouts("solo", 1.0, advantage=None), {"credit": "group"}, [NONE]),
        (BOTH, {"credit": "branch", "attribution": "soft"}, [SHARED, MINUS_MEAN]),
        (BOTH, {"credit": "branch", "attribution": "hard"},
         [SHARED, MINUS_MEAN, "Tokens that rollouts share have the mean of their advantages."]),
        (BOTH, {"credit": "luck"}, ["Credit was given by luck."]),
        (BOTH, {}, ["Credit was given by a method that the configuration does not name."]),
    ],
)  # fmt: skip
def test_advantages_are_explained_as_the_configuration_gives_them(
    summaries: list[Summary], method: dict[str, Any], sentences: list[str]
) -> None:
    assert explanation(summaries, method) == sentences


# the page


def test_a_large_group_is_explained_whole(own_runs: Path) -> None:
    # The first 75 of 100 are right. Of those that are shown, all are: their mean would be 1.
    rewards = [1.0] * 75 + [0.0] * 25
    many = [trace(prompt(), trace_id=f"t{i}", index=i, reward=reward) for i, reward in enumerate(rewards)]
    shutil.rmtree(own_runs / "aipo" / "traces")
    with TraceStore(own_runs / "aipo" / "traces") as store:
        store.seal(0, group(many, load_config(str(own_runs / "aipo" / "config.yaml"), ()).method).traces)
    html = group_page(RunLibrary(own_runs).run("aipo"), "g", Links(3))
    assert "the mean of 100 rewards: 0.75." in html and "0.75 ± 0.435" in html
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
    assert html.count("goes with most") == html.count("majority</span>") == 1
    same, leaving = html.count("the same as #"), len(re.findall(r"leaves #\d at token \d+", html))
    assert 1 + same + leaving == len(of_group) and leaving
    indices = [int(i) for i in re.findall(r'id="r(\d+)"', html)]
    assert all(b == a + 1 for a, b in pairwise(indices))


def test_groups_lead_to_their_neighbours(little_runs: Path) -> None:
    for number in range(3):
        html, names = page(little_runs, number)
        assert (f'rel="prev" href="../../../run/aipo/group/{names[number - 1]}.html"' in html) == (number > 0)
        assert f'rel="next" href="../../../run/aipo/group/{names[number + 1]}.html"' in html
    last, names = page(little_runs, -1)
    assert 'rel="next"' not in last and len(names) == 8


def test_without_a_tokenizer_texts_are_shown_all_the_same(own_runs: Path) -> None:
    before, _ = page(own_runs)
    shutil.rmtree(own_runs / "aipo" / "tokenizer")
    after, _ = page(own_runs)
    lists = [re.findall(r'<ol class="rollouts">.*</ol>', html, re.DOTALL) for html in (before, after)]
    texts = [re.sub(r"<[^>]*>", "", html) for (html,) in lists]
    assert texts[0] == texts[1]


def test_a_static_site_has_no_page_for_every_pair(little_runs: Path) -> None:
    assert "compare/" in page(little_runs)[0] and "compare/" not in page(little_runs, live=False)[0]


def test_a_group_that_is_not_there_is_named(little_runs: Path) -> None:
    with pytest.raises(TraceError, match="got 'gone'"):
        group_page(RunLibrary(little_runs).run("aipo"), "gone", Links(3))


def test_forks_are_marked_where_they_begin_each_place_once() -> None:
    def one(text: str, fork: int | None = None) -> Leaf:
        how = {"colours": [(len(text), "policy")], "label": text, "href": "#", "verdict": "good"}
        return Leaf(
            tokens=[ord(c) for c in text], fork=fork, note="forked, nats: H 0.1 → 0.9" if fork else "", **how
        )

    # two forks behind the same two tokens: one goes on as its parent for a token; and one that is forked from a fork
    picture = branches_svg([one("abcd"), one("abce", 2), one("abxy", 2), one("abxz", 3), one("q")])
    assert picture.count('class="forked"') == 2
    assert picture.count("> H 0.1 → 0.9</text>") == 2 and "forked, nats: H 0.1 → 0.9</title>" in picture
    assert 'class="forked"' not in branches_svg([one("ab"), one("ac")])
