"""The section `method`: plan, credit, coefficient and loss, and which of their settings go together."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from aipo.method.objectives import check_denominator, clip_of
from aipo.method.weighing import Weighing
from aipo.util.section import Count, Positive, Section, Share


class MethodConfig(Section):
    plan: Literal["independent", "expert"] = Field(
        "independent", description="which rollouts make up a group"
    )
    demonstrations: Count | None = Field(
        None, description="expert: so many of a group are shown, not sampled; default 1"
    )
    assist_share: Share = Field(0.5, description="share of a group's sampled rollouts that have agents")
    assist_share_end: Share | None = Field(
        None,
        description="what that share comes to, in a straight line, by the last generation; null = it stays",
    )
    suppress_share: Share = Field(0.0, description="share of its solo rollouts with the consult tags masked")
    credit: Literal["group", "reward"] = Field(
        "group",
        description="how rewards become advantages: against their group's mean, or as they are. `reward` is rejection "
        "sampling on own rollouts (STaR, 2203.14465), sound only where wrong answers have R <= 0",
    )
    scale_by_std: bool = Field(True, description="divide by the group's standard deviation")
    per_mode_baseline: bool = Field(False, description="assisted and solo rollouts have a mean each")
    negative_weight: Annotated[float, Field(ge=0.0)] = Field(1.0, description="factor on negative advantages")
    scale_by_active: bool = Field(
        True,
        description="learning rate x share of rollouts with an advantage. With the credit `reward` these are the right "
        "ones, so that the rate grows with what the policy can do",
    )
    coefficient: Literal["mask", "pi", "luffy", "rlplus", "floor", "power", "constant", "echo", "ratio"] = (
        Field("mask", description="what an agent's token is worth to the policy gradient")
    )
    coefficient_value: float | None = Field(
        None,
        description="c of `floor` (default 0.3), `constant` (1), `echo` (0.05); γ of `luffy` (0.1); α of `power` (0.5)",
    )
    coefficient_clip_low: float | None = Field(
        None, description="lower bound of the coefficient where A >= 0; default: 0.1 for `power`, else none"
    )
    coefficient_clip_high: float | None = Field(
        None, description="upper bound of the coefficient where A >= 0; default: 2 for `ratio`, else none"
    )
    coefficient_trust: Positive | None = Field(
        None,
        description="e: agents' tokens are pushed no further once their ratio left [1/(1+e), 1+e]; null = never",
    )
    negative: Literal["zero", "pi", "floor", "same"] = Field(
        "zero", description="coefficient where advantage < 0"
    )
    negative_value: float | None = Field(None, description="c of the rule `floor` (default 0.1)")
    distil_weight: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="weight of distilled rows (consults cut out of the context); 0 = none"
    )
    distil_suppress: bool = Field(
        True, description="train distilled rows with the tags masked; else they also teach not to ask"
    )
    objective: Literal["grpo", "dapo", "dr_grpo", "gspo", "cispo"] = Field(
        "dapo", description="loss on policy tokens"
    )
    clip_low: Positive | None = Field(
        None,
        description="policy ratio is clipped below 1 - clip_low; default 0.2, `gspo` 3e-4, `cispo` none",
    )
    clip_high: Positive | None = Field(
        None,
        description="policy ratio is clipped above 1 + clip_high; default 0.2, `dapo` 0.28, `gspo` 4e-4, `cispo` 4",
    )
    clip_keeps_gradient: bool = Field(
        False,
        description="a clipped token keeps the bound's gradient (GPPO); not with `cispo`, which does so",
    )
    denominator: Literal["policy", "union"] = Field(
        "policy",
        description="tokens that averages count: the policy's, or agents' too; not with `dr_grpo`",
    )
    beta: Annotated[float, Field(ge=0.0)] = Field(0.0, description="weight of the KL to the first policy")
    importance_mode: Literal["truncate", "mask"] = Field(
        "truncate", description="policy tokens whose sampler-to-trainer weight is outside: cut to C, or 0"
    )
    importance_cap: Positive | None = Field(
        None, description="C: truncates that weight above C, or masks outside [1/C, C]; null = no correction"
    )
    max_mismatch: Positive | None = Field(
        None, description="stops the run where mismatch/mean exceeds it (nats per token); null = never"
    )

    @model_validator(mode="after")
    def _plan_fits(self) -> Self:
        if self.demonstrations is not None and self.plan != "expert":
            raise ValueError(f"demonstrations are for the plan expert, got {self.plan!r}")
        if self.plan == "expert" and self.per_mode_baseline:
            raise ValueError(
                "per_mode_baseline: got true with the plan expert, allowed false: demonstrations of one task, with a "
                "mean of their own, have no advantage"
            )
        if self.plan == "expert" and self.coefficient == "ratio":
            raise ValueError(
                "coefficient: got ratio with the plan expert, allowed another one: nobody knows how likely an expert "
                "finds a demonstration"
            )
        return self

    @model_validator(mode="after")
    def _credit_fits(self) -> Self:
        unused = {"scale_by_std": False, "per_mode_baseline": False, "negative_weight": 1.0}
        for name, neutral in unused.items() if self.credit == "reward" else ():
            if getattr(self, name) != neutral:
                raise ValueError(
                    f"{name}: got {getattr(self, name)} with the credit reward, which has no baseline, allowed {neutral}"
                )
        return self

    @model_validator(mode="after")
    def _correction_fits(self) -> Self:
        cap = self.importance_cap
        if self.importance_mode == "mask" and not (cap is not None and cap > 1):
            raise ValueError(
                f"importance_cap: got {'none' if cap is None else f'{cap:g}'}, allowed > 1 where correction is mask"
            )
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> Self:
        _ = self.weighing  # refused here where it cannot be
        clip_of(self.objective, self.clip_low, self.clip_high, keeps_gradient=self.clip_keeps_gradient)
        check_denominator(self.objective, self.denominator)
        return self

    def assist_share_at(self, step: int, steps: int) -> float:
        """The share of generation `step`, from 0, of `steps`."""
        start, end = self.assist_share, self.assist_share_end
        return start if end is None else start + (end - start) * min(step / max(steps - 1, 1), 1.0)

    @property
    def assist_share_most(self) -> float:
        """The largest share of any generation."""
        return max(self.assist_share, self.assist_share_end or 0.0)

    @property
    def weighing(self) -> Weighing:
        """How agents' tokens are weighed.

        Raises:
            ConfigError: see `aipo.method.weighing.Weighing`.
        """
        return Weighing(
            coefficient=self.coefficient,
            coefficient_value=self.coefficient_value,
            coefficient_clip_low=self.coefficient_clip_low,
            coefficient_clip_high=self.coefficient_clip_high,
            coefficient_trust=self.coefficient_trust,
            negative=self.negative,
            negative_value=self.negative_value,
        )
