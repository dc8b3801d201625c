"""The trainer: a thin subclass of TRL's GRPOTrainer.

Traces, credit and rows are made outside. TRL's part is the loop, the optimiser, checkpoints and
trackers; the trainer asks a `RowSource` for a generation's rows, cuts them into micro-batches and
calls the loss. TRL's sampling, its reward functions and its own normalisers are not used.

Rows come in any number and are dealt out anew for each generation, by a seed of their own, so that
two trainers in one process do not share any random state.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from aipo.errors import TrainError
from aipo.method.batch import Totals, Window, alive, collate, denominators
from aipo.method.loss import QUANTITIES, ROLES, LossInputs, LossSettings, aipo_loss
from aipo.method.metrics import loss_metrics
from aipo.method.rows import Row, check_known
from aipo.method.step_rows import StepRows
from aipo.policies.logprobs import token_logprobs
from aipo.train.callbacks import ActiveRate, MetricsFile
from aipo.train.ranks import SINGLE_PROCESS, Ranks, keep_types
from aipo.train.schedule import Schedule, arguments, check_arguments
from aipo.train.sources import RowSource
from aipo.train.token_stats import OnTokenStats, TokenStatsRecorder

__all__ = ["AIPOTrainer", "arguments"]

# Up to this many logits (64 MB), scoring them in one go is faster than TRL's fused head, which is
# made for large vocabularies.
_DENSE_LOGITS = 2**24


class AIPOTrainer(GRPOTrainer):
    """Trains a policy on the rows of a source.

    Args:
        model: the policy; the same object may sample.
        args: see `arguments`; its numbers and `settings` must agree.
        source: where the rows come from.
        settings: the loss.
        tokenizer: the policy's.
        recompute: know the trainer's own log-probs in every optimiser step, by scoring rows once more with the
            weights that sampled (those of a generation's first step need not be). A correction needs them, and
            whatever takes π_old of agents' tokens.
        max_mismatch: largest mean |Δ log-prob| (nats) between sampler and trainer in an optimiser step.
        scale_by_active: multiply the learning rate by the share of active rollouts, else an adaptive
            optimiser amplifies the noise of nearly empty batches (measured on the miniature).
        metrics_file: one JSON object per logged step; default `metrics.jsonl` in `args.output_dir`.
        on_token_stats: called with each generation, when it has been trained, and what was done with its rows.
        ranks: the processes that train together; their source gives all of them the same rows.

    Raises:
        TrainError: arguments that contradict each other, or that this trainer does not honour.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: GRPOConfig,
        source: RowSource,
        settings: LossSettings,
        *,
        tokenizer: PreTrainedTokenizerBase,
        recompute: bool = False,
        max_mismatch: float | None = None,
        scale_by_active: bool = True,
        metrics_file: Path | None = None,
        on_token_stats: OnTokenStats | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        optimizers: tuple[Any, Any] = (None, None),
        ranks: Ranks = SINGLE_PROCESS,
    ) -> None:
        self.schedule = Schedule.of(args)
        check_arguments(
            args, self.schedule, settings, source, recompute=recompute, limited=max_mismatch is not None
        )
        self.source = source
        self.settings = settings
        self.recompute = recompute
        self.max_mismatch = max_mismatch
        self.active_share = 0.0
        self.ranks = ranks
        self.token_stats = TokenStatsRecorder(on_token_stats, ranks)
        self._batches: list[dict[str, Tensor]] = []
        self._own_sums = torch.zeros(len(ROLES), len(QUANTITIES))
        self._own_mismatch = torch.zeros(())
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._vocabulary = int(model.config.get_text_config().vocab_size)
        self._pad_id = int(str(tokenizer.pad_token_id))
        file = metrics_file or Path(str(args.output_dir)) / "metrics.jsonl"
        # One epoch of this placeholder is one generation.
        placeholder = Dataset.from_dict({"prompt": [""] * self.schedule.micro_batches * ranks.size})
        super().__init__(
            model=model,
            reward_funcs=_scored_elsewhere,  # TRL insists on one
            args=args,
            train_dataset=placeholder,
            processing_class=tokenizer,
            callbacks=[
                Bookkeeping(self),
                ActiveRate(lambda: self.active_share, scale_by_active),
                *([MetricsFile(file)] if ranks.is_main else []),
                *callbacks,
            ],
            optimizers=optimizers,
        )
        self.remove_callback(PrinterCallback)
        if self.accelerator.num_processes != ranks.size:
            raise TrainError(f"processes: got {self.accelerator.num_processes}, allowed {ranks.size}")
        if self.aux_loss_enabled:
            raise TrainError(
                "router_aux_loss_coef: got a mixture of experts that trains its router, allowed 0"
            )

        if settings.beta > 0 and self.ref_model is None:
            adapted: Any = self.model
            adapted.delete_adapter("ref")  # TRL's copy of the adapter as it starts, which is none at all

    @property
    def generation(self) -> int:
        """Which generation is being trained, from 0; derived from what a checkpoint saves."""
        return self.state.global_step // self.schedule.steps

    def create_accelerator_and_postprocess(self) -> None:
        """Before anything is sharded, a reference too."""
        super().create_accelerator_and_postprocess()
        if self.ranks.sharded:
            keep_types(self.accelerator)

    def _send_telemetry(self) -> None:
        """Nothing is sent anywhere."""

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Tensor]:
        """The next micro-batch; asks the source when a generation is used up."""
        if self.schedule.place(self._step) == 0:
            made = self.source.rows(self.generation)
            self.active_share = made.active_share
            self._batches = self._micro_batches(made)
            for name, value in made.metrics.items():
                self._metrics["train"][name].append(value)
        return self._batches[self._step % self.schedule.micro_batches]

    def _micro_batches(self, made: StepRows) -> list[dict[str, Tensor]]:
        """This rank's share of the generation's rows, as the schedule deals them."""
        rows = alive(made.rows, beta=self.settings.beta, signed=self.settings.chosen.signed)
        if self.settings.chosen.needs_mu:
            check_known(rows)
        dealt = self.schedule.deal(
            rows,
            seed=self.args.seed,
            generation=self.generation,
            rank=self.ranks.rank,
            ranks=self.ranks.size,
        )
        self.token_stats.deal(dealt)
        batches = [self._batch(own, self.window(made.totals)) for own in dealt]
        for n, batch in enumerate(batches):
            # What is trained with these very weights is scored then.
            if self.recompute and not self.schedule.fresh(n):
                with torch.no_grad():
                    batch["old_per_token_logps"], _ = self._score(self.model, batch)
        return batches

    def window(self, totals: Totals) -> Window:
        """What one optimiser step of this trainer averages over."""
        return Window(
            totals=totals,
            share=1 / self.schedule.updates,
            max_completion_length=int(self.max_completion_length or 0),
        )

    def _batch(self, rows: Sequence[Row], window: Window) -> dict[str, Tensor]:
        weights_B = denominators(rows, self.settings.objective, window, counted=self.settings.denominator)
        batch = collate(rows, weights_B, pad_id=self._pad_id)
        batch = super(GRPOTrainer, self)._prepare_inputs(batch)
        with torch.no_grad():
            if self.settings.beta > 0:
                batch["ref_per_token_logps"] = self._reference(batch)
        return batch

    def _reference(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Log-probs of the first policy: without its adapter where it has one."""
        if self.ref_model is not None:
            return self._score(self.ref_model, batch)[0]
        policy: Any = self.model
        with policy.disable_adapter():
            return self._score(policy, batch)[0]

    def _compute_loss(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """The loss of one micro-batch; sums for its metrics are kept until the optimiser step.

        Gradients are averaged over the ranks, while denominators count what all of them train: the loss of
        a rank's share is taken as many times as there are ranks.
        """
        logprobs, entropies = self._score(model, inputs)
        fresh = self.schedule.place(self._step) < self.schedule.accumulation
        output = aipo_loss(LossInputs.of(inputs, logprobs, entropies, fresh=fresh), self.settings)
        self._own_sums = self._own_sums.to(output.sums_R_K.device) + output.sums_R_K
        self._own_mismatch = torch.maximum(
            self._own_mismatch.to(output.mismatch_max.device), output.mismatch_max
        )
        self.token_stats.note(self._step % self.schedule.micro_batches, output)
        return output.loss * self.ranks.size

    def _score(self, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the completions; (B, T) each. Ids that were forbidden while
        sampling are forbidden here."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].shape[1]
        forbidden = inputs.get("forbidden")
        if forbidden is None and len(ids) * width * self._vocabulary > _DENSE_LOGITS:
            logprobs, entropies, _ = self._get_per_token_logps_and_entropies(
                model, ids, attention, width, compute_entropy=True
            )
            return logprobs, entropies
        with self.accelerator.autocast():
            logits = model(
                input_ids=ids, attention_mask=attention, logits_to_keep=width + 1, use_cache=False
            ).logits
        return token_logprobs(
            logits[:, :-1], inputs["completion_ids"], temperature=self.temperature, forbidden_B_F=forbidden
        )

    def _report(self) -> None:
        """Moves the sums of one optimiser step, over all ranks, into TRL's metrics; one transfer from the device.

        Raises:
            TrainError: the loss or the gradient is not finite, or sampler and trainer are too far apart. The
                weights are those of the last step.
        """
        model: Any = self.model
        norm: Any = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        by_rank = self.ranks.stack(
            torch.cat([self._own_sums.flatten(), self._own_mismatch.view(1), norm.view(1).to(self._own_sums)])
        )
        numbers = [*by_rank[:, :-2].double().sum(0).tolist(), by_rank[:, -2].max().item()]
        for what, finite in (
            ("loss", all(map(math.isfinite, numbers))),
            ("gradient", by_rank[:, -1].isfinite().all()),
        ):
            if not finite:
                raise self.ranks.same_error(
                    TrainError(f"{what} of optimiser step {self.state.global_step + 1}: got NaN or infinity")
                )
        rows = [numbers[i * len(QUANTITIES) : (i + 1) * len(QUANTITIES)] for i in range(len(ROLES))]
        values = loss_metrics(
            {role: dict(zip(QUANTITIES, row, strict=True)) for role, row in zip(ROLES, rows, strict=True)},
            numbers[-1],
            kl=self.settings.beta > 0,
            importance=self.settings.importance_cap is not None,
        )
        self._check_mismatch(values)
        for name, value in values.items():
            self._metrics["train"][name].append(value)
        self._own_sums, self._own_mismatch = (
            torch.zeros_like(self._own_sums),
            torch.zeros_like(self._own_mismatch),
        )
        self.token_stats.end_step(self.generation, self.state.global_step + 1)

    def _check_mismatch(self, values: Mapping[str, float]) -> None:
        mean = values.get("mismatch/mean", 0.0)
        if self.max_mismatch is not None and not mean <= self.max_mismatch:
            error = TrainError(
                f"drift between sampler and trainer in optimiser step {self.state.global_step + 1}: got a mean "
                f"|Δ log-prob| of {mean:.3g} (at most {values['mismatch/max']:.3g}) on {values['tokens/policy']:.0f} "
                f"policy tokens, allowed {self.max_mismatch:g} (method.max_mismatch). What samples does not compute what is "
                "trained. mismatch/mean in metrics.jsonl says whether it jumped: look at the last push of weights and at "
                "servers that were restarted; or whether it was so from the start: look at another model or "
                "tokenizer, --logprobs-mode processed_logprobs, types of numbers (policy.dtype, --dtype, "
                "quantisation). `aipo doctor` checks these. The step was not made; the last checkpoint is as it was, "
                "--resume goes on from it"
            )
            raise self.ranks.same_error(error)


class Bookkeeping(TrainerCallback):
    """Tells the source its version, the ledger its end, and the trainer where a checkpoint had stopped."""

    def __init__(self, trainer: AIPOTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # TRL counts micro-batches from 0 again after a resume.
        self._trainer._step = state.global_step * args.gradient_accumulation_steps
        self._trainer.source.updated(state.global_step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._trainer._report()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._trainer.source.updated(state.global_step)
        if state.global_step % self._trainer.schedule.steps == 0:
            self._trainer.token_stats.close(self._trainer.generation - 1)


def _scored_elsewhere(**_: Any) -> list[float | None]:
    raise TrainError("TRL asked for rewards, which rows already have")
