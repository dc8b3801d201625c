"""The trainer: TRL's own loss where there are no agent tokens, exact resumption, honest refusals."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOTrainer

from aipo.errors import TrainError
from aipo.method.batch import TokenTotals
from aipo.method.credit import reward
from aipo.method.loss import QUANTITIES
from aipo.method.metrics import METRICS
from aipo.method.objectives import OBJECTIVES
from aipo.method.rows import Code, distil, rows_of
from aipo.method.settings import MethodSettings
from aipo.method.step_rows import StepRows
from aipo.policies import SampleRequest
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.trace import Mode, Trace
from aipo.trace.parquet_files import StepFiles
from aipo.trace.token_stats import TokenStats, TokenStatsStore
from aipo.train.schedule import trl_arguments
from aipo.train.trainer import AIPOTrainer
from kit import tiny
from kit.handmade import agent, consult, policy, prompt, trace


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rollout(i: int, rng: np.random.Generator, *, advantage: float | None = None) -> Trace:
    """2-4 prompt tokens, 2-8 policy tokens; the advantage is never 0."""
    ids = rng.integers(2, tiny.VOCABULARY, 12).tolist()
    begin, length = int(rng.integers(2, 5)), int(rng.integers(2, 9))
    if advantage is None:
        advantage = float(rng.choice([-1.0, 0.5, 1.0]))
    logprobs = -2.5 - 0.5 * rng.random(length)
    return trace(
        prompt(*ids[:begin]),
        policy(*ids[4 : 4 + length], logprobs=logprobs.tolist()),
        trace_id=f"t{i}",
        advantage=advantage,
    )


def step(*traces: Trace, active_share: float = 1.0, **metrics: float) -> StepRows:
    rows = tuple(row for one in traces for row in rows_of(one))
    return StepRows(rows=rows, totals=TokenTotals.of(rows), active_share=active_share, metrics=metrics)


def steps(count: int, rows: int, seed: int = 0) -> list[StepRows]:
    rng = np.random.default_rng(seed)
    return [step(*(rollout(i, rng) for i in range(rows))) for _ in range(count)]


def build(
    folder: Path,
    given: list[StepRows],
    *,
    kind: type[AIPOTrainer] = AIPOTrainer,
    model: Any = None,
    method: MethodSettings | None = None,
    rollout_steps: int | None = None,
    shared: bool = False,
    how: dict[str, Any] | None = None,
    **args: Any,
) -> AIPOTrainer:
    method = method or tiny.method()
    made: dict[str, Any] = {
        "rollout_steps": len(given) if rollout_steps is None else rollout_steps,
        "learning_rate": 1e-2,
        "max_completion_length": 16,
    }
    return kind(
        tiny.model() if model is None else model,
        trl_arguments(folder, method, **(made | args)),
        tiny.Rows(given, shared=shared),
        method,
        tokenizer=tiny.tokenizer(),
        **(how or {}),
    )


def weights(trainer: AIPOTrainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Compared(AIPOTrainer):
    """Computes TRL's own loss beside ours, on the same micro-batch and weights."""

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        ours = super()._compute_loss(model, inputs)
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
        theirs = {name: inputs[name] for name in names}
        theirs["num_items_in_batch"] = torch.tensor(float(self.source.rows(0).totals.policy_tokens))
        theirs["old_per_token_logps"] = inputs["behaviour_logprobs"].nan_to_num()
        if "reference_logprobs" in inputs:
            theirs["ref_per_token_logps"] = inputs["reference_logprobs"]
        reference = GRPOTrainer._compute_loss(self, model, theirs)
        for name in [n for n in self._metrics["train"] if n not in METRICS]:
            del self._metrics["train"][name]
        parameters = list(self.model.parameters())
        mine = torch.autograd.grad(ours, parameters, retain_graph=True)
        reference_gradients = torch.autograd.grad(reference, parameters, retain_graph=True)
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)
        for a, b in zip(mine, reference_gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        self.compared = getattr(self, "compared", 0) + 1
        return ours


BOUNDS = {"gspo": {"clip_low": 0.2, "clip_high": 0.28}, "cispo": {"clip_high": 0.1}}
"""Bounds that rows of the tests leave now and then: their log-probs were made up."""


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"minibatches": 2, "passes": 2},
        {"minibatches": 2, "gradient_accumulation": 2},
    ],
    ids=str,
)
def test_without_agents_the_loss_and_its_gradient_are_trls(
    tmp_path: Path, objective: str, schedule: dict[str, int]
):
    given = steps(1, rows=8)
    trainer = build(
        tmp_path,
        given,
        kind=Compared,
        method=tiny.method(objective=objective, **BOUNDS.get(objective, {})),
        rollout_steps=2,
        **schedule,
    )
    trainer.train()
    assert any(0.0 < line["clip/policy"] < 1.0 for line in lines(tmp_path))
    assert trainer.compared == 2 * int(np.prod(list(schedule.values())))


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_kl_term_is_trls(tmp_path: Path, objective: str):
    settings = tiny.method(objective=objective, beta=0.3, **BOUNDS.get(objective, {}))
    given = steps(1, rows=8)
    trainer = build(
        tmp_path,
        given,
        kind=Compared,
        model=tiny.saved(tmp_path / "model"),
        method=settings,
        rollout_steps=3,
        minibatches=2,
    )
    trainer.train()
    assert [line["kl"] > 0 for line in lines(tmp_path)] == [False, True, True, True, True, True]


def consulting(i: int, rng: np.random.Generator) -> Trace:
    """A rollout that an agent wrote into; its log-probs are not known."""
    ids = rng.integers(2, tiny.VOCABULARY, 10).tolist()
    logprobs = (-2.5 - rng.random(6)).tolist()
    return trace(
        prompt(*ids[:2]),
        policy(*ids[2:5], logprobs=logprobs[:3]),
        agent(*ids[5:7]),
        policy(*ids[7:], logprobs=logprobs[3:]),
        trace_id=f"h{i}",
        advantage=float(rng.choice([-1.0, 0.5, 1.0])),
    )


def of_trl(trainer: AIPOTrainer, batch: dict[str, Tensor], mode: str, low: float | None) -> dict[str, Tensor]:
    """The same rows as TRL prepares them when its vLLM path has sampled them: scored, and corrected."""
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    trainer.vllm_importance_sampling_mode = mode
    trainer.vllm_importance_sampling_clip_max, trainer.vllm_importance_sampling_clip_min = CAP, low

    def own(name: str, mask: str) -> list[list[Any]]:
        return [row[kept == 1].tolist() for row, kept in zip(batch[name], batch[mask], strict=True)]

    known = [
        [None if np.isnan(x) else x for x in row] for row in own("behaviour_logprobs", "completion_mask")
    ]
    tool_mask = [[int(code == Code.POLICY) for code in row] for row in own("codes", "completion_mask")]
    ids = own("prompt_ids", "prompt_mask"), own("completion_ids", "completion_mask")
    count = len(known)
    trainer._generate = lambda prompts: (*ids, tool_mask, [""] * count, known, {}, None, None)
    trainer._calculate_rewards = lambda *_: torch.zeros(count, 1)
    trainer.reward_func_names = ["none"]
    made = trainer._generate_and_score_completions([{"prompt": ""}] * count)
    trainer._metrics["train"].clear()
    return made | {"advantages": batch["advantages"]}


@pytest.mark.parametrize("gradient_accumulation", [1, 3])
def test_demonstrations_without_a_baseline_are_supervised_training(
    tmp_path: Path, gradient_accumulation: int
):
    """The gradient of an optimizer step against transformers' own cross-entropy of the same tokens."""
    rng = np.random.default_rng(0)
    shown: list[list[int]] = [rng.integers(2, tiny.VOCABULARY, n).tolist() for n in (3, 9, 5, 1, 7, 4)]
    traces = [
        trace(prompt(2, 3 + i % 3), agent(*ids, source="expert"), trace_id=f"t{i}", mode=Mode.EXPERT)
        for i, ids in enumerate(shown)
    ]
    made = step(*reward(traces, tiny.method()).traces)
    settings = tiny.method(objective="dapo", coefficient="constant")
    trainer = build(tmp_path, [made], method=settings, gradient_accumulation=gradient_accumulation)
    parameters = list(trainer.model.parameters())
    batches = trainer._micro_batches(made)
    ours = [torch.autograd.grad(trainer._compute_loss(trainer.model, b), parameters) for b in batches]

    ids_B_T = torch.full((6, 11), tiny.PAD)
    labels_B_T = torch.full((6, 11), -100)
    for i, own in enumerate(shown):
        ids_B_T[i, : 2 + len(own)] = torch.tensor([2, 3 + i % 3, *own])
        labels_B_T[i, 2 : 2 + len(own)] = torch.tensor(own)
    theirs = trainer.model(input_ids=ids_B_T, labels=labels_B_T).loss
    expected = torch.autograd.grad(theirs, parameters)
    for *parts, whole in zip(*ours, expected, strict=True):
        torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-6)


def test_rewarded_rollouts_without_a_clip_are_supervised_training(tmp_path: Path):
    """As `sft_traces` has it: the cross-entropy, by transformers, of what was right, whatever π_old was; agents'
    words are context, and a distilled row is one more row. The mean is over the tokens of all rollouts."""
    right = trace(prompt(2, 3), policy(4, 13, 5), agent(6), policy(7, 8), consults=(consult(1, 1, 2),))
    alone, wrong = trace(prompt(2), policy(9, 10)), trace(prompt(2), policy(3, 3, 3), reward=0.0)
    rows = [row for one in reward([right, alone, wrong], tiny.method()).traces for row in rows_of(one)]
    cut = distil(right, (13,), suppress=False)
    assert cut is not None
    made = StepRows(rows=(*rows, cut), totals=TokenTotals.of(rows), active_share=1.0, metrics={})
    settings = tiny.method(objective="cispo", clip_low=1e-9, clip_high=1e-9, coefficient="mask")
    trainer = build(tmp_path, [made], method=settings)
    (batch,) = trainer._micro_batches(made)
    parameters = list(trainer.model.parameters())
    ours = torch.autograd.grad(trainer._compute_loss(trainer.model, batch), parameters)

    def entropy(ids: list[int], learned: list[bool]) -> Tensor:
        labels = [i if own else -100 for i, own in zip(ids, learned, strict=True)]
        made = trainer.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
        return made.loss * sum(learned)

    expected = (
        entropy([2, 3, 4, 13, 5, 6, 7, 8], [False] * 2 + [True] * 3 + [False] + [True] * 2)
        + entropy([2, 3, 4, 7, 8], [False] * 3 + [True] * 2)
        + entropy([2, 9, 10], [False, True, True])
    ) / (5 + 2 + 3)
    for mine, theirs in zip(ours, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


CAP = 3.0


# With one ratio for a row, TRL gives every token the row's mean correction; ours has its own.
@pytest.mark.parametrize("objective", sorted(OBJECTIVES.keys() - {"gspo"}))
@pytest.mark.parametrize(
    ("correction", "mode", "low"), [("truncate", "token_truncate", None), ("mask", "token_mask", 1 / CAP)]
)
def test_the_correction_is_trls(
    tmp_path: Path, objective: str, correction: str, mode: str, low: float | None
):
    """Loss and gradient of a rollout step's second optimizer step, with agents' tokens in the rows; the weights
    have moved since they were sampled."""
    rng = np.random.default_rng(0)
    made = step(*(make(i, rng) for i in range(6) for make in (rollout, consulting)))
    settings = tiny.method(
        objective=objective,
        coefficient="mask",
        importance_mode=correction,
        importance_cap=CAP,
        **BOUNDS.get(objective, {}),
    )
    trainer = build(tmp_path, [made], method=settings, minibatches=2, how={"scores_again": True})
    trainer.model.train()
    batch = trainer._micro_batches(made)[1]
    theirs = of_trl(trainer, batch, mode, low)
    policy = batch["codes"] == Code.POLICY
    assert theirs["importance_sampling_ratio"][policy].unique().numel() > 10
    old = batch["trainer_logprobs"]
    torch.testing.assert_close(theirs["old_per_token_logps"][policy], old[policy])

    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in trainer.model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    trainer._step = 1
    trainer.current_gradient_accumulation_steps = 1
    theirs["num_items_in_batch"] = torch.tensor(float(made.totals.policy_tokens))
    reference = GRPOTrainer._compute_loss(trainer, trainer.model, theirs)
    ours = trainer._compute_loss(trainer.model, batch)
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)
    parameters = list(trainer.model.parameters())
    slopes = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (ours, reference)]
    for mine, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
    sums = dict(zip(QUANTITIES, trainer._sums[0].tolist(), strict=True))
    ratio = (old - batch["behaviour_logprobs"]).exp()[policy]
    assert 0 < sums["cut"] == ((ratio > CAP) | (ratio < (low or 0))).sum()


def test_drift_is_known_in_every_step_and_measuring_it_changes_nothing(tmp_path: Path):
    """Against scores by hand, of the weights that sampled; every rollout step in two passes of two optimizer steps."""
    given = steps(2, rows=8)
    watched = build(tmp_path / "a", given, kind=Recorded, minibatches=2, passes=2, how={"scores_again": True})
    expected: list[list[float]] = []
    micro_batches = watched._micro_batches

    def scored(made: StepRows) -> list[dict[str, Tensor]]:
        batches = micro_batches(made)
        for batch in batches:
            with torch.no_grad():
                own, _ = watched._score(watched.model, batch)
            gaps = (own - batch["behaviour_logprobs"]).abs()[batch["codes"] == Code.POLICY]
            expected.append([gaps.mean().item(), gaps.max().item()])
        return batches

    watched._micro_batches = scored
    watched.train()
    plain = build(tmp_path / "b", given, minibatches=2, passes=2)
    plain.train()
    logged = [[line["mismatch/mean"], line["mismatch/max"]] for line in lines(tmp_path / "a")]
    in_order = [*expected[:2], *expected[:2], *expected[2:], *expected[2:]]
    np.testing.assert_allclose(logged, in_order, rtol=1e-5)
    assert [line["loss"] for line in lines(tmp_path / "a")] == [
        line["loss"] for line in lines(tmp_path / "b")
    ]
    assert all(torch.equal(w, weights(plain)[name]) for name, w in weights(watched).items())


def test_what_is_trained_with_the_weights_that_sampled_is_not_scored_twice(tmp_path: Path):
    trainer = build(
        tmp_path,
        steps(1, rows=8),
        kind=Recorded,
        minibatches=2,
        gradient_accumulation=2,
        how={"scores_again": True},
    )
    trainer.train()
    assert ["trainer_logprobs" in batch for batch in trainer.batches] == [False, False, True, True]
    assert all("mismatch/mean" in line for line in lines(tmp_path))


def test_corrected_ratios_are_to_the_trainer(tmp_path: Path):
    settings = tiny.method(importance_cap=100.0)
    build(tmp_path, steps(1, rows=8), method=settings, minibatches=2, how={"scores_again": True}).train()
    first, second = lines(tmp_path)
    assert first["ratio/policy"] == 1.0
    assert 0 < abs(second["ratio/policy"] - 1) < 0.5
    assert abs(first["importance"] - 1) > 0.01  # the behaviour log-probs were made up
    assert second["mismatch/mean"] > 0.1


def test_a_limit_on_the_drift_stops_before_the_step_and_keeps_the_checkpoint(tmp_path: Path):
    """The third rollout step was sampled with something else: its log-probs are off by 30."""
    good, bad = (step(rollout(0, np.random.default_rng(0))) for _ in range(2))
    (row,) = bad.rows
    logprobs_T = row.behaviour_logprobs_T
    wrong = np.where(row.codes_T == Code.POLICY, logprobs_T - 30, logprobs_T)
    bad = replace(bad, rows=(replace(row, behaviour_logprobs_T=wrong.astype(np.float32)),))
    method = tiny.method(max_mismatch=10.0)
    trainer = build(tmp_path, [good, good, bad], method=method, save_every=1, learning_rate=1e-4)
    says = (
        r"train/inference mismatch in optimizer step 3: got a mean \|Δ log-prob\| of [\d.]+ \(at most [\d.]+\) on \d "
        r"policy tokens, allowed 10 \(method\.max_mismatch\).*the last checkpoint is as it was"
    )
    with pytest.raises(TrainError, match=says):
        trainer.train()
    assert [line["mismatch/mean"] < 10 for line in lines(tmp_path)] == [True, True]
    saved = type(trainer.model).from_pretrained(tmp_path / "checkpoint-2")
    now = weights(trainer)
    assert all(torch.equal(p, now[name]) for name, p in saved.named_parameters())


class Recorded(AIPOTrainer):
    """Keeps every micro-batch that was trained, and its gradient."""

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        if not hasattr(self, "batches"):
            self.batches: list[dict[str, Tensor]] = []
        self.batches.append(dict(inputs))
        return loss


def facts(batch: dict[str, Tensor]) -> Iterator[tuple[Any, ...]]:
    """Of every row: prompt, completion, log-probs, advantage; what must stay together."""
    for b in range(len(batch["advantages"])):
        prompt_ids = batch["prompt_ids"][b][batch["prompt_mask"][b] == 1].tolist()
        own = batch["completion_mask"][b] == 1
        yield (
            tuple(prompt_ids),
            tuple(batch["completion_ids"][b][own].tolist()),
            tuple(batch["behaviour_logprobs"][b][own].tolist()),
            batch["advantages"][b].item(),
        )


@pytest.mark.parametrize("rows", [5, 8])
def test_every_row_is_trained_once_per_iteration_and_stays_whole(tmp_path: Path, rows: int):
    given = steps(1, rows=rows)
    trainer = build(tmp_path, given, kind=Recorded, minibatches=2, gradient_accumulation=2, passes=2)
    trainer.train()
    expected = sorted(
        (
            tuple(row.token_ids_T[: row.prompt_tokens].tolist()),
            tuple(row.token_ids_T[row.prompt_tokens :].tolist()),
            tuple(row.behaviour_logprobs_T[row.prompt_tokens :].tolist()),
            row.advantage,
        )
        for row in given[0].rows
    )
    first, second = trainer.batches[:4], trainer.batches[4:]
    assert sorted(fact for batch in first for fact in facts(batch)) == expected
    assert sorted(fact for batch in second for fact in facts(batch)) == expected


def test_rows_are_dealt_out_anew_and_by_the_seed(tmp_path: Path):
    given = steps(1, rows=8)

    def order(seed: int) -> list[list[float]]:
        trainer = build(tmp_path / str(seed), given, kind=Recorded, rollout_steps=2, minibatches=2, seed=seed)
        torch.manual_seed(len(str(tmp_path)))  # the global state has no say
        trainer.train()
        return [sorted(fact[2][0] for fact in facts(batch)) for batch in trainer.batches]

    one = order(1)
    assert one == order(1)
    assert one[:2] != one[2:]
    assert one != order(2)


def total_gradient(trainer: AIPOTrainer, made: StepRows) -> dict[str, Tensor]:
    trainer.model.train()
    trainer.model.zero_grad()
    for batch in trainer._micro_batches(made):
        trainer._compute_loss(trainer.model, batch).backward()
    return {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_rows_without_an_advantage_count_and_cost_nothing(tmp_path: Path, objective: str):
    """Dropping them leaves the gradient of all rows, which is TRL's."""
    rng = np.random.default_rng(0)
    mixed = [rollout(i, rng, advantage=(0.0, 1.0, -0.5)[i % 3]) for i in range(6)]
    settings = tiny.method(objective=objective, **BOUNDS.get(objective, {}))
    ours = build(tmp_path / "a", [step(*mixed)], method=settings)
    batches = ours._micro_batches(step(*mixed))
    assert [len(batch["advantages"]) for batch in batches] == [4]

    theirs = build(tmp_path / "b", [step(*mixed)], method=settings)
    every = ours._batch(step(*mixed).rows, step(*mixed).totals)
    theirs.current_gradient_accumulation_steps = 1
    theirs.model.train()
    reference = GRPOTrainer._compute_loss(
        theirs,
        theirs.model,
        {
            **{k: every[k] for k in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")},
            "advantages": every["advantages"],
            "old_per_token_logps": every["behaviour_logprobs"].nan_to_num(),
            "num_items_in_batch": torch.tensor(float(step(*mixed).totals.policy_tokens)),
        },
    )
    reference.backward()
    expected = {n: p.grad for n, p in theirs.model.named_parameters()}
    for name, gradient in total_gradient(ours, step(*mixed)).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)


def test_cutting_into_micro_batches_changes_nothing(tmp_path: Path):
    made = steps(1, rows=7)[0]
    whole = total_gradient(build(tmp_path / "a", [made]), made)
    cut = total_gradient(build(tmp_path / "b", [made], gradient_accumulation=3), made)
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, cut[name], rtol=1e-5, atol=1e-6)


def test_failed_rollouts_carry_no_gradient(tmp_path: Path):
    rng = np.random.default_rng(1)
    scored = [rollout(i, rng) for i in range(4)]
    failed = trace(prompt(2, 3), policy(4, 5), reward=None, advantage=None)
    with_it, without = step(*scored, failed), step(*scored)
    assert with_it.totals == without.totals
    a = total_gradient(build(tmp_path / "a", [with_it]), with_it)
    b = total_gradient(build(tmp_path / "b", [without]), without)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_masked_agent_tokens_leave_the_policy_gradient_alone(tmp_path: Path):
    """The gradient with a coefficient minus that of the agent tokens by themselves is the masked one."""
    helped = trace(prompt(2, 3), policy(4, 5), agent(6, 7, 8), policy(9, 10), advantage=1.0)
    made = step(helped, rollout(1, np.random.default_rng(0)))

    def gradient(folder: str, coefficient: str) -> dict[str, Tensor]:
        settings = tiny.method(coefficient=coefficient)
        return total_gradient(build(tmp_path / folder, [made], method=settings), made)

    masked, trained = gradient("mask", "mask"), gradient("one", "constant")
    assert any(not torch.allclose(masked[name], trained[name]) for name in masked)

    alone = build(tmp_path / "alone", [made])
    batch = alone._micro_batches(made)[0]
    logprobs, _ = alone._score(alone.model, batch)
    agents = batch["codes"] == 2
    per_row = torch.where(agents, logprobs, 0.0).sum(1) * batch["advantages"] / batch["denominators"]
    alone.model.zero_grad()
    (-per_row.sum()).backward()
    for name, parameter in alone.model.named_parameters():
        torch.testing.assert_close(trained[name] - masked[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_our_scores_are_those_of_trls_head(tmp_path: Path):
    made = steps(1, rows=6)[0]
    trainer = build(tmp_path, [made], temperature=0.7)
    batch = trainer._micro_batches(made)[0]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    theirs, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, attention, batch["completion_ids"].shape[1], compute_entropy=True
    )
    ours, own_entropies = trainer._score(trainer.model, batch)
    own = batch["completion_mask"] == 1
    torch.testing.assert_close(ours[own], theirs[own], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own_entropies[own], entropies[own], rtol=1e-5, atol=1e-5)


def test_large_batches_are_scored_by_trls_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = steps(1, rows=6)[0]
    dense = total_gradient(build(tmp_path / "a", [made]), made)
    monkeypatch.setattr("aipo.train.trainer._DENSE_LOGITS", 0)
    fused = total_gradient(build(tmp_path / "b", [made]), made)
    for name, gradient in dense.items():
        torch.testing.assert_close(gradient, fused[name], rtol=1e-5, atol=1e-5)


def test_what_was_forbidden_while_sampling_is_forbidden_in_training(tmp_path: Path):
    bound = trace(prompt(2, 3), policy(4, 5, 6), forbidden_ids=(13, 14), trace_id="bound")
    free = trace(prompt(2, 3), policy(4, 5, 6), trace_id="free")
    made = step(bound, free)
    trainer = build(tmp_path, [made])
    batch = trainer._micro_batches(made)[0]
    scores, _ = trainer._score(trainer.model, batch)
    logits = trainer.model(torch.tensor([[2, 3, 4, 5, 6]])).logits[0, 1:4]
    allowed = [i for i in range(tiny.VOCABULARY) if i not in (13, 14)]
    for row, kept in zip(scores, batch["forbidden"][:, 0].tolist(), strict=True):
        ids = range(tiny.VOCABULARY) if kept < 0 else allowed
        expected = logits[:, list(ids)].log_softmax(-1)
        for t, token in enumerate((4, 5, 6)):
            torch.testing.assert_close(row[t], expected[t, list(ids).index(token)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_trainer_agrees_with_the_sampler(tmp_path: Path, temperature: float):
    """Rollouts of different lengths, half of them with ids forbidden: on the first pass every ratio is 1."""
    model = tiny.model()
    sampler = LocalPolicy(model, HFTokenizer(tiny.tokenizer()))

    async def one(i: int) -> Trace:
        asked = prompt(*range(2, 4 + i % 3))
        forbidden = (13, 14) if i % 2 else ()
        done = await sampler.sample(
            SampleRequest(
                asked.token_ids, max_tokens=12, temperature=temperature, forbidden_ids=forbidden, seed=i
            )
        )
        written = policy(*done.token_ids.tolist(), logprobs=done.logprobs.tolist())
        return trace(
            asked, written, trace_id=str(i), advantage=(-1.0, 1.0)[i // 2 % 2], forbidden_ids=forbidden
        )

    async def everybody() -> list[Trace]:
        return await asyncio.gather(*(one(i) for i in range(12)))

    made = step(*asyncio.run(everybody()))
    build(tmp_path, [made], model=model, temperature=temperature, learning_rate=1e-4).train()
    (line,) = lines(tmp_path)
    assert line["mismatch/max"] < 1e-4
    assert line["ratio/policy"] == pytest.approx(1.0, abs=1e-5)
    assert line["clip/policy"] == 0


# -- steps, learning rate, versions --------------------------------------------------------------------


def rates(trainer: AIPOTrainer) -> list[float]:
    """Learning rates that the optimiser really stepped with."""
    seen: list[float] = []
    trainer.create_optimizer()
    step_of: Callable[..., Any] = trainer.optimizer.step

    def recorded(*args: Any, **kwargs: Any) -> Any:
        seen.append(trainer.optimizer.param_groups[0]["lr"])
        return step_of(*args, **kwargs)

    trainer.optimizer.step = recorded
    trainer.train()
    return seen


def with_share(share: float) -> StepRows:
    made = steps(1, rows=4)[0]
    return StepRows(rows=made.rows, totals=made.totals, active_share=share)


def test_the_learning_rate_is_scaled_by_the_share_of_active_rollouts(tmp_path: Path):
    given = [with_share(1.0), with_share(0.25), with_share(0.5)]
    trainer = build(tmp_path, given, learning_rate=0.1, lr_scheduler_type="constant")
    assert rates(trainer) == pytest.approx([0.1, 0.025, 0.05])
    assert [line["learning_rate"] for line in lines(tmp_path)] == pytest.approx([0.1] * 3)


def test_scaling_can_be_switched_off(tmp_path: Path):
    given = [with_share(1.0), with_share(0.25)]
    trainer = build(
        tmp_path,
        given,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        method=tiny.method(scale_by_active=False),
    )
    assert rates(trainer) == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("scale", [True, False])
def test_a_step_in_which_nothing_is_learned_leaves_the_weights(tmp_path: Path, scale: bool):
    """Although the optimiser has momentum from the step before, and weight decay."""
    rng = np.random.default_rng(0)
    nothing = step(*(rollout(i, rng, advantage=0.0) for i in range(4)), active_share=0.0)
    trainer = build(
        tmp_path,
        [steps(1, rows=4)[0], nothing],
        minibatches=2,
        weight_decay=0.1,
        method=tiny.method(scale_by_active=scale),
    )
    seen: list[dict[str, Tensor]] = []
    trainer.add_callback(OnStep(lambda: seen.append(weights(trainer))))
    trainer.train()
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    for name, value in seen[1].items():
        assert torch.equal(value, seen[2][name]) and torch.equal(value, seen[3][name])
    assert [line["tokens/policy"] for line in lines(tmp_path)[2:]] == [0, 0]


class OnStep(TrainerCallback):
    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._act()


def test_the_source_is_asked_once_per_generation_and_told_every_version(tmp_path: Path):
    trainer = build(tmp_path, steps(3, rows=6), minibatches=2, gradient_accumulation=2, passes=2)
    trainer.train()
    source: tiny.Rows = trainer.source
    assert source.asked == [0, 1, 2]
    assert source.versions == list(range(13))


def test_a_loss_that_is_not_finite_stops_training_and_leaves_the_weights(tmp_path: Path):
    trainer = build(tmp_path, steps(2, rows=4))
    with torch.no_grad():
        trainer.model.lm_head.weight[3, 0] = torch.inf
    before = weights(trainer)
    with pytest.raises(TrainError, match="loss of optimizer step 1: got NaN or infinity"):
        trainer.train()
    assert all(torch.equal(before[name], value) for name, value in weights(trainer).items())


def test_a_gradient_that_is_not_finite_stops_training_and_leaves_the_weights(tmp_path: Path):
    trainer = build(tmp_path, steps(2, rows=4))
    trainer.model.lm_head.weight.register_hook(lambda gradient: gradient * torch.nan)
    before = weights(trainer)
    with pytest.raises(TrainError, match="gradient of optimizer step 1: got NaN or infinity"):
        trainer.train()
    assert all(torch.equal(before[name], value) for name, value in weights(trainer).items())


# -- checkpoints and metrics ---------------------------------------------------------------------------


def clean(line: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in line.items() if k != "step_time"}


@pytest.mark.parametrize(
    "schedule", [{"minibatches": 2}, {"minibatches": 2, "gradient_accumulation": 2, "passes": 2}], ids=str
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, schedule: dict[str, int]):
    given = steps(4, rows=8)
    whole = build(tmp_path / "whole", given, save_every=1, **schedule)
    whole.train()

    class Killed(Exception):
        pass

    def die(trainer: AIPOTrainer) -> None:
        if trainer.state.global_step == 2 * trainer.schedule.optimizer_steps + 1:
            raise Killed

    broken = build(tmp_path / "cut", given, save_every=1, **schedule)
    broken.add_callback(OnStep(lambda: die(broken)))
    with pytest.raises(Killed):
        broken.train()

    torch.manual_seed(123)
    resumed = build(tmp_path / "cut", given, save_every=1, model=tiny.model(seed=9), **schedule)
    resumed.train(resume_from_checkpoint=True)
    source: tiny.Rows = resumed.source
    per_generation = resumed.schedule.optimizer_steps
    assert source.asked == [2, 3]
    assert source.versions == list(range(2 * per_generation, 4 * per_generation + 1))
    expected = weights(whole)
    assert all(torch.equal(expected[name], value) for name, value in weights(resumed).items())
    assert [clean(line) for line in lines(tmp_path / "cut")] == [
        clean(line) for line in lines(tmp_path / "whole")
    ]


# -- lessons -------------------------------------------------------------------------------------------


def helped(i: int, rng: np.random.Generator, advantage: float) -> Trace:
    """An assisted rollout that can be distilled: id 13 is the tag."""
    ids = rng.integers(2, 13, 10).tolist()
    return trace(
        prompt(*ids[:2]),
        policy(*ids[2:4], 13, ids[4], logprobs=(-2.5 - 0.5 * rng.random(4)).tolist()),
        agent(*ids[5:7]),
        policy(*ids[7:], logprobs=(-2.5 - 0.5 * rng.random(3)).tolist()),
        trace_id=f"h{i}",
        consults=(consult(1, 2, 2),),
        advantage=advantage,
    )


def mixed_rows(seed: int = 0) -> StepRows:
    """Rollouts alone and with an agent, better and worse than their group, and two distilled rows."""
    rng = np.random.default_rng(seed)
    traces = [rollout(i, rng, advantage=(1.0, -0.5, 0.0)[i % 3]) for i in range(6)]
    traces += [helped(i, rng, advantage) for i, advantage in enumerate((0.8, -0.6, 1.2))]
    made = step(*traces)
    cut = [row for one in traces if (row := distil(one, (13,))) is not None]
    return StepRows(rows=(*made.rows, *cut), totals=made.totals, active_share=1.0)


class Differentiated(AIPOTrainer):
    """Keeps the gradient of the loss with respect to each log-prob, as the trainer computes both."""

    def _score(self, model: Any, inputs: Any) -> tuple[Tensor, Tensor]:
        self.scored, entropies = super()._score(model, inputs)
        return self.scored, entropies

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        (gradient,) = torch.autograd.grad(loss, self.scored, retain_graph=True)
        expected = gradient.abs() * (inputs["denominators"] / inputs["advantages"].abs())[:, None]
        if not hasattr(self, "expected"):
            self.expected: list[tuple[int, tuple[float, ...], tuple[float, ...]]] = []
        for b, advantage in enumerate(inputs["advantages"].tolist()):
            own = inputs["completion_mask"][b] == 1
            facts = (inputs["codes"][b][own].tolist(), expected[b][own].tolist())
            self.expected.append((self.state.global_step + 1, (advantage, *facts[0]), tuple(facts[1])))
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
def test_a_lesson_tells_the_gradient_of_every_token(tmp_path: Path, how: dict[str, Any]):
    """|∂loss/∂log π| · denominator / |A| by autograd, in every update: first passes and clipped ones."""
    told: list[TokenStats] = []
    trainer = build(
        tmp_path,
        [mixed_rows()],
        kind=Differentiated,
        method=tiny.method(**how),
        minibatches=2,
        gradient_accumulation=2,
        passes=2,
        learning_rate=0.1,
        how={
            "on_token_stats": lambda _, lessons: told.extend(lessons),
        },
    )
    trainer.train()
    given = [
        (one.optimizer_step, (pytest.approx(one.advantage), *one.codes_T.tolist()), one.weights_T.tolist())
        for one in told
    ]
    assert len(given) == len(trainer.expected) == 2 * (4 + 3 + 2)
    for mine, theirs in zip(given, trainer.expected, strict=True):
        assert mine[:2] == theirs[:2]
        assert mine[2] == pytest.approx(theirs[2], rel=1e-4, abs=1e-6)
    assert {one.optimizer_step for one in told} == {1, 2, 3, 4}
    assert any(one.clipped_T.any() for one in told)
    for one in told:
        sampled = one.codes_T == Code.POLICY
        assert np.array_equal(np.isnan(one.ratios_T), ~sampled)
        assert one.weights_T.any() or one.clipped_T.any()


def test_a_users_coefficient_trains_agents_tokens(tmp_path: Path):
    """A function from a file against the built-in one with the same weights."""
    file = tmp_path / "mine.py"
    file.write_text("def steady(pi, value=0.25):\n    return 0 * pi + value\n")
    own, built_in, masked = (
        build(tmp_path / name, [mixed_rows()], method=MethodSettings(**how), minibatches=2)
        for name, how in {
            "own": {"coefficient": f"{file}:steady"},
            "built-in": {"coefficient": "constant", "coefficient_value": 0.25},
            "masked": {"coefficient": "mask"},
        }.items()
    )
    for trainer in (own, built_in, masked):
        trainer.train()
    assert all(torch.equal(weight, weights(built_in)[name]) for name, weight in weights(own).items())
    assert any(not torch.equal(weight, weights(masked)[name]) for name, weight in weights(own).items())
    assert any(line["weight/agent"] > 0 for line in lines(tmp_path / "own") if "weight/agent" in line)


def test_a_row_without_an_advantage_has_no_lesson(tmp_path: Path):
    told: list[TokenStats] = []
    build(tmp_path, [mixed_rows()], how={"on_token_stats": lambda _, lessons: told.extend(lessons)}).train()
    made = sorted((one.trace_id, one.kind) for one in told)
    assert made == [
        ("h0", "distilled"),
        ("h0", "sampled"),
        ("h1", "sampled"),
        ("h2", "distilled"),
        ("h2", "sampled"),
        *((f"t{i}", "sampled") for i in (0, 1, 3, 4)),
    ]
    assert {(one.step, one.optimizer_step) for one in told} == {(0, 1)}


def test_lessons_are_handed_over_when_their_generation_has_been_trained(tmp_path: Path):
    told: list[tuple[int, int, set[int]]] = []
    nothing = step(*(rollout(i, np.random.default_rng(0), advantage=0.0) for i in range(4)))
    trainer = build(
        tmp_path,
        [mixed_rows(), nothing, mixed_rows(1)],
        minibatches=2,
        gradient_accumulation=2,
        how={
            "on_token_stats": lambda generation, lessons: told.append(
                (generation, trainer.state.global_step, {one.optimizer_step for one in lessons})
            )
        },
    )
    trainer.train()
    assert told == [(0, 2, {1, 2}), (1, 4, set()), (2, 6, {5, 6})]


def test_lessons_of_what_is_done_over_are_superseded(tmp_path: Path):
    """Killed one optimizer step into rollout step 3; the last checkpoint is that after rollout step 1."""
    given = [mixed_rows(seed) for seed in range(4)]
    whole, cut = TokenStatsStore(tmp_path / "whole"), TokenStatsStore(tmp_path / "cut")

    def made(folder: str, store: TokenStatsStore) -> AIPOTrainer:
        return build(
            tmp_path / folder, given, minibatches=2, save_every=2, how={"on_token_stats": store.publish}
        )

    def die(trainer: AIPOTrainer) -> None:
        if trainer.state.global_step == 7:
            raise KeyboardInterrupt

    made("a", whole).train()
    broken = made("b", cut)
    broken.add_callback(OnStep(lambda: die(broken)))
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    assert [file.step for file in StepFiles(tmp_path / "cut").files()] == [0, 1, 2]
    cut.begin(2)
    made("b", cut).train(resume_from_checkpoint=True)
    assert len(list((tmp_path / "cut" / "__superseded").iterdir())) == 1
    for generation, name in product(range(4), ("h0", "h1", "t0", "t2")):
        one, other = whole.of(name, generation), cut.of(name, generation)
        assert [a.weights_T.tolist() for a in one] == [a.weights_T.tolist() for a in other]
        assert len(one) == {"h0": 2, "h1": 1, "t0": 1, "t2": 0}[name]


def test_a_new_run_starts_a_new_metrics_file(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 9.0}\n{"step": 2, "lo')
    build(tmp_path, steps(1, rows=4)).train()
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_metrics_have_one_line_per_optimizer_step_and_are_all_declared(tmp_path: Path):
    given = [step(*(rollout(i, np.random.default_rng(i)) for i in range(4)), **{"reward/solo": 0.25})]
    build(tmp_path, given, rollout_steps=2, minibatches=2).train()
    made = lines(tmp_path)
    assert [line["step"] for line in made] == [1, 2, 3, 4]
    assert ["reward/solo" in line for line in made] == [True, False, True, False]
    assert ["mismatch/mean" in line for line in made] == [True, False, True, False]
    assert made[0]["loss_share/policy"] == 1.0
    assert made[0]["tokens/agent"] == 0
    assert "weight/agent" not in made[0]


def test_an_undeclared_metric_is_an_error(tmp_path: Path):
    given = [step(rollout(0, np.random.default_rng(0)), **{"my/own": 1.0})]
    with pytest.raises(TrainError, match="metric: got 'my/own', allowed those declared"):
        build(tmp_path, given).train()


def test_the_metrics_file_can_be_elsewhere(tmp_path: Path):
    file = tmp_path / "else" / "m.jsonl"
    build(tmp_path / "out", steps(1, rows=4), how={"metrics_file": file}).train()
    assert len(file.read_text().splitlines()) == 1


# -- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"steps_per_generation": 3, "gradient_accumulation_steps": 2},
            "steps_per_generation: got 3, allowed a multiple",
        ),
        (
            {"save_strategy": "steps", "save_steps": 3, "minibatches": 2},
            "save_steps: got 3, allowed a multiple of the 2",
        ),
        ({"beta": 0.5}, "beta: got 0.5 in the arguments, allowed 0.0 as in the settings"),
        ({"loss_type": "grpo"}, "loss_type: got grpo in the arguments, allowed dapo as in the settings"),
        (
            {"importance_sampling_level": "sequence"},
            "importance_sampling_level: got sequence in the arguments",
        ),
        ({"delta": 2.0}, "delta: got 2.0, allowed what aipo.train.schedule.trl_arguments sets"),
        ({"entropy_coef": 0.1}, "entropy_coef: got 0.1, allowed"),
        ({"log_completions": True}, "log_completions: got True, allowed"),
        ({"disable_dropout": False}, "disable_dropout: got False, allowed"),
    ],
)
def test_arguments_that_would_be_no_ops_or_contradict_are_refused(tmp_path: Path, args: dict, message: str):
    if "steps_per_generation" in args:
        args = args | {"generation_batch_size": None}
    with pytest.raises(TrainError, match=message):
        build(tmp_path, steps(1, rows=4), **args)


@pytest.mark.parametrize(
    "how",
    [{"importance_cap": 2.0}, {"coefficient": "rlplus"}, {"coefficient_trust": 0.5}, {"max_mismatch": 9.0}],
    ids=str,
)
def test_what_needs_the_trainers_log_probs_has_them(tmp_path: Path, how: dict[str, Any]):
    trainer = build(tmp_path, steps(1, rows=4), kind=Recorded, method=tiny.method(**how), minibatches=2)
    trainer.train()
    assert ["trainer_logprobs" in batch for batch in trainer.batches] == [False, True]


def test_trainers_that_learn_together_do_not_accumulate(tmp_path: Path):
    with pytest.raises(TrainError, match="gradient_accumulation_steps: got 2, allowed 1"):
        build(tmp_path, steps(1, rows=4), gradient_accumulation=2, shared=True)


@pytest.mark.parametrize("correction", ["truncate", "mask"])
def test_the_correction_is_logged(tmp_path: Path, correction: str):
    settings = tiny.method(importance_mode=correction, importance_cap=1.25)
    build(tmp_path, steps(1, rows=4), method=settings, how={"scores_again": True}).train()
    (line,) = lines(tmp_path)
    assert 0 < line["importance"] <= 1.25
    assert 0 < line["clip/importance"] < 1
    assert 0 < line["ess"] <= 1


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path: Path):
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    settings = tiny.method()
    args = trl_arguments(
        tmp_path, rollout_steps=1, learning_rate=1e-3, max_completion_length=16, method=settings
    )
    trainer = AIPOTrainer(tiny.model(), args, tiny.Rows(steps(1, rows=4)), settings, tokenizer=tokenizer)
    trainer.train()
    assert tokenizer.pad_token_id == tiny.EOS


def test_activation_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    given = steps(2, 4)
    trained = [
        build(tmp_path / str(on), given, gradient_accumulation=2, activation_checkpointing=on)
        for on in (False, True)
    ]
    for trainer in trained:
        trainer.train()
    assert trained[1].model.is_gradient_checkpointing
    plain, again = map(weights, trained)
    for name, weight in plain.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=0)


def test_autocast_computes_in_bfloat16_and_keeps_the_weights(tmp_path: Path) -> None:
    given = steps(1, 4)
    exact, cast = (build(tmp_path / str(on), given, autocast=on, use_cpu=True) for on in (False, True))
    with cast.accelerator.autocast():
        ids = torch.tensor([[2, 3]])
        assert cast.model.model(input_ids=ids).last_hidden_state.dtype is torch.float32  # the stream
        assert cast.model.lm_head(torch.ones(1, 16)).dtype is torch.bfloat16
    for trainer in (exact, cast):
        trainer.train()
    assert {p.dtype for p in cast.model.parameters()} == {torch.float32}
    losses = [lines(tmp_path / str(on))[0]["loss"] for on in (False, True)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
