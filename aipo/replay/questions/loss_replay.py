"""Losses and gradients of stored rows under several settings, computed with given weights.

Advantages, rows, their order in the optimizer steps, scores and loss come from the functions of training, and from a
trainer that never trains. Settings that give the same rows share the forward passes.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aipo.method.batch import TokenTotals, with_gradient
from aipo.method.loss import LossInputs, LossOutput, aipo_loss
from aipo.method.metrics import QUANTITIES, ROLES, loss_metrics
from aipo.method.rows import Code, Row
from aipo.method.settings import MethodSettings
from aipo.replay.questions.grid import Setting
from aipo.replay.questions.loss import StepLoss
from aipo.trace import Role, Trace
from aipo.train.trainer import AIPOTrainer

Place = tuple[str, str]
"""Setting and kind of token."""
Key = TypeVar("Key", bound=Hashable)


class _Dealt(NamedTuple):
    """A setting's rows, by micro-batch."""

    setting: Setting
    method: MethodSettings
    totals: TokenTotals
    batches: list[list[Row]]

    @property
    def rows(self) -> Any:
        """Equal for settings whose forward passes are the same."""
        return [[(row.trace_id, row.kind, row.forbidden_ids) for row in batch] for batch in self.batches]


@dataclass(frozen=True, slots=True)
class LossReplay:
    """The losses of stored traces with every setting, computed with the weights of a trainer.

    Args:
        trainer: never trained; it has a reference model if any setting has a KL term.
        settings: what to compare; the first one is the recorded one.
        tag_ids: ids of the consult tags.
        gradients: whether to go backward, too.
    """

    trainer: AIPOTrainer
    settings: Sequence[Setting]
    tag_ids: tuple[int, ...]
    gradients: bool

    def losses(self, step: int, traces: Sequence[Trace], *, weights: str, fresh: bool) -> list[StepLoss]:
        """Every setting on every optimizer step of rollout step `step`.

        Args:
            traces: of the whole step, in the order of the plan.
            weights: what the trainer's weights are called.
            fresh: they are those that sampled.

        Raises:
            TrainError: a row that cannot be trained on.
        """
        losses: list[StepLoss] = []
        waiting = [self._deal(setting, step, traces) for setting in self.settings]
        while waiting:
            same_rows = [dealt for dealt in waiting if dealt.rows == waiting[0].rows]
            waiting = [dealt for dealt in waiting if dealt.rows != waiting[0].rows]
            losses += self._passes(same_rows, step, weights, fresh)
        order = {setting.name: i for i, setting in enumerate(self.settings)}
        return sorted(losses, key=lambda loss: (loss.update, order[loss.setting]))

    def _deal(self, setting: Setting, step: int, traces: Sequence[Trace]) -> _Dealt:
        experiment = setting.experiment
        method = experiment.method
        step_rows = experiment.rows(experiment.credit(traces), self.tag_ids)
        rows = with_gradient(step_rows.rows, method)
        dealt = self.trainer.schedule.deal(rows, seed=self.trainer.args.seed, rollout_step=step)
        return _Dealt(setting, method, step_rows.totals, dealt)

    def _passes(self, same_rows: Sequence[_Dealt], step: int, weights: str, fresh: bool) -> list[StepLoss]:
        schedule = self.trainer.schedule
        losses: list[StepLoss] = []
        for update in range(schedule.minibatches):
            sums = _Sums(self.trainer.model if self.gradients else None)
            for n in range(
                update * schedule.gradient_accumulation, (update + 1) * schedule.gradient_accumulation
            ):
                if same_rows[0].batches[n]:
                    self._micro_batch(same_rows, n, sums, fresh=fresh)
            number = step * schedule.optimizer_steps + update + 1
            losses += [sums.loss_of(dealt, step, number, weights) for dealt in same_rows]
        return losses

    def _micro_batch(self, same_rows: Sequence[_Dealt], n: int, sums: "_Sums", *, fresh: bool) -> None:
        """One forward pass, and every setting's loss of it."""
        trainer = self.trainer
        batch = trainer._batch(same_rows[0].batches[n], same_rows[0].totals)
        with torch.set_grad_enabled(self.gradients):
            logprobs, entropies = trainer._score(trainer.model, batch)
        slopes: dict[Place, Tensor] = {}
        for setting, method, totals, batches in same_rows:
            rows = batches[n]
            inputs = {
                **batch,
                "advantages": torch.tensor([row.advantage for row in rows], dtype=torch.float32).to(
                    logprobs.device
                ),
                "denominators": torch.from_numpy(trainer.denominators(rows, totals, method)).to(
                    logprobs.device
                ),
            }
            if method.needs_trainer_logprobs:
                inputs["trainer_logprobs"] = logprobs.detach()
            leaf = logprobs.detach().requires_grad_()
            output = aipo_loss(LossInputs.of(inputs, leaf, entropies.detach(), fresh=fresh), method)
            masks = _masks(rows, logprobs)
            sums.add(setting.name, output, masks)
            if self.gradients:
                (slope,) = torch.autograd.grad(output.loss, leaf)
                slopes |= {
                    (setting.name, part): slope * mask for part, mask in masks.items() if part != Role.AGENT
                }
        if self.gradients:
            sums.gradients.add(logprobs, slopes)


class _Sums:
    """What is added up over the micro-batches of one optimizer step."""

    def __init__(self, model: Any) -> None:
        self.gradients = Gradients(model.parameters() if model is not None else ())
        self._backward = model is not None
        self._loss: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._mismatch: dict[str, float] = {}
        self._parts: dict[Place, npt.NDArray[np.float64]] = {}

    def add(self, name: str, output: LossOutput, masks: Mapping[str, Tensor]) -> None:
        self._loss[name] = self._loss.get(name, 0.0) + output.loss.item()
        self._sums[name] = self._sums.get(name, torch.zeros(())) + output.sums_R_K.cpu()
        self._mismatch[name] = max(self._mismatch.get(name, 0.0), output.mismatch_max.item())
        for part, mask in masks.items():
            facts = [mask.sum(), output.pushes_B_T[mask].sum(), output.clipped_B_T[mask].sum()]
            self._parts[name, part] = self._parts.get((name, part), np.zeros(3)) + np.array(
                [fact.item() for fact in facts]
            )

    def loss_of(self, dealt: _Dealt, step: int, update: int, weights: str) -> StepLoss:
        name = dealt.setting.name
        sums = self._sums.get(name, torch.zeros(len(ROLES), len(QUANTITIES)))
        names = sorted({part for setting, part in self._parts if setting == name})
        flows = {part: self.gradients.of((name, part)) for part in names}
        # The sum of all agents, besides each one.
        flows[Role.AGENT] = _total(flow for part, flow in flows.items() if part.startswith(f"{Role.AGENT}/"))
        total = _total(flow for part, flow in flows.items() if "/" not in part)
        return StepLoss(
            setting=name,
            step=step,
            update=update,
            weights=weights,
            loss=self._loss.get(name, 0.0),
            grad_norm=norm_of(total) if self._backward else None,
            metrics=loss_metrics(sums.tolist(), self._mismatch.get(name, 0.0), dealt.method),
            parts={part: self._part(name, part, flows[part], total) for part in names},
        )

    def _part(
        self, name: str, part: str, flow: Tensor | None, total: Tensor | None
    ) -> dict[str, float | None]:
        tokens, pushed, clipped = self._parts[name, part].tolist()
        return {
            "tokens": int(tokens),
            "weight": pushed / max(tokens, 1),
            "clip": clipped / max(tokens, 1),
            "norm": norm_of(flow) if self._backward else None,
            "share": share_of(flow, total) if self._backward else None,
        }


def _total(flows: Iterable[Tensor | None]) -> Tensor | None:
    tensors = [flow for flow in flows if flow is not None]
    return torch.stack(tensors).sum(0) if tensors else None


def _masks(rows: Sequence[Row], like_B_T: Tensor) -> dict[str, Tensor]:
    """Masks of the tokens, (B, T) bool, of every role and of every single agent."""
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for b, row in enumerate(rows):
        start = row.prompt_tokens
        codes, segments = row.codes_T[start:], row.segments_T[start:]
        for role, code in ROLES.items():
            _mark(masks, role, like_B_T, b, codes == code)
        for i, segment in enumerate(row.segments):
            if segment.role is Role.AGENT:
                agent = (segments == i) & (codes == Code.AGENT)
                _mark(masks, f"{Role.AGENT}/{segment.source}", like_B_T, b, agent)
    return {name: torch.from_numpy(mask).to(like_B_T.device) for name, mask in masks.items()}


def _mark(
    masks: dict[str, npt.NDArray[np.bool_]], name: str, like_B_T: Tensor, b: int, row_T: npt.NDArray[np.bool_]
) -> None:
    if row_T.any():
        mask = masks.setdefault(name, np.zeros(like_B_T.shape, np.bool_))
        mask[b, : len(row_T)] |= row_T


class Gradients:
    """Sums of gradients over micro-batches, by key.

    A loss sees the model through log-probs alone, so its gradient is the product of the model's Jacobian with
    ∂loss/∂log-probs. Losses that treat some tokens in the same way share this product: a grid of coefficients
    computes one for its policy tokens, not one for each setting.

    Args:
        parameters: of the model; P numbers in all.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._sums: dict[Hashable, Tensor] = {}

    def add(self, logprobs_B_T: Tensor, slopes: Mapping[Key, Tensor]) -> None:
        """Adds a micro-batch.

        Args:
            logprobs_B_T: with their autograd graph, which is kept.
            slopes: ∂loss/∂log-probs of each key, (B, T).
        """
        flows: dict[bytes, Tensor] = {}
        for key, slope_B_T in slopes.items():
            if not slope_B_T.any():
                continue
            same = slope_B_T.detach().cpu().numpy().tobytes()
            if same not in flows:
                flows[same] = self._flow(logprobs_B_T, slope_B_T)
            self._sums[key] = self._sums[key] + flows[same] if key in self._sums else flows[same]

    def of(self, key: Hashable) -> Tensor | None:
        """The gradient of a key, (P,); None where it is 0 because nothing was added."""
        return self._sums.get(key)

    def _flow(self, logprobs_B_T: Tensor, slope_B_T: Tensor) -> Tensor:
        gradients = cast(
            Sequence[Tensor | None],
            torch.autograd.grad(
                logprobs_B_T, self._parameters, slope_B_T, retain_graph=True, allow_unused=True
            ),
        )
        pairs = zip(gradients, self._parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten().float() for g, p in pairs])


def norm_of(gradient: Tensor | None) -> float:
    """‖g‖₂."""
    return 0.0 if gradient is None else float(gradient.norm())


def share_of(part: Tensor | None, total: Tensor | None) -> float | None:
    """g_part · g / ‖g‖²: a part's share of the step. Shares add up to 1; one may be negative. None without a step."""
    if total is None or not (squared := float(total.square().sum())):
        return None
    return 0.0 if part is None else float((part * total).sum()) / squared
