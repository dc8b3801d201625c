"""The trainer: rows dealt out, scores, learning rate, exact resumption, metrics, honest refusals."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aipo.errors import TrainError
from aipo.method.batch import TokenTotals
from aipo.method.rows import Code, Row, exchange_prompt
from aipo.method.step_rows import StepRows
from aipo.policies import SampleRequest
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.trace import Trace
from aipo.train.schedule import Schedule, trl_arguments
from aipo.train.trainer import AIPOTrainer
from kit import tiny
from kit.handmade import policy, prompt, trace
from kit.training import OnStep, helped, lines, nothing, rollout, step, steps, trainer, weights


def same(one: AIPOTrainer, other: AIPOTrainer | dict[str, Tensor]) -> bool:
    """Whether all weights are, to the last bit."""
    expected = other if isinstance(other, dict) else weights(other)
    return all(torch.equal(weight, expected[name]) for name, weight in weights(one).items())


# -- rows and scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 8])
def test_rows_are_dealt_out_once_and_anew_by_the_seed_and_the_step(count: int):
    rows = steps(1, rows=count)[0].rows
    schedule = Schedule(passes=2, minibatches=2, gradient_accumulation=2)

    def dealt(seed: int, rollout_step: int) -> list[list[Row]]:
        torch.manual_seed(seed)  # the global state has no say
        return schedule.deal(rows, seed=seed, rollout_step=rollout_step)

    one = dealt(1, 0)
    assert sorted(row.trace_id for batch in one for row in batch) == [f"t{i}" for i in range(count)]
    for first, second in (one[:2], one[2:]):  # by length within an optimizer step
        lengths = [len(row) for row in (*first, *second)]
        assert lengths == sorted(lengths)
    assert one == dealt(1, 0)
    assert one != dealt(1, 1) and one != dealt(2, 0)
    by_rank = [schedule.deal(rows, seed=1, rollout_step=0, rank=rank, ranks=2) for rank in (0, 1)]
    for whole, *parts in zip(one, *by_rank, strict=True):
        assert {row.trace_id for row in whole} == {row.trace_id for part in parts for row in part}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_trainer_agrees_with_the_sampler(tmp_path: Path, temperature: float):
    """Rollouts of different lengths, half of them with ids suppressed: on the first pass every ratio is 1."""
    model = tiny.model()
    sampler = LocalPolicy(model, HFTokenizer(tiny.tokenizer()))

    async def one(i: int) -> Trace:
        question = prompt(*range(2, 4 + i % 3))
        suppressed = (13, 14) if i % 2 else ()
        how = {"max_tokens": 12, "temperature": temperature, "forbidden_ids": suppressed, "seed": i}
        sampled = await sampler.sample(SampleRequest(question.token_ids, **how))
        answer = policy(*sampled.token_ids.tolist(), logprobs=sampled.logprobs.tolist())
        advantage = (-1.0, 1.0)[i // 2 % 2]
        return trace(question, answer, trace_id=str(i), advantage=advantage, forbidden_ids=suppressed)

    async def everybody() -> list[Trace]:
        return await asyncio.gather(*(one(i) for i in range(12)))

    given = step(*asyncio.run(everybody()))
    trainer(tmp_path, [given], model=model, temperature=temperature, learning_rate=1e-4).train()
    (line,) = lines(tmp_path)
    assert line["mismatch/max"] < 1e-4
    assert line["ratio/policy"] == pytest.approx(1.0, abs=1e-5)
    assert line["clip/policy"] == 0


# -- scores of the weights that sampled ------------------------------------------------------------------


class Recorded(AIPOTrainer):
    """Keeps every micro-batch that was trained, and the scores that it had when its rows were asked for."""

    batches: list[dict[str, Tensor]]

    def _micro_batches(self, step_rows: StepRows) -> list[dict[str, Tensor]]:
        batches = super()._micro_batches(step_rows)
        with torch.no_grad():
            return [{**batch, "scores": self._score(self.model, batch)[0]} for batch in batches]

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        self.batches = [*getattr(self, "batches", []), dict(inputs)]
        return super()._compute_loss(model, inputs)


def test_the_mismatch_is_known_in_every_step_and_measuring_it_changes_nothing(tmp_path: Path):
    """Against scores of the weights that sampled; every rollout step in two passes of two optimizer steps."""
    given = steps(2, rows=8)
    schedule = {"minibatches": 2, "passes": 2}
    watched = trainer(tmp_path / "a", given, kind=Recorded, how={"scores_again": True}, **schedule)
    plain = trainer(tmp_path / "b", given, **schedule)
    for trained in (watched, plain):
        trained.train()
    expected: list[list[float]] = []
    for batch in watched.batches:
        gaps = (batch["scores"] - batch["behaviour_logprobs"]).abs()[batch["codes"] == Code.POLICY]
        expected.append([gaps.mean().item(), gaps.max().item()])
    logged = lines(tmp_path / "a")
    found = [[line["mismatch/mean"], line["mismatch/max"]] for line in logged]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert [line["loss"] for line in logged] == [line["loss"] for line in lines(tmp_path / "b")]
    assert same(watched, plain)


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ({}, {"scores_again": True}),
        ({"importance_cap": 2.0}, {}),
        ({"coefficient": "rlplus"}, {}),
        ({"coefficient_trust": 0.5}, {}),
        ({"max_mismatch": 9.0}, {}),
    ],
    ids=str,
)
def test_only_what_is_trained_with_other_weights_than_sampled_it_is_scored_twice(
    tmp_path: Path, method: dict[str, Any], how: dict[str, Any]
):
    schedule = {"minibatches": 2, "gradient_accumulation": 2}
    trained = trainer(
        tmp_path, steps(1, rows=8), kind=Recorded, method=tiny.method(**method), how=how, **schedule
    )
    trained.train()
    assert ["trainer_logprobs" in batch for batch in trained.batches] == [False, False, True, True]
    assert all("mismatch/mean" in line for line in lines(tmp_path))


def test_agents_tokens_are_scored_behind_the_exchanged_prompt(tmp_path: Path):
    """π_old is that of the weights that sampled, in the context of the row itself; after a first optimizer step."""
    rng = np.random.default_rng(0)
    traces = [helped(i, rng, 1.0) for i in range(4)]
    rows = tuple(row for one in traces for row in exchange_prompt(one, prompt(9, 8, 7)))
    given = StepRows(rows=rows, totals=TokenTotals.of(rows), active_share=1.0)
    method = tiny.method(coefficient="rlplus", agent_prompt="solo", distil_weight=0.0)
    trained = trainer(tmp_path, [given], kind=Recorded, method=method, minibatches=2)
    untrained = tiny.model()
    trained.train()
    scored = trained.batches[1]
    ids = torch.cat([scored["prompt_ids"], scored["completion_ids"]], dim=1)
    mask = torch.cat([scored["prompt_mask"], scored["completion_mask"]], dim=1)
    with torch.no_grad():
        logits = untrained(input_ids=ids, attention_mask=mask).logits[:, -scored["codes"].shape[1] - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(-1, scored["completion_ids"][..., None])[..., 0]
    agents = scored["codes"] == Code.AGENT
    assert agents.any() and 3 in scored["prompt_mask"].sum(1)
    torch.testing.assert_close(scored["trainer_logprobs"][agents], logprobs[agents])
    assert sum(line["tokens/agent"] for line in lines(tmp_path)) == 4 * 2


@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_corrected_ratios_are_to_the_trainer_and_the_correction_is_logged(tmp_path: Path, mode: str):
    method = tiny.method(importance_mode=mode, importance_cap=1.25)
    trainer(tmp_path, steps(1, rows=8), method=method, minibatches=2).train()
    first, second = lines(tmp_path)
    assert first["ratio/policy"] == 1.0
    assert 0 < abs(second["ratio/policy"] - 1) < 0.5
    for line in (first, second):  # the behaviour log-probs were made up
        assert 0 < line["importance"] <= 1.25
        assert 0 < line["clip/importance"] < 1
        assert 0 < line["ess"] <= 1
        assert line["mismatch/mean"] > 0.1


def test_a_limit_on_the_mismatch_stops_before_the_step_and_keeps_the_checkpoint(tmp_path: Path):
    """The third rollout step was sampled with something else: its log-probs are off by 30."""
    good = step(rollout(0, np.random.default_rng(0)))
    (row,) = good.rows
    wrong = np.where(row.codes_T == Code.POLICY, row.behaviour_logprobs_T - 30, row.behaviour_logprobs_T)
    bad = replace(good, rows=(replace(row, behaviour_logprobs_T=wrong.astype(np.float32)),))
    method = tiny.method(max_mismatch=10.0)
    trained = trainer(tmp_path, [good, good, bad], method=method, save_every=1, learning_rate=1e-4)
    says = (
        r"train/inference mismatch in optimizer step 3: got a mean \|Δ log-prob\| of [\d.]+ \(at most [\d.]+\) on \d "
        r"policy tokens, allowed 10 \(method\.max_mismatch\).*the last checkpoint is as it was"
    )
    with pytest.raises(TrainError, match=says):
        trained.train()
    assert [line["mismatch/mean"] < 10 for line in lines(tmp_path)] == [True, True]
    saved = type(trained.model).from_pretrained(tmp_path / "checkpoint-2")
    assert same(trained, dict(saved.named_parameters()))


# -- optimizer steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "expected"), [(True, [0.1, 0.025, 0.05]), (False, [0.1, 0.1, 0.1])])
def test_the_learning_rate_is_scaled_by_the_share_of_active_rollouts(
    tmp_path: Path, scale: bool, expected: list[float]
):
    given = [replace(steps(1, rows=4)[0], active_share=share) for share in (1.0, 0.25, 0.5)]
    method = tiny.method(scale_by_active=scale)
    trained = trainer(tmp_path, given, method=method, learning_rate=0.1, lr_scheduler_type="constant")
    trained.create_optimizer()
    stepped, rates = trained.optimizer.step, list[float]()

    def recorded(*args: Any, **kwargs: Any) -> Any:
        rates.append(trained.optimizer.param_groups[0]["lr"])
        return stepped(*args, **kwargs)

    trained.optimizer.step = recorded
    trained.train()
    assert rates == pytest.approx(expected)
    assert [line["learning_rate"] for line in lines(tmp_path)] == pytest.approx([0.1] * 3)


@pytest.mark.parametrize("scale", [True, False])
def test_a_step_in_which_nothing_is_learned_leaves_the_weights(tmp_path: Path, scale: bool):
    """Although the optimizer has momentum from the step before, and weight decay."""
    method = tiny.method(scale_by_active=scale)
    given = [steps(1, rows=4)[0], nothing()]
    trained = trainer(tmp_path, given, minibatches=2, weight_decay=0.1, method=method)
    seen: list[dict[str, Tensor]] = []
    trained.add_callback(OnStep(lambda: seen.append(weights(trained))))
    trained.train()
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    for name, value in seen[1].items():
        assert torch.equal(value, seen[2][name]) and torch.equal(value, seen[3][name])
    assert [line["tokens/policy"] for line in lines(tmp_path)[2:]] == [0, 0]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_training_and_leaves_the_weights(tmp_path: Path, what: str):
    trained = trainer(tmp_path, steps(2, rows=4))
    weight = trained.model.lm_head.weight
    if what == "loss":
        weight.data[3, 0] = torch.inf
    else:
        weight.register_hook(lambda gradient: gradient * torch.nan)
    before = weights(trained)
    with pytest.raises(TrainError, match=f"{what} of optimizer step 1: got NaN or infinity"):
        trained.train()
    assert same(trained, before)


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path: Path):
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    trainer(tmp_path, steps(1, rows=4), how={"tokenizer": tokenizer}).train()
    assert tokenizer.pad_token_id == tiny.EOS


def test_activation_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    plain, again = (
        trainer(tmp_path / str(on), steps(2, 4), gradient_accumulation=2, activation_checkpointing=on)
        for on in (False, True)
    )
    for trained in (plain, again):
        trained.train()
    assert again.model.is_gradient_checkpointing
    assert same(again, plain)


def test_autocast_computes_in_bfloat16_and_keeps_the_weights(tmp_path: Path) -> None:
    exact, cast = (
        trainer(tmp_path / str(on), steps(1, 4), autocast=on, use_cpu=True) for on in (False, True)
    )
    with cast.accelerator.autocast():
        ids = torch.tensor([[2, 3]])
        assert cast.model.model(input_ids=ids).last_hidden_state.dtype is torch.float32  # the stream
        assert cast.model.lm_head(torch.ones(1, 16)).dtype is torch.bfloat16
    for trained in (exact, cast):
        trained.train()
    assert {p.dtype for p in cast.model.parameters()} == {torch.float32}
    losses = [lines(tmp_path / str(on))[0]["loss"] for on in (False, True)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


# -- checkpoints and metrics -----------------------------------------------------------------------------


def die_in(trained: AIPOTrainer, optimizer_step: int) -> None:
    """Kills it after that step."""

    def act() -> None:
        if trained.state.global_step == optimizer_step:
            raise KeyboardInterrupt

    trained.add_callback(OnStep(act))
    with pytest.raises(KeyboardInterrupt):
        trained.train()


@pytest.mark.parametrize(
    "schedule", [{"minibatches": 2}, {"minibatches": 2, "gradient_accumulation": 2, "passes": 2}], ids=str
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, schedule: dict[str, int]):
    def build(name: str, **more: Any) -> AIPOTrainer:
        return trainer(tmp_path / name, steps(4, rows=8), save_every=1, **schedule, **more)

    whole, broken = build("whole"), build("cut")
    per_step = whole.schedule.optimizer_steps
    whole.train()
    die_in(broken, 2 * per_step + 1)
    torch.manual_seed(123)
    resumed = build("cut", model=tiny.model(seed=9))
    resumed.train(resume_from_checkpoint=True)
    for trained, first in ((whole, 0), (resumed, 2)):
        source: tiny.Rows = trained.source
        assert source.asked == [*range(first, 4)]
        assert source.versions == list(range(first * per_step, 4 * per_step + 1))
    assert same(resumed, whole)
    timeless = [
        [{k: v for k, v in line.items() if k != "step_time"} for line in lines(tmp_path / name)]
        for name in ("cut", "whole")
    ]
    assert timeless[0] == timeless[1]


def test_metrics_have_one_line_per_optimizer_step_and_a_new_run_starts_a_new_file(tmp_path: Path):
    file = tmp_path / "else" / "metrics.jsonl"
    file.parent.mkdir()
    file.write_text('{"step": 1, "loss": 9.0}\n{"step": 2, "lo')
    given = step(*(rollout(i, np.random.default_rng(i)) for i in range(4)), **{"reward/solo": 0.25})
    trainer(tmp_path, [given, given], minibatches=2, how={"metrics_file": file}).train()
    logged = lines(file.parent)
    assert [line["step"] for line in logged] == [1, 2, 3, 4]
    assert ["reward/solo" in line for line in logged] == [True, False, True, False]
    assert ["mismatch/mean" in line for line in logged] == [True, False, True, False]
    assert logged[0]["loss_share/policy"] == 1.0
    assert logged[0]["tokens/agent"] == 0
    assert "weight/agent" not in logged[0]


def test_an_undeclared_metric_is_an_error(tmp_path: Path):
    given = [step(rollout(0, np.random.default_rng(0)), **{"my/own": 1.0})]
    with pytest.raises(TrainError, match="metric: got 'my/own', allowed those declared"):
        trainer(tmp_path, given).train()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"steps_per_generation": 3, "gradient_accumulation_steps": 2, "generation_batch_size": None},
            "steps_per_generation: got 3, allowed a multiple",
        ),
        (
            {"save_strategy": "steps", "save_steps": 3, "minibatches": 2},
            "save_steps: got 3, allowed a multiple of the 2",
        ),
        ({"gradient_accumulation": 2, "shared": True}, "gradient_accumulation_steps: got 2, allowed 1"),
        ({"beta": 0.5}, "beta: got 0.5, allowed 0.0, as trl_arguments sets it"),
        ({"loss_type": "grpo"}, "loss_type: got 'grpo', allowed 'dapo'"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level: got 'sequence'"),
        ({"delta": 2.0}, "delta: got 2.0, allowed None"),
        ({"entropy_coef": 0.1}, "entropy_coef: got 0.1, allowed 0.0"),
        ({"log_completions": True}, "log_completions: got True, allowed False"),
        ({"max_steps": -1}, "max_steps: got -1, allowed 1 or more"),
        ({"disable_dropout": False}, "disable_dropout: got False, allowed True"),
    ],
)
def test_arguments_that_would_be_no_ops_or_contradict_are_refused(tmp_path: Path, args: dict, message: str):
    with pytest.raises(TrainError, match=re.escape(message)):
        trainer(tmp_path, steps(1, rows=4), **args)


@pytest.mark.parametrize("name", ["learning_rate", "max_completion_length"])
def test_trls_own_defaults_do_not_apply_silently(tmp_path: Path, name: str):
    args = {"rollout_steps": 1, "learning_rate": 1e-3, "max_completion_length": 8}
    del args[name]
    with pytest.raises(TypeError, match=name):
        trl_arguments(tmp_path, tiny.method(), **args)
