"""Every setting of a method: the section `method` of a configuration is what plan, credit, rows, loss and trainer take.

A quantity has the same name here, in the loss and in the metrics. Each rule about settings is checked here and nowhere
else.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from aipo.method.agent_weights import COEFFICIENTS, Coefficient, coefficient_of, is_file_name
from aipo.method.objectives import OBJECTIVES, Clip
from aipo.util.section import Count, Positive, Section, Share


class MethodSettings(Section):
    """Plan, credit, coefficient and loss.

    Raises:
        ValueError: an unknown name, a value out of its range, or settings that contradict each other. Read from a
            file, it is a `ConfigError`.
    """

    plan: Literal["independent", "expert"] = Field(
        default="independent", description="which rollouts make up a group"
    )
    demonstrations: Count | None = Field(
        default=None, description="expert: number of demonstrations in a group; default 1"
    )
    assist_share: Share = Field(
        default=0.5, description="share of a group's sampled rollouts that have agents"
    )
    assist_share_end: Share | None = Field(
        default=None,
        description="value of assist_share in the last rollout step, linear in between; null = constant",
    )
    suppress_share: Share = Field(
        default=0.0,
        description="share of a group's solo rollouts that cannot write consult tags (their logits are masked)",
    )
    credit: Literal["group", "reward"] = Field(
        default="group",
        description="how rewards become advantages: `group` subtracts the mean of the group, `reward` has no baseline (A = R). "
        "The latter is rejection sampling (STaR, 2203.14465), sound only if wrong answers have R <= 0",
    )
    scale_by_std: bool = Field(default=True, description="divide by the group's standard deviation")
    per_mode_baseline: bool = Field(
        default=False, description="subtract a separate mean for assisted and for solo rollouts"
    )
    negative_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=1.0, description="factor on negative advantages"
    )
    scale_by_active: bool = Field(
        default=True,
        description="multiply the learning rate by the active share (rollouts whose advantage is not 0). With the credit "
        "`reward` these are the correct rollouts, so the rate grows as the policy improves",
    )
    coefficient: str = Field(
        default="mask",
        description=f"weight of an agent's token in the policy gradient: {', '.join(COEFFICIENTS)}, or your "
        "function, 'file.py:function'",
    )
    coefficient_value: float | None = Field(
        default=None,
        description="c of `floor` (default 0.3), `constant` (1), `echo` (0.05); γ of `luffy` (0.1); α of `power` (0.5); "
        "`value` of your function",
    )
    coefficient_clip_low: float | None = Field(
        default=None,
        description="lower bound of the coefficient where A >= 0; default: 0.1 for `power`, else none",
    )
    coefficient_clip_high: float | None = Field(
        default=None,
        description="upper bound of the coefficient where A >= 0; default: 2 for `ratio`, else none",
    )
    coefficient_trust: Positive | None = Field(
        default=None,
        description="e: an agent token stops being trained once its ratio π/π_old leaves [1/(1+e), 1+e]; null = never",
    )
    negative: Literal["zero", "pi", "floor", "same"] = Field(
        default="zero",
        description="coefficient of agents' tokens where A < 0: 0, π, max(π, 0.1), or the same as where A > 0",
    )
    distil_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=1.0,
        description="weight of distilled rows (context distillation: consults are cut out of the context); 0 = none",
    )
    distil_suppress: bool = Field(
        default=True,
        description="train distilled rows with the consult tags masked; otherwise they also teach not to consult",
    )
    objective: Literal["grpo", "dapo", "dr_grpo", "gspo", "cispo"] = Field(
        default="dapo", description="loss on policy tokens"
    )
    clip_low: Positive | None = Field(
        default=None,
        description="policy ratio is clipped below 1 - clip_low; default 0.2, `gspo` 3e-4, `cispo` none",
    )
    clip_high: Positive | None = Field(
        default=None,
        description="policy ratio is clipped above 1 + clip_high; default 0.2, `dapo` 0.28, `gspo` 4e-4, `cispo` 4",
    )
    clip_keeps_gradient: bool = Field(
        default=False,
        description="a clipped token keeps the gradient of the bound (GPPO); not for `cispo`, which always does",
    )
    denominator: Literal["policy", "union"] = Field(
        default="policy",
        description="tokens that the loss averages over: the policy's, or also the agents'; not for `dr_grpo`",
    )
    beta: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="weight of the KL to the reference policy"
    )
    importance_mode: Literal["truncate", "mask"] = Field(
        default="truncate",
        description="weights π_old/μ outside the bounds of importance_cap become C (truncate, TIS) or 0 (mask, MIS)",
    )
    importance_cap: Positive | None = Field(
        default=None,
        description="C corrects the train/inference mismatch: weights above C are truncated, or outside [1/C, C] masked; null = off",
    )
    max_mismatch: Positive | None = Field(
        default=None,
        description="stops the run where mismatch/mean exceeds it (nats per token); null = never",
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
                "coefficient: got ratio with the plan expert, allowed another one: the log-probs of a demonstration "
                "by its author are unknown"
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
    def _coefficient_fits(self) -> Self:
        if not is_file_name(self.coefficient):
            if self.coefficient not in COEFFICIENTS:
                raise ValueError(
                    f"coefficient: got {self.coefficient!r}, allowed {sorted(COEFFICIENTS)} or 'file.py:function'"
                )
            _ = self.coefficient_function  # checks the value
        low, high = self._check_bounds()
        if self.coefficient != "mask":
            return self
        for name, value, allowed in (
            ("negative", self.negative if self.negative in ("pi", "floor") else None, "'zero' or 'same'"),
            ("coefficient_trust", self.coefficient_trust, "none (null)"),
            ("coefficient_clip_low", low, "none (null)"),
            ("coefficient_clip_high", high, "none (null)"),
        ):
            if value is not None:
                raise ValueError(
                    f"{name}: got {value} with coefficient 'mask', which teaches nothing, allowed {allowed}, or a "
                    "coefficient that teaches something"
                )
        return self

    def _check_bounds(self) -> tuple[float | None, float | None]:
        low, high = self.coefficient_bounds
        given = [b for b in (self.coefficient_clip_low, self.coefficient_clip_high) if b is not None]
        if not all(bound >= 0 for bound in given) or (low is not None and high is not None and low > high):
            raise ValueError(
                f"coefficient_clip_low, coefficient_clip_high: got {low} and {high} for coefficient "
                f"{self.coefficient!r}, allowed 0 <= low <= high"
            )
        return low, high

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        if self.clip_keeps_gradient and not OBJECTIVES[self.objective].stops:
            raise ValueError(
                f"clip_keeps_gradient: got true with objective {self.objective!r}, whose clip takes no gradient away, "
                f"allowed with {sorted(name for name, one in OBJECTIVES.items() if one.stops)}"
            )
        if self.denominator == "union" and OBJECTIVES[self.objective].average == "length":
            raise ValueError(
                f"denominator: got 'union' with objective {self.objective!r}, which counts no tokens, allowed 'policy'"
            )
        cap = self.importance_cap
        if self.importance_mode == "mask" and not (cap is not None and cap > 1):
            raise ValueError(
                f"importance_cap: got {'none' if cap is None else f'{cap:g}'}, allowed > 1 where importance_mode is mask"
            )
        return self

    def assist_share_at(self, step: int, steps: int) -> float:
        """The share of rollout step `step`, from 0, of `steps`."""
        start, end = self.assist_share, self.assist_share_end
        return start if end is None else start + (end - start) * min(step / max(steps - 1, 1), 1.0)

    @property
    def assist_share_most(self) -> float:
        """The largest share of any rollout step."""
        return max(self.assist_share, self.assist_share_end or 0.0)

    @property
    def coefficient_function(self) -> Coefficient:
        """The coefficient; a user's function is imported when this is first asked for, and stays as it was then.

        Raises:
            LoadError: the file or function is missing, or its code fails.
            ConfigError: a function that cannot be a coefficient, or a `coefficient_value` that it does not take.
        """
        return coefficient_of(self.coefficient, self.coefficient_value)

    @property
    def coefficient_bounds(self) -> tuple[float | None, float | None]:
        """Bounds of w where A ≥ 0: the configured ones, else the coefficient's own; None is no bound."""
        low, high = self.coefficient_clip_low, self.coefficient_clip_high
        if (default := COEFFICIENTS.get(self.coefficient)) is None:
            return low, high
        return default.clip_low if low is None else low, default.clip_high if high is None else high

    @property
    def clip(self) -> Clip:
        """The bounds of policy tokens' ratio: the configured ones, else the objective's own."""
        objective, low, high = OBJECTIVES[self.objective], self.clip_low, self.clip_high
        return Clip(
            objective.clip_low if low is None else low,
            objective.clip_high if high is None else high,
            self.clip_keeps_gradient,
        )

    @property
    def needs_trainer_logprobs(self) -> bool:
        """Whether the loss needs the trainer's log-probs with the weights that sampled, in every optimizer step: for
        the importance correction, or as π_old of agents' tokens."""
        return (
            self.importance_cap is not None
            or self.coefficient_trust is not None
            or self.coefficient_function.needs_old
        )

    @property
    def scores_again(self) -> bool:
        """Whether the trainer scores rows with the weights that sampled them, in every optimizer step."""
        return self.needs_trainer_logprobs or self.max_mismatch is not None
