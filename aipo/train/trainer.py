"""The trainer: a thin subclass of TRL's GRPOTrainer.

Traces, credit and rows are made outside. TRL does the loop, the optimizer, checkpoints and trackers. The trainer asks a
`RowSource` for the rows of a rollout step, cuts them into micro-batches and calls the loss. TRL's sampling, its reward
functions and its own normalisers are not used.

The number of rows is free. They are dealt out anew for each rollout step, with a seed of their own, so that two
trainers in one process share no random state.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from aipo.errors import TrainError
from aipo.method.batch import TokenTotals, agent_numbers, collate, denominators, with_gradient
from aipo.method.loss import LossInputs, aipo_loss
from aipo.method.metrics import QUANTITIES, loss_metrics, roles_of
from aipo.method.rows import Row
from aipo.method.settings import MethodSettings
from aipo.method.step_rows import StepRows
from aipo.policies.logprobs import token_logprobs
from aipo.train.callbacks import ActiveRate, MetricsFile, StepEvents
from aipo.train.ranks import SINGLE_PROCESS, Ranks, keep_types
from aipo.train.saving import SavingTrainer
from aipo.train.schedule import Schedule, check_arguments
from aipo.train.sources import RowSource
from aipo.train.token_stats import OnTokenStats, TokenStatsRecorder
from aipo.util.termination import Terminated

# Up to this many logits (64 MB), scoring them at once is faster than TRL's fused head, which is made for large
# vocabularies.
_DENSE_LOGITS = 2**24


class AIPOTrainer(SavingTrainer):
    """Trains a policy on the rows of a source.

    Args:
        model: the policy; the same object may sample.
        args: see `aipo.train.schedule.trl_arguments`; they must agree with `method`.
        source: where the rows come from.
        method: settings of the loss, of the learning rate and of the limit on the mismatch.
        tokenizer: the policy's.
        scores_again: score rows again with the weights that sampled them, in every optimizer step, even if the method
            does not need it; for policies that are sampled by another program. Rows of a rollout step's first
            optimizer step need no second pass.
        metrics_file: one JSON object per logged step; default `metrics.jsonl` in `args.output_dir`.
        on_token_stats: called after each rollout step's training, with the step and what the loss did with its rows.
        on_checkpoint: called on rank 0 with the draft of each checkpoint, which it may add files to.
        on_saved: called on rank 0 when a checkpoint is whole.
        ranks: the processes that train together; their source gives all of them the same rows.

    Raises:
        TrainError: arguments that contradict each other, or that this trainer does not honour.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: GRPOConfig,
        source: RowSource,
        method: MethodSettings,
        *,
        tokenizer: PreTrainedTokenizerBase,
        scores_again: bool = False,
        metrics_file: Path | None = None,
        on_token_stats: OnTokenStats | None = None,
        on_checkpoint: Callable[[Path], None] = lambda _: None,
        on_saved: Callable[[Path], None] = lambda _: None,
        callbacks: Sequence[TrainerCallback] = (),
        ranks: Ranks = SINGLE_PROCESS,
    ) -> None:
        self.schedule = Schedule.of(args)
        check_arguments(args, self.schedule, method, source)
        self.source = source
        self.method = method
        self.scores_again = scores_again or method.scores_again
        self.active_share = 0.0
        self.ranks = ranks
        self.token_stats = TokenStatsRecorder(on_token_stats, ranks, signed=method.signed)
        self.on_checkpoint, self.on_saved = on_checkpoint, on_saved
        self._batches: list[dict[str, Tensor]] = []
        self._sums = torch.zeros(len(roles_of(method)), len(QUANTITIES))
        self._mismatch_max = torch.zeros(())
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._vocabulary = int(model.config.get_text_config().vocab_size)
        self._pad_id = int(str(tokenizer.pad_token_id))
        # Beside an adapter that trains tokens, peft wraps the output layer, which TRL's fused head does not take.
        self._fuses = hasattr(model.get_output_embeddings(), "bias")
        file = metrics_file or Path(str(args.output_dir)) / "metrics.jsonl"
        # One epoch of this placeholder is one rollout step.
        placeholder = Dataset.from_dict({"prompt": [""] * self.schedule.micro_batches * ranks.size})
        super().__init__(
            model=model,
            reward_funcs=_scored_elsewhere,  # TRL insists on one
            args=args,
            train_dataset=placeholder,
            processing_class=tokenizer,
            callbacks=[
                StepEvents(self._on_begin, self._report, self._on_step_end),
                ActiveRate(lambda: self.active_share, method.scale_by_active),
                *([MetricsFile(file)] if ranks.is_main else []),
                *callbacks,
            ],
        )
        self.remove_callback(PrinterCallback)
        if self.accelerator.num_processes != ranks.size:
            raise TrainError(f"processes: got {self.accelerator.num_processes}, allowed {ranks.size}")
        if self.aux_loss_enabled:
            raise TrainError(
                "router_aux_loss_coef: got a mixture of experts that trains its router, allowed 0"
            )
        if method.beta > 0 and self.ref_model is None:
            adapted: Any = self.model
            # TRL's copy of the untrained adapter; disabling the adapter does the same.
            adapted.delete_adapter("ref")

    @property
    def rollout_step(self) -> int:
        """The rollout step that is being trained, from 0; derived from what a checkpoint saves."""
        return self.state.global_step // self.schedule.optimizer_steps

    def create_accelerator_and_postprocess(self) -> None:
        """Called before the model and the reference model are sharded."""
        super().create_accelerator_and_postprocess()
        if self.ranks.sharded:
            keep_types(self.accelerator)

    def _send_telemetry(self) -> None:
        """Sends no telemetry: this replaces the method of TRL that would."""

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Tensor]:
        """The next micro-batch; asks the source when the rows of a rollout step are used up."""
        if self.schedule.place(self._step) == 0:
            try:
                step_rows = self.source.rows(self.rollout_step)
            except Terminated:
                self.keep_boundary()
                raise
            self.active_share = step_rows.active_share
            self._batches = self._micro_batches(step_rows)
            for name, value in step_rows.metrics.items():
                self._metrics["train"][name].append(value)
        return self._batches[self._step % self.schedule.micro_batches]

    def _micro_batches(self, step_rows: StepRows) -> list[dict[str, Tensor]]:
        """This rank's part of the rows, as the schedule deals them."""
        rows = with_gradient(step_rows.rows, self.method)
        rank, ranks = self.ranks.rank, self.ranks.size
        dealt = self.schedule.deal(
            rows, seed=self.args.seed, rollout_step=self.rollout_step, rank=rank, ranks=ranks
        )
        self.token_stats.deal(dealt)
        batches = [self._batch(rows, step_rows.totals) for rows in dealt]
        for n, batch in enumerate(batches):
            # A fresh micro-batch is scored while it is trained: the weights are the same.
            if self.scores_again and not self.schedule.fresh(n):
                with torch.no_grad():
                    batch["trainer_logprobs"], _ = self._score(self.model, batch)
        return batches

    def denominators(
        self, rows: Sequence[Row], totals: TokenTotals, method: MethodSettings
    ) -> npt.NDArray[np.float32]:
        """The denominators of the rows' loss terms in this trainer's schedule, under any method; shape (B,)."""
        return denominators(
            rows,
            method,
            totals,
            minibatches=self.schedule.minibatches,
            max_completion_length=int(self.max_completion_length or 0),
        )

    def _batch(self, rows: Sequence[Row], totals: TokenTotals) -> dict[str, Tensor]:
        batch = collate(rows, self.denominators(rows, totals, self.method), pad_id=self._pad_id)
        if self.method.agents:
            batch["agents"] = torch.from_numpy(agent_numbers(rows, self.method))
        batch = super(GRPOTrainer, self)._prepare_inputs(batch)
        if self.method.beta > 0:
            # The initial policy is the reference model, or the policy without its adapter.
            network: Any = self.model if self.ref_model is None else self.ref_model
            with torch.no_grad(), network.disable_adapter() if self.ref_model is None else nullcontext():
                batch["reference_logprobs"], _ = self._score(network, batch)
        return batch

    def _compute_loss(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """The loss of one micro-batch; sums for its metrics are kept until the optimizer step.

        Gradients are averaged over the ranks, while denominators count the rows of all ranks. So the loss of a rank's
        part is multiplied by the number of ranks.
        """
        logprobs, entropies = self._score(model, inputs)
        fresh = self.schedule.place(self._step) < self.schedule.gradient_accumulation
        loss_inputs = LossInputs.of(inputs, logprobs, entropies, fresh=fresh)
        output = aipo_loss(loss_inputs, self.method)
        device = output.loss.device
        self._sums = self._sums.to(device) + output.sums_R_K
        self._mismatch_max = torch.maximum(self._mismatch_max.to(device), output.mismatch_max)
        self.token_stats.record(self._step % self.schedule.micro_batches, loss_inputs, output)
        return output.loss * self.ranks.size

    def _score(self, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the completions; (B, T) each. Ids that were masked while sampling are masked
        here, too."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].shape[1]
        forbidden = inputs.get("forbidden")
        large = len(ids) * width * self._vocabulary > _DENSE_LOGITS
        if large and forbidden is None and self._fuses:
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
        """Moves the sums of one optimizer step, over all ranks, into TRL's metrics; one transfer from the device.

        Raises:
            TrainError: the loss or the gradient is not finite, or inference engine and trainer differ too much. The
                weights are still those of the last step.
        """
        model: Any = self.model
        norm: Any = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        mine = [self._sums.flatten(), self._mismatch_max.view(1), norm.view(1).to(self._sums)]
        by_rank = self.ranks.stack(torch.cat(mine))
        for what, numbers in (("loss", by_rank[:, :-1]), ("gradient", by_rank[:, -1])):
            if not numbers.isfinite().all():
                raise self.ranks.same_error(
                    TrainError(f"{what} of optimizer step {self.state.global_step + 1}: got NaN or infinity")
                )
        sums = by_rank[:, :-2].double().sum(0).view(-1, len(QUANTITIES))
        values = loss_metrics(sums.tolist(), by_rank[:, -2].max().item(), self.method)
        self._check_mismatch(values)
        for name, value in values.items():
            self._metrics["train"][name].append(value)
        self._sums, self._mismatch_max = torch.zeros_like(self._sums), torch.zeros_like(self._mismatch_max)
        self.token_stats.end_step(self.rollout_step, self.state.global_step + 1)

    def _check_mismatch(self, values: Mapping[str, float]) -> None:
        mean, limit = values.get("mismatch/mean", 0.0), self.method.max_mismatch
        if limit is not None and not mean <= limit:
            error = TrainError(
                f"train/inference mismatch in optimizer step {self.state.global_step + 1}: got a mean "
                f"|Δ log-prob| of {mean:.3g} (at most {values['mismatch/max']:.3g}) on {values['tokens/policy']:.0f} "
                f"policy tokens, allowed {limit:g} (method.max_mismatch). What samples does not compute what is "
                "trained. mismatch/mean in metrics.jsonl says whether it jumped: look at the last push of weights and at "
                "servers that were restarted; or whether it was so from the start: look at another model or "
                "tokenizer, --logprobs-mode processed_logprobs, types of numbers (policy.dtype, --dtype, "
                "quantisation). `aipo doctor` checks these. The step was not made; the last checkpoint is as it was, "
                "--resume goes on from it"
            )
            raise self.ranks.same_error(error)

    def _on_begin(self) -> None:
        # TRL counts micro-batches from 0 again after a resume.
        self._step = self.state.global_step * self.args.gradient_accumulation_steps
        self.source.updated(self.state.global_step)

    def _on_step_end(self) -> None:
        self.source.updated(self.state.global_step)
        if self.state.global_step % self.schedule.optimizer_steps == 0:
            self.token_stats.close(self.rollout_step - 1)


def _scored_elsewhere(**_: Any) -> list[float | None]:
    raise TrainError("TRL asked for rewards, which rows already have")
