"""Without agent tokens loss, gradient and correction are TRL's own; supervised training is transformers'."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer

from aipo.method.credit import reward
from aipo.method.metrics import METRICS, QUANTITIES
from aipo.method.objectives import OBJECTIVES
from aipo.method.rows import Code, distil
from aipo.method.settings import MethodSettings
from aipo.method.step_rows import StepRows
from aipo.policies.tags import Tags
from aipo.trace import Mode, Trace
from aipo.train.trainer import AIPOTrainer
from kit import tiny
from kit.handmade import agent, consult, policy, prompt, trace
from kit.training import helped, lines, rollout, step, steps, trainer

BOUNDS = {"gspo": {"clip_low": 0.2, "clip_high": 0.28}, "cispo": {"clip_high": 0.1}}
"""Bounds that rows of the tests leave now and then: their log-probs were made up."""
CAP = 3.0


def method_of(objective: str, **settings: Any) -> MethodSettings:
    return tiny.method(objective=objective, **BOUNDS.get(objective, {}), **settings)


def trls_loss(trained: AIPOTrainer, model: Any, batch: dict[str, Tensor], tokens: int) -> Tensor:
    """TRL's own loss of a micro-batch of a step with so many policy tokens."""
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
    inputs = {name: batch[name] for name in names}
    inputs["num_items_in_batch"] = torch.tensor(float(tokens))
    inputs["old_per_token_logps"] = batch["behaviour_logprobs"].nan_to_num()
    if "reference_logprobs" in batch:
        inputs["ref_per_token_logps"] = batch["reference_logprobs"]
    return GRPOTrainer._compute_loss(trained, model, inputs)


def check_gradients(model: Any, ours: Tensor, theirs: Tensor, rtol: float = 1e-5) -> None:
    parameters = list(model.parameters())
    slopes = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (ours, theirs)]
    for mine, reference in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, reference, rtol=rtol, atol=1e-6)


class Compared(AIPOTrainer):
    """Computes TRL's own loss beside ours, on the same micro-batch and weights."""

    compared = 0

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        ours = super()._compute_loss(model, inputs)
        theirs = trls_loss(self, model, inputs, self.source.rows(0).totals.policy_tokens)
        for name in [n for n in self._metrics["train"] if n not in METRICS]:
            del self._metrics["train"][name]
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        check_gradients(self.model, ours, theirs)
        self.compared += 1
        return ours


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize(
    ("beta", "schedule"),
    [
        (0.0, {}),
        (0.0, {"minibatches": 2, "passes": 2}),
        (0.0, {"minibatches": 2, "gradient_accumulation": 2}),
        (0.3, {"minibatches": 2}),
    ],
    ids=str,
)
def test_without_agents_the_loss_and_its_gradient_are_trls(
    tmp_path: Path, objective: str, beta: float, schedule: dict[str, int]
):
    parts = {
        "kind": Compared,
        "model": tiny.saved(tmp_path / "model"),
        "method": method_of(objective, beta=beta),
    }
    trained = trainer(tmp_path, steps(1, rows=8), **parts, rollout_steps=2, **schedule)
    trained.train()
    logged = lines(tmp_path)
    assert any(0.0 < line["clip/policy"] < 1.0 for line in logged)
    assert [line.get("kl", 0.0) > 0 for line in logged] == [False, *[beta > 0] * (len(logged) - 1)]
    assert trained.compared == 2 * int(np.prod(list(schedule.values())))


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_rows_without_an_advantage_count_and_cost_nothing(tmp_path: Path, objective: str):
    """Dropping them leaves the gradient of all rows, which is TRL's."""
    rng = np.random.default_rng(0)
    mixed = step(*(rollout(i, rng, advantage=(0.0, 1.0, -0.5)[i % 3]) for i in range(6)))
    trained = trainer(tmp_path, [mixed], method=method_of(objective))
    trained.current_gradient_accumulation_steps = 1
    (batch,) = trained._micro_batches(mixed)
    assert len(batch["advantages"]) == 4
    ours = trained._compute_loss(trained.model, batch)
    every = trained._batch(mixed.rows, mixed.totals)
    theirs = trls_loss(trained, trained.model, every, mixed.totals.policy_tokens)
    check_gradients(trained.model, ours, theirs)


def as_trl_prepares(trained: AIPOTrainer, batch: dict[str, Tensor], mode: str, low: float | None) -> Any:
    """The same rows as TRL prepares them when its vLLM path has sampled them: scored, and corrected."""
    trained.use_vllm = trained.vllm_importance_sampling_correction = True
    trained.vllm_importance_sampling_mode = mode
    trained.vllm_importance_sampling_clip_max, trained.vllm_importance_sampling_clip_min = CAP, low

    def unpadded(name: str, mask: str) -> list[list[Any]]:
        return [row[kept == 1].tolist() for row, kept in zip(batch[name], batch[mask], strict=True)]

    behaviour = unpadded("behaviour_logprobs", "completion_mask")
    logprobs = [[None if np.isnan(x) else x for x in row] for row in behaviour]
    tool_mask = [[int(code == Code.POLICY) for code in row] for row in unpadded("codes", "completion_mask")]
    ids = unpadded("prompt_ids", "prompt_mask"), unpadded("completion_ids", "completion_mask")
    count = len(logprobs)
    trained._generate = lambda prompts: (*ids, tool_mask, [""] * count, logprobs, {}, None, None)
    trained._calculate_rewards = lambda *_: torch.zeros(count, 1)
    trained.reward_func_names = ["none"]
    prepared = trained._generate_and_score_completions([{"prompt": ""}] * count)
    trained._metrics["train"].clear()
    return prepared | {"advantages": batch["advantages"]}


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize(
    ("correction", "mode", "low"), [("truncate", "token_truncate", None), ("mask", "token_mask", 1 / CAP)]
)
def test_the_correction_is_trls(
    tmp_path: Path, objective: str, correction: str, mode: str, low: float | None
):
    """Loss and gradient of a rollout step's second optimizer step, with agents' tokens in the rows; the weights
    have moved since they were sampled."""
    rng = np.random.default_rng(0)
    pairs = [(rollout(i, rng), helped(i, rng, advantage=(-1.0, 0.5, 1.0)[i % 3])) for i in range(6)]
    given = step(*(one for pair in pairs for one in pair))
    method = method_of(objective, coefficient="mask", importance_mode=correction, importance_cap=CAP)
    trained = trainer(tmp_path, [given], method=method, minibatches=2)
    trained.model.train()
    batch = trained._micro_batches(given)[1]
    theirs = as_trl_prepares(trained, batch, mode, low)
    own = batch["codes"] == Code.POLICY
    assert theirs["importance_sampling_ratio"][own].unique().numel() > 10
    old = batch["trainer_logprobs"]
    torch.testing.assert_close(theirs["old_per_token_logps"][own], old[own])

    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in trained.model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    trained._step = 1
    trained.current_gradient_accumulation_steps = 1
    theirs["num_items_in_batch"] = torch.tensor(float(given.totals.policy_tokens))
    reference = GRPOTrainer._compute_loss(trained, trained.model, theirs)
    ours = trained._compute_loss(trained.model, batch)
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)
    check_gradients(trained.model, ours, reference, rtol=1e-4)
    sums = dict(zip(QUANTITIES, trained._sums[0].tolist(), strict=True))
    ratio = (old - batch["behaviour_logprobs"]).exp()[own]
    assert 0 < sums["cut"] == ((ratio > CAP) | (ratio < (low or 0))).sum()


def test_our_scores_are_those_of_trls_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Which scores large batches."""
    given = steps(1, rows=6)[0]
    trained = trainer(tmp_path, [given], temperature=0.7)
    (batch,) = trained._micro_batches(given)
    dense = trained._score(trained.model, batch)
    monkeypatch.setattr("aipo.train.trainer._DENSE_LOGITS", 0)
    own = batch["completion_mask"] == 1
    for ours, theirs in zip(dense, trained._score(trained.model, batch), strict=True):
        torch.testing.assert_close(ours[own], theirs[own], rtol=1e-5, atol=1e-5)
    fused, _ = trained._score(trained.model, batch)
    check_gradients(trained.model, dense[0][own].mean(), fused[own].mean())


def cross_entropy(model: Any, rows: list[tuple[list[int], str]]) -> Tensor:
    """The sum over learned tokens (`x`) of rows, by transformers."""

    def of(ids: list[int], learned: str) -> Tensor:
        labels = [i if mark == "x" else -100 for i, mark in zip(ids, learned, strict=True)]
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        return loss * learned.count("x")

    return torch.stack([of(*row) for row in rows]).sum()


def demonstrated(i: int, ids: list[int]) -> Trace:
    return trace(prompt(2, 3 + i % 3), agent(*ids, source="expert"), trace_id=f"t{i}", mode=Mode.EXPERT)


@pytest.mark.parametrize("gradient_accumulation", [1, 3])
def test_demonstrations_without_a_baseline_are_supervised_training(
    tmp_path: Path, gradient_accumulation: int
):
    rng = np.random.default_rng(0)
    shown: list[list[int]] = [rng.integers(2, tiny.VOCABULARY, n).tolist() for n in (3, 9, 5, 1, 7, 4)]
    traces = [demonstrated(i, ids) for i, ids in enumerate(shown)]
    given = step(*reward(traces, tiny.method()).traces)
    trained = trainer(tmp_path, [given], gradient_accumulation=gradient_accumulation)
    ours = [trained._compute_loss(trained.model, batch) for batch in trained._micro_batches(given)]
    assert len(ours) == gradient_accumulation
    rows = [([2, 3 + i % 3, *ids], "--" + "x" * len(ids)) for i, ids in enumerate(shown)]
    count = sum(map(len, shown))
    check_gradients(trained.model, torch.stack(ours).sum(), cross_entropy(trained.model, rows) / count)


def test_rewarded_rollouts_without_a_clip_are_supervised_training(tmp_path: Path):
    """As `sft_traces` has it: what was right is learned, whatever π_old was; agents' words are context, and a
    distilled row is one more row. The mean is over the tokens of all rollouts."""
    right = trace(prompt(2, 3), policy(4, 13, 5), agent(6), policy(7, 8), consults=(consult(1, 1, 2),))
    alone, wrong = trace(prompt(2), policy(9, 10)), trace(prompt(2), policy(3, 3, 3), reward=0.0)
    sampled = step(*reward([right, alone, wrong], tiny.method()).traces)
    cut = distil(right, Tags((13,)), suppress=False)
    assert cut is not None
    given = StepRows(rows=(*sampled.rows, cut), totals=sampled.totals, active_share=1.0)
    method = tiny.method(objective="cispo", clip_low=1e-9, clip_high=1e-9, coefficient="mask")
    trained = trainer(tmp_path, [given], method=method)
    (batch,) = trained._micro_batches(given)
    rows = [
        ([2, 3, 4, 13, 5, 6, 7, 8], "--xxx-xx"),
        ([2, 3, 4, 7, 8], "---xx"),
        ([2, 9, 10], "-xx"),
    ]
    theirs = cross_entropy(trained.model, rows) / (5 + 2 + 3)
    check_gradients(trained.model, trained._compute_loss(trained.model, batch), theirs)
