"""Losses and gradients of stored rows under several settings, computed with given weights.

Advantages, rows, their order in the optimizer steps, scores and loss come from the functions of training, and from a
trainer that never trains. Settings that give the same rows share the forward passes.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aipo.method.batch import TokenTotals, advantages, agent_numbers, with_gradient
from aipo.method.loss import LossInputs, LossOutput, aipo_loss
from aipo.method.metrics import QUANTITIES, ROLES, loss_metrics, roles_of
from aipo.method.rows import Code, Row
from aipo.method.settings import MethodSettings
from aipo.policies.tags import Tags
from aipo.replay.questions.grid import Setting
from aipo.replay.questions.loss import StepLoss
from aipo.trace import Role, Trace
from aipo.train.rehearsal import NOTHING, Rehearsal
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
        return [
            [(row.trace_id, row.kind, row.forbidden_ids, row.codes_T.tobytes()) for row in batch]
            for batch in self.batches
        ]


@dataclass(frozen=True, slots=True)
class LossReplay:
    """The losses of stored traces with every setting, computed with the weights of a trainer.

    Args:
        trainer: never trained; it has a reference model if any setting has a KL term.
        tags: the consult tags.
        gradients: whether to go backward, too.
        peers: the traces of one step that other policies have which learned together with this one.
    """

    trainer: AIPOTrainer
    settings: Sequence[Setting]
    tags: Tags
    gradients: bool
    peers: Callable[[int], Sequence[Trace]] = lambda _: ()
    rehearsal: Rehearsal = NOTHING

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
        return sorted(losses, key=lambda loss: (loss.optimizer_step, order[loss.setting]))

    def _deal(self, setting: Setting, step: int, traces: Sequence[Trace]) -> _Dealt:
        experiment = setting.experiment
        method = experiment.method
        credited = experiment.credit(traces, self.peers(step))
        step_rows = self.rehearsal.beside(experiment.rows(credited, self.tags), step)
        rows = with_gradient(step_rows.rows, method)
        dealt = self.trainer.schedule.deal(rows, seed=self.trainer.args.seed, rollout_step=step)
        return _Dealt(setting, method, step_rows.totals, dealt)

    def _passes(self, same_rows: Sequence[_Dealt], step: int, weights: str, fresh: bool) -> list[StepLoss]:
        schedule, network = self.trainer.schedule, cast(torch.nn.Module, self.trainer.model)
        accumulation = schedule.gradient_accumulation
        losses: list[StepLoss] = []
        for minibatch in range(schedule.minibatches):
            gradients = Gradients(network.parameters()) if self.gradients else None
            sums = {dealt.setting.name: _Sums(dealt.method) for dealt in same_rows}
            for n in range(minibatch * accumulation, (minibatch + 1) * accumulation):
                if same_rows[0].batches[n]:
                    self._micro_batch(same_rows, n, sums, gradients, fresh=fresh)
            number = step * schedule.optimizer_steps + minibatch + 1
            losses += [
                sums[dealt.setting.name].loss_of(dealt, step, number, weights, gradients)
                for dealt in same_rows
            ]
        return losses

    def _micro_batch(
        self,
        same_rows: Sequence[_Dealt],
        n: int,
        sums: "Mapping[str, _Sums]",
        gradients: "Gradients | None",
        *,
        fresh: bool,
    ) -> None:
        """One forward pass, and every setting's loss of it."""
        trainer = self.trainer
        batch = trainer._batch(same_rows[0].batches[n], same_rows[0].totals)
        with torch.set_grad_enabled(self.gradients):
            logprobs, entropies = trainer._score(trainer.model, batch)
        slopes: dict[Place, Tensor] = {}
        for setting, method, totals, batches in same_rows:
            rows, device = batches[n], logprobs.device
            given = torch.from_numpy(advantages(rows)).to(device)
            denominators = torch.from_numpy(trainer.denominators(rows, totals, method)).to(device)
            agents = torch.from_numpy(agent_numbers(rows, method)).to(device)
            inputs = {**batch, "advantages": given, "denominators": denominators, "agents": agents}
            if method.needs_trainer_logprobs:
                inputs["trainer_logprobs"] = logprobs.detach()
            leaf = logprobs.detach().requires_grad_()
            output = aipo_loss(LossInputs.of(inputs, leaf, entropies.detach(), fresh=fresh), method)
            masks = _masks(rows, logprobs)
            sums[setting.name].add(output, masks)
            if gradients is not None:
                (slope,) = torch.autograd.grad(output.loss, leaf)
                slopes |= {
                    (setting.name, part): slope * mask for part, mask in masks.items() if part != Role.AGENT
                }
        if gradients is not None:
            gradients.add(logprobs, slopes)


class _Sums:
    """What is added up over the micro-batches of one optimizer step, for one setting."""

    def __init__(self, method: MethodSettings) -> None:
        self._loss = self._mismatch = 0.0
        self._sums_R_K = torch.zeros(len(roles_of(method)), len(QUANTITIES))
        self._parts: dict[str, npt.NDArray[np.float64]] = {}

    def add(self, output: LossOutput, masks: Mapping[str, Tensor]) -> None:
        self._loss += output.loss.item()
        self._sums_R_K = self._sums_R_K + output.sums_R_K.cpu()
        self._mismatch = max(self._mismatch, output.mismatch_max.item())
        for part, mask in masks.items():
            facts = (mask.sum(), output.pushes_B_T[mask].sum(), output.clipped_B_T[mask].sum())
            self._parts[part] = self._parts.get(part, 0.0) + np.array([fact.item() for fact in facts])

    def loss_of(
        self, dealt: _Dealt, step: int, number: int, weights: str, gradients: "Gradients | None"
    ) -> StepLoss:
        name, parts = dealt.setting.name, sorted(self._parts)
        flows = {part: gradients and gradients.of((name, part)) for part in parts}
        # The sum of all agents, besides each one.
        flows[Role.AGENT] = _total(flow for part, flow in flows.items() if part.startswith(f"{Role.AGENT}/"))
        total = _total(flow for part, flow in flows.items() if "/" not in part)

        def facts(part: str) -> dict[str, float | None]:
            tokens, pushed, clipped = self._parts[part].tolist()
            return {
                "tokens": int(tokens),
                "weight": pushed / max(tokens, 1),
                "clip": clipped / max(tokens, 1),
                "norm": norm_of(flows[part]) if gradients else None,
                "share": share_of(flows[part], total) if gradients else None,
            }

        return StepLoss(
            setting=name,
            step=step,
            optimizer_step=number,
            weights=weights,
            loss=self._loss,
            grad_norm=norm_of(total) if gradients else None,
            metrics=loss_metrics(self._sums_R_K.tolist(), self._mismatch, dealt.method),
            parts={part: facts(part) for part in parts},
        )


def _total(flows: Iterable[Tensor | None]) -> Tensor | None:
    tensors = [flow for flow in flows if flow is not None]
    return torch.stack(tensors).sum(0) if tensors else None


def _masks(rows: Sequence[Row], like_B_T: Tensor) -> dict[str, Tensor]:
    """Masks of the tokens, (B, T) bool, of every role and of every single agent or teacher."""
    masks: dict[str, npt.NDArray[np.bool_]] = defaultdict(lambda: np.zeros(like_B_T.shape, np.bool_))
    for b, row in enumerate(rows):
        start = row.prompt_tokens
        codes, segments = row.codes_T[start:], row.segments_T[start:]
        tokens = [(role, codes == code) for role, code in ROLES.items()]
        tokens += [
            (f"{Role.AGENT}/{segment.source}", (segments == i) & (codes == Code.AGENT))
            for i, segment in enumerate(row.segments)
            if segment.role in (Role.AGENT, Role.TEACHER)
        ]
        for name, row_T in tokens:
            if row_T.any():
                masks[name][b, : len(row_T)] |= row_T
    return {name: torch.from_numpy(mask).to(like_B_T.device) for name, mask in masks.items()}


class Gradients:
    """Sums of gradients over micro-batches, by key, each of as many numbers as the model has parameters, (P,).

    A loss sees the model through log-probs alone, so its gradient is the product of the model's Jacobian with
    ∂loss/∂log-probs. Losses that treat some tokens in the same way share this product: a grid of coefficients
    computes one for its policy tokens, not one for each setting.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._sums: dict[Hashable, Tensor] = {}

    def add(self, logprobs_B_T: Tensor, slopes: Mapping[Key, Tensor]) -> None:
        """Adds a micro-batch: ∂loss/∂log-probs of each key, (B, T). The autograd graph of `logprobs_B_T` is kept."""
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
