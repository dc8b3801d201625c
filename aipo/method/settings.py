"""Every setting of a method: the section `method` of a configuration is what plan, credit, rows, loss and trainer take.

A quantity has the same name here, in the loss and in the metrics. Each rule about settings is checked here and nowhere
else.
"""

import json
import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from aipo.errors import ConfigError
from aipo.method.agent_weights import COEFFICIENTS, Coefficient, coefficient_of, is_file_name
from aipo.method.branching import BranchingSettings
from aipo.method.objectives import OBJECTIVES, Clip
from aipo.rollout.demonstration import EXPERT
from aipo.rollout.spec import AbilitySettings
from aipo.util.section import Count, Positive, Section, Share

Weight = Annotated[float, Field(ge=0.0)]
_MOVING = ("assist_share", "suppress_share")
_shown = partial(json.dumps, default=lambda section: section.model_dump(exclude_defaults=True))
_TEACHES_NOTHING = "with the coefficient mask, which teaches nothing"


class CoefficientSettings(Section):
    """The weight of agents' tokens: coefficient, bounds, sign rule, trust region.

    Raises:
        ValueError: an unknown name, a value out of its range, or settings that contradict each other.
    """

    coefficient: str = "mask"
    """Weight of an agent's token in the policy gradient: one of `COEFFICIENTS`, or your function, 'file.py:function'."""
    coefficient_value: float | None = None
    """c of `floor` (default 0.3), `constant` (1), `echo` (0.05); γ of `luffy` (0.1); α of `power` (0.5); `value` of
    your function."""
    coefficient_clip_low: float | None = None
    """Lower bound of the coefficient where A >= 0; default: 0.1 for `power`, else none."""
    coefficient_clip_high: float | None = None
    """Upper bound of the coefficient where A >= 0; default: 2 for `ratio`, else none."""
    coefficient_trust: Positive | None = None
    """e: an agent token stops being trained once its ratio π/π_old leaves [1/(1+e), 1+e]; null = never."""
    negative: Literal["zero", "pi", "floor", "same"] = "zero"
    """Coefficient of agents' tokens where A < 0: 0, π, max(π, 0.1), or the same as where A > 0."""

    @model_validator(mode="after")
    def _coefficient_is_one(self) -> Self:
        if not is_file_name(self.coefficient):  # a recorded configuration can be read without the file
            _ = self.coefficient_function
        low, high = self.coefficient_bounds
        if not 0 <= (0 if low is None else low) <= (math.inf if high is None else high):
            raise ValueError(
                f"coefficient_clip_low, coefficient_clip_high: got {low} and {high} for coefficient "
                f"{self.coefficient!r}, allowed 0 <= low <= high"
            )
        return self

    @model_validator(mode="after")
    def _a_mask_stays_one(self) -> Self:
        if self.coefficient == "mask":
            self._refuse_others(_TEACHES_NOTHING, negative=["zero", "same"], coefficient_trust=[None])
            self._refuse_others(_TEACHES_NOTHING, coefficient_clip_low=[None], coefficient_clip_high=[None])
        return self

    def _refuse_others(self, why: str, **allowed: Collection[object]) -> None:
        for name, values in allowed.items():
            if (got := getattr(self, name)) not in values:
                choices = " or ".join(map(_shown, values))
                raise ValueError(f"{name}: got {_shown(got)} {why}, allowed {choices}")

    def trains(self, advantage: float) -> bool:
        """Whether agents' tokens of a rollout with this advantage can have a weight."""
        if self.coefficient == "mask":
            return False
        if advantage < 0:
            return self.negative != "zero"
        return advantage > 0 or not self.coefficient_function.signed

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


class MethodSettings(CoefficientSettings):
    """Plan, credit, coefficient and loss.

    Raises:
        ValueError: an unknown name, a value out of its range, or settings that contradict each other. Read from a
            file, it is a `ConfigError`.
    """

    plan: Literal["independent", "expert", "branching"] = "independent"
    """Which rollouts make up a group."""
    branching: BranchingSettings = BranchingSettings()  # where rollouts are forked
    demonstrations: Count | None = None
    """expert: number of demonstrations in a group; default 1."""
    assist_share: Share = 0.5
    """Share of a group's sampled rollouts that have agents."""
    assist_share_end: Share | None = None
    """Value of assist_share in the last rollout step, linear in between; null = constant."""
    suppress_share: Share = 0.0
    """Share of a group's solo rollouts that cannot write consult tags (their logits are masked)."""
    suppress_share_end: Share | None = None
    """Value of suppress_share in the last rollout step, linear in between; null = constant."""
    abilities: AbilitySettings = AbilitySettings()  # where several policies learn together
    grant_steps: Positive | None = None
    """h: the request in rollout step s, from 1, is granted with probability h/(h + s - 1). 1: EAPO (2509.23730); null: all are."""

    credit: Literal["group", "reward", "calibrated", "branch", "node"] = "group"
    """`group` subtracts the mean of the group (`branch`: also where rollouts are forked; `node`: of those that came to a node;
    `calibrated`: on rewards compared with other policies', ILR, 2509.26306), `reward` nothing: STaR, 2203.14465, wrong: R <= 0."""
    attribution: Literal["soft", "hard"] = "soft"
    """branch: tokens that rollouts share have each rollout's own advantage in its row, or the mean of theirs."""
    scale_by_std: bool = True
    """Divide by the group's standard deviation."""
    per_mode_baseline: bool = False
    """Subtract a separate mean for assisted and for solo rollouts."""
    negative_weight: Weight = 1.0
    """Factor on negative advantages."""
    entropy_weight: Share = 0.0
    """α: the advantage of a policy's token is A·(1 + α·z), z its standardized entropy (AEPO's code: 0.2); 0 = off."""
    scale_by_active: bool = True
    """Multiply the learning rate by the active share (rollouts whose A is not 0: with `reward`, the correct ones)."""

    agents: dict[str, CoefficientSettings] = Field(default_factory=dict)
    """Agents whose tokens have coefficient settings of their own, by name. These replace all the general ones."""
    agent_prompt: Literal["own", "solo"] = "own"
    """Prompt under which agents' tokens are learned: that of their rollout, or that of the group's solo rollouts, if any."""
    distil_weight: Weight = 1.0
    """Weight of distilled rows (context distillation: consults are cut out of the context); 0 = none."""
    distil_suppress: bool = True
    """Train distilled rows with the consult tags masked; otherwise they also teach not to consult."""

    objective: Literal["grpo", "dapo", "dr_grpo", "gspo", "cispo"] = "dapo"
    """Loss on policy tokens."""
    clip_low: Positive | None = None
    """Policy ratio is clipped below 1 - clip_low; default 0.2, `gspo` 3e-4, `cispo` none."""
    clip_high: Positive | None = None
    """Policy ratio is clipped above 1 + clip_high; default 0.2, `dapo` 0.28, `gspo` 4e-4, `cispo` 4."""
    clip_keeps_gradient: bool = False
    """A clipped token keeps the gradient of the bound (GPPO); not for `cispo`, which always does."""
    denominator: Literal["policy", "union"] = "policy"
    """Tokens that the loss averages over: the policy's, or also the agents'; not for `dr_grpo`."""
    beta: Weight = 0.0
    """Weight of the KL to the reference policy."""
    importance_mode: Literal["truncate", "mask"] = "truncate"
    """Weights π_old/μ outside the bounds of importance_cap become C (truncate, TIS) or 0 (mask, MIS)."""
    importance_cap: Positive | None = None
    """C corrects the train/inference mismatch: weights above C are truncated, or outside [1/C, C] masked; null = off."""
    max_mismatch: Positive | None = None
    """Stops the run where mismatch/mean exceeds it (nats per token); null = never."""

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Self:
        objective = OBJECTIVES[self.objective]
        if self.plan == "expert":
            why = "with the plan expert, whose demonstrations equal their own mean and have no advantage"
            self._refuse_others(why, per_mode_baseline=[False])
        else:
            self._refuse_others(f"with the plan {self.plan}", demonstrations=[None])
        if self.plan == "branching":
            self._refuse_others(
                "with the plan branching, whose forks repeat granted requests", grant_steps=[None]
            )
        else:
            why, others = f"with the plan {self.plan}", ["group", "reward", "calibrated", "node"]
            self._refuse_others(why, branching=[BranchingSettings()], credit=others)
        if self.credit != "branch":
            self._refuse_others(f"with the credit {self.credit}", attribution=["soft"])
        if self.credit == "reward":
            why = "with the credit reward, which has no baseline"
            self._refuse_others(why, scale_by_std=[False], per_mode_baseline=[False], negative_weight=[1.0])
        if all(one.coefficient == "mask" for one in self.coefficient_settings.values()):
            self._refuse_others(_TEACHES_NOTHING, agent_prompt=["own"])
        if min(self.assist_share, 1.0 if self.assist_share_end is None else self.assist_share_end) == 1:
            self._refuse_others("where all rollouts have agents (assist_share)", agent_prompt=["own"])
        if not objective.stops:
            why = f"with the objective {self.objective}, whose clip takes no gradient away"
            self._refuse_others(why, clip_keeps_gradient=[False])
        if objective.average == "length":
            why = f"with the objective {self.objective}, which counts no tokens"
            self._refuse_others(why, denominator=["policy"])
        signed = {
            name: COEFFICIENTS[one.coefficient].signed if one.coefficient in COEFFICIENTS else True
            for name, one in self.coefficient_settings.items()
            if one.coefficient != "mask"
        }
        if len(set(signed.values())) > 1:
            unsigned = [f"{name}.coefficient" for name, value in signed.items() if not value]
            raise ValueError(
                f"{', '.join(unsigned)}: got one that ignores the advantage beside one that does not, allowed one sort, "
                "and mask"
            )
        if not is_file_name(self.of_agent(EXPERT).coefficient):
            _ = self.needs_mu(EXPERT)
        if self.importance_mode == "mask" and not (self.importance_cap or 0) > 1:
            cap = "none" if self.importance_cap is None else f"{self.importance_cap:g}"
            raise ValueError(f"importance_cap: got {cap}, allowed > 1 where importance_mode is mask")
        return self

    def at(self, step: int, steps: int) -> Self:
        """The settings of rollout step `step`, from 0, of `steps`: `assist_share` and `suppress_share` are those of the
        step."""
        part = min(step / max(steps - 1, 1), 1.0)
        starts = {name: (getattr(self, name), getattr(self, f"{name}_end")) for name in _MOVING}
        shares = {
            name: start + (end - start) * part for name, (start, end) in starts.items() if end is not None
        }
        return self.model_copy(update=shares)

    def grant_at(self, step: int) -> float:
        """The probability that a request is granted in rollout step `step`, from 0."""
        return 1.0 if self.grant_steps is None else self.grant_steps / (self.grant_steps + step)

    @property
    def assist_share_most(self) -> float:
        """The largest share of any rollout step."""
        return max(self.assist_share, self.assist_share_end or 0.0)

    @property
    def suppresses(self) -> bool:
        """Whether some rollouts of some rollout step cannot write consult tags."""
        return max(self.suppress_share, self.suppress_share_end or 0.0) > 0

    @property
    def coefficient_settings(self) -> Mapping[str, CoefficientSettings]:
        """The general ones and those of single agents, by the key of the section."""
        return {"method": self, **{f"method.agents.{name}": one for name, one in self.agents.items()}}

    @property
    def coefficient_files(self) -> Mapping[str, str]:
        """The coefficients that are functions of users, 'file.py:function', by the key that names them."""
        names = {f"{key}.coefficient": one.coefficient for key, one in self.coefficient_settings.items()}
        return {key: name for key, name in names.items() if is_file_name(name)}

    def of_agent(self, name: str) -> CoefficientSettings:
        """The coefficient settings of an agent's tokens."""
        return self.agents.get(name, self)

    def needs_mu(self, agent: str) -> bool:
        """Whether an agent's log-probs by its own model have to be recorded.

        Raises:
            LoadError, ConfigError: see `CoefficientSettings.coefficient_function`; or they are a demonstration's.
        """
        settings = self.of_agent(agent)
        needs_mu = settings.coefficient_function.needs_mu
        if needs_mu and self.plan == "expert" and agent == EXPERT:
            raise ConfigError(
                f"coefficient: got {settings.coefficient} with the plan expert, allowed one that does not need μ: the "
                "log-probs of a demonstration by its author are unknown"
            )
        return needs_mu

    @property
    def signed(self) -> bool:
        """Whether the advantage counts for agents' tokens; the same for all agents."""
        return all(one.coefficient_function.signed for one in self.coefficient_settings.values())

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
        return self.importance_cap is not None or any(
            one.coefficient_trust is not None or one.coefficient_function.needs_old
            for one in self.coefficient_settings.values()
        )

    @property
    def scores_again(self) -> bool:
        """Whether the trainer scores rows with the weights that sampled them, in every optimizer step."""
        return self.needs_trainer_logprobs or self.max_mismatch is not None
