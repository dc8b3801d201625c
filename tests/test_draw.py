"""The picture of agents' tokens that the policy did not know, from token stats whose numbers are written here."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aipo.method.rows import Code
from aipo.trace.store import TraceStore
from aipo.trace.token_stats import TokenStats, TokenStatsStore
from kit.handmade import agent, policy, prompt, trace

pytest.importorskip("matplotlib")  # of the extra `plots`


def load_draw() -> Any:
    file = Path(__file__).parent / "benchmarks" / "draw.py"
    spec = importlib.util.spec_from_file_location("draw", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_run(run: Path, replies: list[list[tuple[list[int], list[float]]]]) -> None:
    """A run with, by rollout step, the ids of replies and the probabilities of them before and after an update."""
    traces, stats = TraceStore(run / "traces", decode=str), TokenStatsStore(run / "token_stats")
    for step, of_step in enumerate(replies):
        made = [
            trace(prompt(2), policy(4), agent(*ids), trace_id=f"{step}/{n}", step=step, index=n)
            for n, (ids, _) in enumerate(of_step)
        ]
        for one in made:
            traces.append(one)
        traces.seal(step, made)
        rows: list[TokenStats] = []
        for one, (_, pi) in zip(made, of_step, strict=True):
            count = 1 + len(pi)
            for update in (1, 2):  # only the first of a step's updates counts
                rows.append(
                    TokenStats(
                        trace_id=one.trace_id,
                        kind="sampled",
                        step=step,
                        optimizer_step=2 * step + update,
                        segments_T=np.array([1] + [2] * len(pi), np.int32),
                        codes_T=np.array([Code.POLICY] + [Code.AGENT] * len(pi), np.int8),
                        weights_T=np.ones(count, np.float32),
                        ratios_T=np.ones(count, np.float32),
                        clipped_T=np.zeros(count, np.bool_),
                        advantage=1.0,
                        logprobs_T=np.log(np.array([0.5, *pi]) if update == 1 else np.full(count, 0.9)),
                    )
                )
        stats.publish(step, rows)
    traces.close()


def test_unknown_tokens_over_training_and_since_they_were_met(tmp_path: Path) -> None:
    """7 is known from the start. 6 is unknown when it is met in step 0, and so is the 6 of another reply in step 1."""
    write_run(
        tmp_path,
        [
            [([6, 7], [0.01, 0.8])],
            [([6, 7], [0.2, 0.9]), ([6, 8], [0.05, 0.06])],
            [([6, 7], [0.6, 0.9]), ([6, 8], [0.1, 0.3])],
        ],
    )
    over_training, since = load_draw().unknown_curves(tmp_path)
    assert over_training == [(1.0, pytest.approx(0.2)), (2.0, pytest.approx((0.6 + 0.1 + 0.3) / 3))]
    assert since == [
        (0.0, pytest.approx((0.01 + 0.05 + 0.06) / 3)),
        (1.0, pytest.approx((0.2 + 0.1 + 0.3) / 3)),
        (2.0, pytest.approx(0.6)),
    ]


def test_a_line_for_each_arm_with_the_spread_of_its_finished_seeds(tmp_path: Path) -> None:
    for arm, seeds in {"mask": (0.02, 0.04), "power": (0.5,)}.items():
        for seed, pi in enumerate(seeds):
            run = tmp_path / arm / str(seed)
            write_run(run, [[([6], [0.05])], [([6], [pi])]])
            (run / "model").mkdir()
    (tmp_path / "mask" / "9").mkdir()  # has not begun
    (since,) = [chart for chart in load_draw().unknown(tmp_path, []) if chart["title"] == "Since first met"]
    lines = {line["name"]: line for line in since["lines"]}
    assert list(lines) == ["mask (2)", "power (1)"]
    assert lines["mask (2)"]["y"][0] == pytest.approx(0.05) and "low" in lines["mask (2)"]
    assert [chart["lines"][0]["name"] for chart in load_draw().unknown(tmp_path, ["power"])] == [
        "power (1)"
    ] * 2
