"""Token stats say what the loss did with each token, once for each optimizer step that trained it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aipo.method.rows import Code
from aipo.trace.token_stats import TokenStats
from aipo.train.trainer import AIPOTrainer
from kit import tiny
from kit.training import mixed, nothing, trainer


class Differentiated(AIPOTrainer):
    """Keeps the gradient of the loss with respect to each log-prob, as the trainer computes both."""

    expected: list[tuple[int, float, list[int], list[float], list[float], float]]

    def _score(self, model: Any, inputs: Any) -> tuple[Tensor, Tensor]:
        self.scored, entropies = super()._score(model, inputs)
        return self.scored, entropies

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        (gradient,) = torch.autograd.grad(loss, self.scored, retain_graph=True)
        weights = gradient.abs() * inputs["denominators"][:, None] / inputs["advantages"].abs()
        self.expected = getattr(self, "expected", [])
        for b, advantage in enumerate(inputs["advantages"][:, 0].tolist()):
            own = inputs["completion_mask"][b] == 1
            codes, of_row = inputs["codes"][b][own].tolist(), weights[b][own].tolist()
            rest = self.scored[b][own].tolist(), float(inputs["denominators"][b])
            self.expected.append((self.state.global_step + 1, advantage, codes, of_row, *rest))
        return loss


@pytest.mark.parametrize(
    "how",
    [
        {"coefficient": "floor"},
        {"coefficient": "floor", "importance_cap": 1.2},
        {"coefficient": "rlplus", "objective": "cispo", "clip_high": 0.1},
        {"coefficient": "power", "coefficient_trust": 0.1, "objective": "gspo", "denominator": "union"},
    ],
    ids=str,
)
def test_token_stats_tell_the_gradient_of_every_token(tmp_path: Path, how: dict[str, Any]):
    """|∂loss/∂log π| · denominator / |A| by autograd, in every optimizer step: first passes and clipped ones."""
    stats: list[TokenStats] = []
    schedule = {"minibatches": 2, "gradient_accumulation": 2, "passes": 2, "learning_rate": 0.1}
    keep = {"on_token_stats": lambda _, of_step: stats.extend(of_step)}
    parts = {"kind": Differentiated, "method": tiny.method(**how), "how": keep}
    trained = trainer(tmp_path, [mixed()], **parts, **schedule)
    trained.train()
    assert len(stats) == 2 * (4 + 3 + 2)
    for one, (optimizer_step, advantage, codes, weights, logprobs, denominator) in zip(
        stats, trained.expected, strict=True
    ):
        assert (one.optimizer_step, one.codes_T.tolist()) == (optimizer_step, codes)
        assert one.advantage == pytest.approx(advantage)
        assert one.weights_T.tolist() == pytest.approx(weights, rel=1e-4, abs=1e-6)
        assert np.array_equal(np.isnan(one.ratios_T), one.codes_T != Code.POLICY)
        assert one.weights_T.any() or one.clipped_T.any()
        assert one.logprobs_T is not None and one.logprobs_T.tolist() == pytest.approx(logprobs)
        pushes = np.abs(one.advantage) * one.weights_T / denominator
        assert one.push == pytest.approx(pushes.sum(), rel=1e-4) and one.agent_advantage == one.advantage
    assert {one.optimizer_step for one in stats} == {1, 2, 3, 4}
    assert any(one.clipped_T.any() for one in stats)


def test_agents_tokens_whose_coefficient_ignores_the_advantage_have_an_advantage_of_1(tmp_path: Path):
    stats: list[TokenStats] = []
    how = {"on_token_stats": lambda _, of_step: stats.extend(of_step)}
    trainer(tmp_path, [mixed()], method=tiny.method(coefficient="echo"), how=how).train()
    assert {one.agent_advantage for one in stats} == {1.0}
    assert {one.advantage for one in stats} != {1.0}


def test_they_are_handed_over_when_their_rollout_step_has_been_trained(tmp_path: Path):
    """All rows that have an advantage are in them."""
    handed: list[tuple[int, int, set[int]]] = []
    rows: list[tuple[str, str]] = []

    def hand_over(rollout_step: int, stats: list[TokenStats]) -> None:
        handed.append((rollout_step, trained.state.global_step, {one.optimizer_step for one in stats}))
        rows.extend((one.trace_id, one.kind) for one in stats if one.step == 0)

    schedule = {"minibatches": 2, "gradient_accumulation": 2}
    trained = trainer(tmp_path, [mixed(), nothing(), mixed(1)], how={"on_token_stats": hand_over}, **schedule)
    trained.train()
    assert handed == [(0, 2, {1, 2}), (1, 4, set()), (2, 6, {5, 6})]
    sampled = [(name, "sampled") for name in ("h0", "h1", "h2", "t0", "t1", "t3", "t4")]
    assert sorted(rows) == sorted([*sampled, ("h0", "distilled"), ("h2", "distilled")])
