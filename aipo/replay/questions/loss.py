"""The loss again: what other settings would have made of stored rows, through given weights.

Advantages, rows, their order in the optimiser steps, scores and loss are those of training: the same
functions, and a trainer that never trains. Settings that give the same rows share the forward passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aipo.config.build_method import credit_of, loss_settings, rows_of_step
from aipo.method.batch import Totals, alive, denominators
from aipo.method.loss import QUANTITIES, ROLES, LossInputs, LossOutput, LossSettings, aipo_loss
from aipo.method.metrics import loss_metrics
from aipo.method.rows import Code, Row, check_known
from aipo.replay.questions.gradients import Gradients, norm, share
from aipo.replay.questions.grid import Setting
from aipo.trace import Role, Trace
from aipo.train.trainer import AIPOTrainer

Place = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one kind of token does in one optimiser step: `policy`, `agent` and each `agent/NAME`, `distilled`.

    Args:
        weight: mean |A|·w: how hard these tokens are pushed.
        clip: share of them that the clip changed.
        norm: of their own gradient; None when gradients were not asked for.
        share: of the step, see `aipo.replay.questions.gradients.share`.
    """

    tokens: int
    weight: float
    clip: float
    norm: float | None
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one setting makes of one optimiser step.

    Args:
        step: generation.
        update: optimiser step, from 1, as in metrics.jsonl.
        weights: name of the weights looked through.
        loss: of the whole step.
        grad_norm: before clipping; None when gradients were not asked for.
        metrics: as training logs them.
        online: `loss` and `grad_norm` that training logged for this very step: the setting is the recorded one
            and the weights are those of then. Empty else.
    """

    setting: str
    step: int
    update: int
    weights: str
    loss: float
    grad_norm: float | None
    metrics: Mapping[str, float]
    parts: Mapping[str, Part]
    online: Mapping[str, float] = field(default_factory=dict[str, float])


class _Dealt(NamedTuple):
    """A setting's rows, by micro-batch."""

    setting: Setting
    how: LossSettings
    totals: Totals
    batches: list[list[Row]]

    @property
    def rows(self) -> Any:
        """Equal for settings whose forward passes are the same."""
        return [[(row.trace_id, row.kind, row.forbidden_ids) for row in batch] for batch in self.batches]


class LossReplay:
    """Replays generations with every setting, through the weights of a trainer.

    Args:
        trainer: never trained; it has a reference model if any setting has a KL term.
        settings: what to compare; the first one is the recorded one.
        tag_ids: ids of the consult tags.
        gradients: whether to go backward, too.
    """

    def __init__(
        self,
        trainer: AIPOTrainer,
        settings: Sequence[Setting],
        *,
        tag_ids: tuple[int, ...],
        gradients: bool = True,
    ) -> None:
        self._trainer = trainer
        self._settings = settings
        self._tag_ids = tag_ids
        self._gradients = gradients

    def outcomes(self, step: int, traces: Sequence[Trace], *, weights: str, fresh: bool) -> list[Outcome]:
        """Every setting on every optimiser step of generation `step`.

        Args:
            traces: of the whole generation, in the order of the plan.
            weights: what the trainer's weights are called.
            fresh: they are those that sampled.

        Raises:
            TrainError: a row that cannot be trained on.
        """
        made: list[Outcome] = []
        left = [self._deal(setting, step, traces) for setting in self._settings]
        while left:
            alike = [dealt for dealt in left if dealt.rows == left[0].rows]
            left = [dealt for dealt in left if dealt.rows != left[0].rows]
            made += self._passes(alike, step, weights, fresh)
        order = {setting.name: i for i, setting in enumerate(self._settings)}
        return sorted(made, key=lambda outcome: (outcome.update, order[outcome.setting]))

    def _deal(self, setting: Setting, step: int, traces: Sequence[Trace]) -> _Dealt:
        how = loss_settings(setting.config)
        made = rows_of_step(setting.config, credit_of(setting.config)(traces), self._tag_ids)
        rows = alive(made.rows, beta=how.beta, signed=how.chosen.signed)
        if how.chosen.needs_mu:
            check_known(rows)
        dealt = self._trainer.schedule.deal(rows, seed=self._trainer.args.seed, generation=step)
        return _Dealt(setting, how, made.totals, dealt)

    def _passes(self, alike: Sequence[_Dealt], step: int, weights: str, fresh: bool) -> list[Outcome]:
        schedule = self._trainer.schedule
        made: list[Outcome] = []
        for update in range(schedule.updates):
            sums = _Sums(self._trainer.model if self._gradients else None)
            for n in range(update * schedule.accumulation, (update + 1) * schedule.accumulation):
                if alike[0].batches[n]:
                    self._micro_batch(alike, n, sums, fresh=fresh)
            for dealt in alike:
                outcome = sums.outcome(dealt, step, step * schedule.steps + update + 1, weights)
                made.append(outcome)
        return made

    def _micro_batch(self, alike: Sequence[_Dealt], n: int, sums: "_Sums", *, fresh: bool) -> None:
        """One forward pass, and every setting's loss of it."""
        trainer = self._trainer
        batch = trainer._batch(alike[0].batches[n], trainer.window(alike[0].totals))
        with torch.set_grad_enabled(self._gradients):
            logprobs, entropies = trainer._score(trainer.model, batch)
        slopes: dict[Place, Tensor] = {}
        for setting, how, totals, batches in alike:
            rows = batches[n]
            own = {
                **batch,
                "advantages": torch.tensor([row.advantage for row in rows], dtype=torch.float32).to(
                    logprobs.device
                ),
                "denominators": torch.from_numpy(
                    denominators(rows, how.objective, trainer.window(totals), counted=how.denominator)
                ).to(logprobs.device),
            }
            if how.needs_trainer:
                own["old_per_token_logps"] = logprobs.detach()
            leaf = logprobs.detach().requires_grad_()
            output = aipo_loss(LossInputs.of(own, leaf, entropies.detach(), fresh=fresh), how)
            masks = _masks(rows, logprobs)
            sums.add(setting.name, output, masks)
            if self._gradients:
                (slope,) = torch.autograd.grad(output.loss, leaf)
                slopes |= {
                    (setting.name, part): slope * mask for part, mask in masks.items() if part != Role.AGENT
                }
        if self._gradients:
            sums.gradients.add(logprobs, slopes)


class _Sums:
    """What is added up over the micro-batches of one optimiser step."""

    def __init__(self, model: Any) -> None:
        self.gradients = Gradients(model.parameters() if model is not None else ())
        self._wanted = model is not None
        self._loss: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._drift: dict[str, float] = {}
        self._parts: dict[Place, npt.NDArray[np.float64]] = {}

    def add(self, name: str, output: LossOutput, masks: Mapping[str, Tensor]) -> None:
        self._loss[name] = self._loss.get(name, 0.0) + output.loss.item()
        self._sums[name] = self._sums.get(name, torch.zeros(())) + output.sums_R_K.cpu()
        self._drift[name] = max(self._drift.get(name, 0.0), output.mismatch_max.item())
        for part, mask in masks.items():
            facts = [mask.sum(), output.pushes_B_T[mask].sum(), output.clipped_B_T[mask].sum()]
            self._parts[name, part] = self._parts.get((name, part), np.zeros(3)) + np.array(
                [fact.item() for fact in facts]
            )

    def outcome(self, dealt: _Dealt, step: int, update: int, weights: str) -> Outcome:
        name = dealt.setting.name
        sums = self._sums.get(name, torch.zeros(len(ROLES), len(QUANTITIES)))
        by_role = zip(ROLES, sums.tolist(), strict=True)
        names = sorted({part for own, part in self._parts if own == name})
        flows = {part: self.gradients.of((name, part)) for part in names}
        # Agents are added up, and looked at one by one.
        flows[Role.AGENT] = _total(flow for part, flow in flows.items() if part.startswith(f"{Role.AGENT}/"))
        total = _total(flow for part, flow in flows.items() if "/" not in part)
        return Outcome(
            setting=name,
            step=step,
            update=update,
            weights=weights,
            loss=self._loss.get(name, 0.0),
            grad_norm=norm(total) if self._wanted else None,
            metrics=loss_metrics(
                {role: dict(zip(QUANTITIES, row, strict=True)) for role, row in by_role},
                self._drift.get(name, 0.0),
                kl=dealt.how.beta > 0,
                importance=dealt.how.importance_cap is not None,
            ),
            parts={part: self._part(name, part, flows[part], total) for part in names},
        )

    def _part(self, name: str, part: str, flow: Tensor | None, total: Tensor | None) -> Part:
        tokens, pushed, clipped = self._parts[name, part].tolist()
        return Part(
            tokens=int(tokens),
            weight=pushed / max(tokens, 1),
            clip=clipped / max(tokens, 1),
            norm=norm(flow) if self._wanted else None,
            share=share(flow, total) if self._wanted else None,
        )


def _total(flows: Iterable[Tensor | None]) -> Tensor | None:
    known = [flow for flow in flows if flow is not None]
    return torch.stack(known).sum(0) if known else None


def _masks(rows: Sequence[Row], like_B_T: Tensor) -> dict[str, Tensor]:
    """Which tokens are whose, (B, T) bool: every role, and every agent by itself."""
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for b, row in enumerate(rows):
        start = row.prompt_tokens
        codes, segments = row.codes_T[start:], row.segments_T[start:]
        for role, code in ROLES.items():
            _mark(found, role, like_B_T, b, codes == code)
        for i, head in enumerate(row.heads):
            if head.role is Role.AGENT:
                own = (segments == i) & (codes == Code.AGENT)
                _mark(found, f"{Role.AGENT}/{head.source}", like_B_T, b, own)
    return {name: torch.from_numpy(mask).to(like_B_T.device) for name, mask in found.items()}


def _mark(
    found: dict[str, npt.NDArray[np.bool_]], name: str, like_B_T: Tensor, b: int, own_T: npt.NDArray[np.bool_]
) -> None:
    if own_T.any():
        mask = found.setdefault(name, np.zeros(like_B_T.shape, np.bool_))
        mask[b, : len(own_T)] |= own_T
