"""The data of the token view: short, and honest about what nobody recorded."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from aipo.render.spans import text_spans
from aipo.render.templating import json_block
from aipo.trace import Role, Trace, segment
from aipo.trace.token_stats import TokenStats
from aipo.viewer.data.tokens import TokenData, after_seam, rounded, token_data
from kit.handmade import trace

TRACE = trace(
    segment(Role.PROMPT, "prompt", [1, 2]),
    segment(Role.POLICY, "policy", [3, 4, 5], logprobs=[-0.123456789, -1e-9, 0.0], entropies=[0.5, 0.0, 1.25],
            policy_version=7),
    segment(Role.AGENT, "verify", [6, 7]),
    segment(Role.POLICY, "policy", [8], logprobs=[-2.0]),
    advantage=0.1234567,
)  # fmt: skip


def texts(ids: Sequence[int]) -> list[str]:
    return [chr(96 + i) for i in ids]


def data(*token_stats: TokenStats, of: Trace = TRACE) -> TokenData:
    return token_data(of, text_spans(of, None), texts, token_stats)


def test_the_space_at_a_seam_is_the_first_tokens() -> None:
    assert after_seam(["the", " answer"], " the answer") == [" the", " answer"]
    assert after_seam(["the", " answer"], "the answer") == ["the", " answer"]
    assert after_seam(["\ufffd", "b"], "€b") == ["\ufffd", "b"]
    assert after_seam([], " ") == []
    said = [" ab", "cde", "fg", "h"]
    shown = token_data(TRACE, text_spans(TRACE, said), texts)["segments"]
    assert [segment["texts"] for segment in shown] == [[" a", "b"], ["c", "d", "e"], ["f", "g"], ["h"]]


def stats(segments: Sequence[int], **rest: object) -> TokenStats:
    count = len(segments)
    values: dict[str, object] = {
        **{"trace_id": "t", "kind": "sampled", "step": 0, "optimizer_step": 3, "advantage": 0.5},
        "segments_T": np.array(segments, np.int32),
        "codes_T": np.ones(count, np.int8),
        "weights_T": np.full(count, 1.0, np.float32),
        "ratios_T": np.full(count, np.nan, np.float32),
        "clipped_T": np.zeros(count, np.bool_),
    }
    return TokenStats(**(values | rest))  # type: ignore[arg-type]


def test_a_segment_has_what_was_recorded() -> None:
    prompt, policy, agent, last = data()["segments"]
    assert policy == {
        **{"label": "policy", "role": "policy", "colour": "policy", "version": 7},
        "ids": [3, 4, 5],
        "texts": ["c", "d", "e"],
        "logprobs": [-0.12346, -1e-9, 0],
        "entropies": [0.5, 0, 1.25],
        "advantage": None,
    }
    assert (prompt["logprobs"], prompt["entropies"], prompt["version"]) == (None, None, None)
    assert (agent["label"], agent["role"], agent["colour"]) == ("verify", "agent", "agent0")
    assert (last["logprobs"], last["entropies"]) == ([-2], None)
    assert data()["advantage"] == 0.12346


def test_a_row_says_which_tokens_it_is_about() -> None:
    ratios_T, weights_T = np.array([[1.5, np.nan, 0.25], [0.0, 0.3, 1.0]], np.float32)
    clipped_T = np.array([True, False, False])
    distilled = stats(
        [1, 1, 3], kind="distilled", ratios_T=ratios_T, weights_T=weights_T, clipped_T=clipped_T
    )
    assert data(distilled)["rows"] == [
        {"name": "distilled, update 3", "kind": "distilled", "optimizer_step": 3, "advantage": 0.5,
         "agent_advantage": 0.5, "of_rollout": 0.65, "of_step": None, "logprobs": None, "at": [[2, 2], [7, 1]],
         "weights": [0, 0.3, 1], "ratios": [1.5, None, 0.25], "clipped": [0]},
    ]  # fmt: skip


def test_a_token_has_its_share_of_the_gradient_weight_of_the_rollout_and_of_the_step() -> None:
    # Positions 2 to 6: three of the policy, two of the agent, whose coefficient ignores the advantage.
    sampled = stats(
        [1, 1, 1, 2, 2],
        codes_T=np.array([1, 1, 1, 2, 2], np.int8),
        weights_T=np.array([1.0, 0.0, 2.0, 0.5, 0.5], np.float32),
        logprobs_T=np.array([-1.0, -2.0, -0.5, -0.25, -3.0], np.float32),
        advantage=-0.5,
        agent_advantage=1.0,
        push=0.25,
    )  # Σ|A·w| = 0.5 + 0 + 1 + 0.5 + 0.5 = 2.5
    distilled = stats([3], kind="distilled", codes_T=np.array([5], np.int8), push=0.05)  # 0.5
    rows = token_data(TRACE, text_spans(TRACE, None), texts, [sampled, distilled], {3: 1.0})["rows"]
    assert [(row["of_rollout"], row["of_step"]) for row in rows] == [(3.0, 10.0), (3.0, 10.0)]
    assert [(row["advantage"], row["agent_advantage"]) for row in rows] == [(-0.5, 1), (0.5, 0.5)]
    assert [row["logprobs"] for row in rows] == [[-1, -2, -0.5, -0.25, -3], None]


def test_rows_of_another_optimizer_step_are_no_part_of_the_whole_and_what_nobody_recorded_is_unknown() -> (
    None
):
    first, second = data(stats([1]), stats([3], kind="distilled", optimizer_step=4))["rows"]
    assert (first["of_rollout"], first["of_step"]) == (0.5, None)
    assert (second["of_rollout"], second["of_step"], second["logprobs"]) == (0.5, None, None)


@pytest.mark.parametrize(("segments", "at"), [([1, 1, 1, 2, 2, 3], [[2, 6]]), ([], [])])
def test_a_row_without_any_ratio_says_so_once(segments: list[int], at: list[list[int]]) -> None:
    (row,) = data(stats(segments))["rows"]
    assert row["ratios"] is None and row["at"] == at


def test_a_token_stats_of_other_segments_is_left_out() -> None:
    assert data(stats([1, 1, 1, 1]))["rows"] == []


@pytest.mark.parametrize("texts", [None, ["ab"]])
def test_texts_that_are_not_one_for_each_token_are_left_out(texts: list[str] | None) -> None:
    assert token_data(TRACE, text_spans(TRACE, None), lambda ids: texts)["segments"][0]["texts"] is None


def test_texts_that_steer_are_disarmed() -> None:
    found = token_data(TRACE, text_spans(TRACE, None), lambda ids: ["\u202e\ud800"] * len(ids))
    assert found["segments"][3]["texts"] == ["⟨U+202E⟩⟨U+D800⟩"]
    assert "\u202e" not in json_block("x", found)


@pytest.mark.parametrize(
    ("value", "short"),
    [
        (0.123456, "0.12346"), (-2.0265559e-06, "-2.0266e-06"), (123456.0, "123460"),
        (1.0, "1"), (-0.0, "0"), (0.0, "0"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, short: str) -> None:
    assert json.dumps(rounded(value)) == short


def test_sixteen_thousand_tokens_are_quick_and_a_miniature_is_small() -> None:
    rng = np.random.default_rng(0)

    def long(count: int) -> Trace:
        ids, logprobs = rng.integers(0, 50_000, count), -rng.exponential(0.1, count)
        return trace(segment(Role.POLICY, "policy", ids, logprobs=logprobs, entropies=rng.random(count)))

    assert len(json_block("x", data(stats([0] * 45), of=long(45)))) < 2500
    assert len(json_block("x", data(stats([0] * 16_000), of=long(16_000)))) < 700_000
