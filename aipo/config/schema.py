"""The sections of the configuration: frozen groups of settings, one line of text per field."""

import datetime
from collections import Counter
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from aipo.method.settings import MethodSettings
from aipo.policies.vllm.settings import PeerConfig, PolicyConfig, filled_in
from aipo.rollout.agent import ChatSettings
from aipo.rollout.chat.settings import DEFAULTS, ChatGraphSettings
from aipo.rollout.demonstration import EXPERT, WarmupSettings
from aipo.util.section import Count, Positive, Section, Share

_REFERENCE = "aipo.rollout.reference_chat:reference"


class RunConfig(Section):
    out: Path = Field(Path("runs/aipo"), description="folder of this run; must not hold another run")
    seed: int = Field(0, ge=0, lt=2**32, description="seeds everything that is not given a seed of its own")
    date: datetime.date | None = Field(
        None, description="day that chat templates are told; default: the day on which the run began"
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of torch; default: OMP_NUM_THREADS, or one per usable core"
    )
    report_to: tuple[str, ...] = Field((), description="trackers of transformers' Trainer (wandb, ...)")


class EnvConfig(Section):
    name: str = Field("envs.miniature:Miniature", description="environment, 'module:class'")
    options: dict[str, Any] = Field({}, description="keyword arguments of the environment")
    mixture: dict[str, float] = Field(
        {"easy_train": 0.5, "hard": 0.5}, description="share of each training split"
    )


class GraphConfig(Section):
    name: str = Field("graphs.consult:consult", description="'module:function' or 'file.py:function'")
    options: dict[str, Any] = Field({}, description="keyword arguments of the graph's function")
    chat: ChatGraphSettings = DEFAULTS


class AgentConfig(ChatSettings):
    graph: str = Field(..., description="sub-graph, 'module:function' or 'file.py:function'")
    prompt: Path | None = Field(None, description="default: prompts/NAME.md beside the graph's file")
    budget: Count = Field(3, description="maximum number of consults of this agent per rollout")
    max_tokens: Count = Field(
        256, description="maximum tokens of one reply, counted by the policy's tokenizer"
    )
    deadline: Positive = Field(60.0, description="seconds for one consult, retries included")
    cache: bool = Field(False, description="reuse replies; refused unless options.temperature is 0")


class RolloutConfig(Section):
    temperature: Positive = Field(1.0, description="sampling temperature; there is no top-p or top-k")
    max_tokens: Count = Field(256, description="maximum tokens after the prompt, agents' included")
    deadline: Positive = Field(300.0, description="seconds for one rollout")
    concurrency: Count = Field(256, description="maximum number of rollouts in flight")
    workers: Count = Field(
        1, description="processes that run rollouts; 1 = the main process; more need policy.engine=vllm"
    )
    control_tokens: Literal["text", "refuse"] = Field(
        "text",
        description="a question that spells control tokens: encode it as plain text, or let its rollouts fail",
    )
    reward_weights: dict[str, float] = Field({"correct": 1.0}, description="weight of each reward part")
    cost_limit: Positive | None = Field(
        None,
        description="stops the run when the agents' cost (agents.NAME.prices) exceeds this; null = never",
    )
    failure_limit: Share | None = Field(
        0.5,
        description="stops the run when a larger share of the last 64 consults failed in the agent; null = never",
    )
    suppress_tags: tuple[str, ...] = Field(
        ("<consult:{agent}>", "<feedback:{agent}>"),
        description="tags, for every agent, that a suppressed rollout cannot write; as in the graph's grammar",
    )

    @model_validator(mode="after")
    def _tags_name_the_agent(self) -> Self:
        for tag in self.suppress_tags:
            fields = {name for _, name, _, _ in Formatter().parse(tag) if name is not None}
            if fields - {"agent"}:
                raise ValueError(f"suppress_tags: got {tag!r}, allowed no other field than {{agent}}")
        return self


class TrainConfig(Section):
    steps: Count = Field(120, description="rollout steps")
    tasks_per_step: Count = Field(16, description="groups per rollout step")
    group_size: Count = Field(8, description="rollouts of one task")
    minibatches: Count = Field(2, description="optimizer steps per pass over the rows of a rollout step")
    passes: Count = Field(1, description="passes over the rows of each rollout step")
    gradient_accumulation: Count = Field(1, description="micro-batches per optimizer step")
    learning_rate: Positive = Field(1e-6, description="peak learning rate of AdamW")
    warmup: Share = Field(0.0, description="share of the steps with a rising learning rate")
    decay: Share = Field(0.0, description="share of the steps, at the end, with a falling learning rate")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="AdamW's weight decay")
    max_grad_norm: Positive = Field(1.0, description="gradients are clipped to this norm")
    autocast: bool = Field(
        False, description="compute in bfloat16; weights, gradients, optimizer state stay float32"
    )
    activation_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, slower"
    )
    save_every: int | None = Field(20, ge=1, description="rollout steps between checkpoints; null = none")
    keep_weights: bool = Field(
        True,
        description="keep the weights of old checkpoints, for `aipo replay`; each takes the model's size",
    )
    token_stats: bool = Field(True, description="record what the loss did with each token, for the viewer")

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps per rollout step."""
        return self.minibatches * self.passes

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay: got {self.warmup + self.decay:g}, allowed at most 1")
        return self


class RehearsalConfig(Section):
    prompts: str | None = Field(
        None,
        description="ordinary prompts: a text file with one in each line, or 'module:function'. The policy answers them "
        "before training, and is held to the probabilities of these answers. null: nothing is rehearsed",
    )
    max_tokens: Count = Field(48, description="longest answer")
    rows: Count = Field(16, description="answers that are rehearsed in each rollout step")
    weight: Positive = Field(1.0, description="of the KL from the policy before training, on these answers")


class EvaluateConfig(Section):
    splits: tuple[str, ...] = Field(("heldout",), description="splits that are evaluated")
    samples: Count = Field(8, description="rollouts per task")
    ks: tuple[Count, ...] = Field((1, 8), description="k of pass@k")
    settings: tuple[Literal["solo", "suppressed", "assisted"], ...] = Field(
        ("solo", "suppressed", "assisted"),
        description="solo; solo with the consult tags suppressed; with agents",
    )
    keep: Literal["first", "all"] = Field(
        "first", description="traces that are kept: of each task's first sample, or all"
    )

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.ks and max(self.ks) > self.samples:
            raise ValueError(f"ks: got {max(self.ks)}, allowed at most samples={self.samples}")
        return self


class Config(Section):
    """Everything that a run depends on."""

    run: RunConfig = RunConfig()  # pyright: ignore[reportCallIssue]
    env: EnvConfig = EnvConfig()  # pyright: ignore[reportCallIssue]
    policy: PolicyConfig
    # Those that learn together, by name (and folder); what one leaves out is that of `policy`.
    policies: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_-]*$")], PeerConfig] = Field({})
    graph: GraphConfig = GraphConfig()  # pyright: ignore[reportCallIssue]
    agents: dict[str, AgentConfig] = Field({})  # by the name that the policy consults; null leaves one out
    rollout: RolloutConfig = RolloutConfig()  # pyright: ignore[reportCallIssue]
    method: MethodSettings = MethodSettings()
    warmup: WarmupSettings = WarmupSettings()  # pyright: ignore[reportCallIssue]
    train: TrainConfig = TrainConfig()  # pyright: ignore[reportCallIssue]
    rehearsal: RehearsalConfig = RehearsalConfig()  # pyright: ignore[reportCallIssue]
    evaluate: EvaluateConfig = EvaluateConfig()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="before")
    @classmethod
    def _policies_are_as_policy(cls, data: Any) -> Any:
        """What is left out of one of `policies` is that of `policy`; options are for the model that `policy` names."""
        match data:
            case {"policy": dict(common), "policies": dict(peers)}:
                filled = {name: filled_in(common, peer) for name, peer in peers.items() if peer is not None}
                return {**data, "policies": filled}
            case _:
                return data

    @model_validator(mode="after")
    def _policies_can_learn_together(self) -> Self:
        peers, split = self.policies, self.method.abilities.split
        if not peers and split is not None:
            raise ValueError(
                f"method.abilities.split: got {split!r} with one policy, allowed null, or several (policies)"
            )
        if not peers:
            return self
        urls = Counter(url for p in peers.values() if p.engine == "vllm" for url in p.vllm.servers)
        shared = sorted(url for url, count in urls.items() if count > 1)
        modes = [*self.evaluate.settings]
        alone = {
            "rollout.workers": self.rollout.workers,
            "train.gradient_accumulation": self.train.gradient_accumulation,
        }
        rules = [
            (len(peers) > 1, "policies", [*peers], "two or more, or none (`policy` is the one)"),
            (not shared, "policies.*.vllm.servers", shared, "servers of each policy's own"),
            (not self.agents, "agents", [*self.agents], "none with policies: they are each other's agents"),
            *((got == 1, key, got, "1 with policies") for key, got in alone.items()),
            (self.method.plan != "branching", "method.plan", "branching", "another one with policies"),
            (
                self.rehearsal.prompts is None,
                "rehearsal.prompts",
                self.rehearsal.prompts,
                "null with policies",
            ),
            (modes == ["solo"], "evaluate.settings", modes, "solo with policies: each is evaluated alone"),
        ]
        for holds, what, got, allowed in rules:
            if not holds:
                raise ValueError(f"{what}: got {got}, allowed {allowed}")
        return self

    @model_validator(mode="after")
    def _there_is_something_to_cast(self) -> Self:
        if self.train.autocast and self.policy.dtype != "float32":
            raise ValueError(
                f"train.autocast: got it with policy.dtype={self.policy.dtype}, allowed with float32 weights"
            )
        return self

    @model_validator(mode="after")
    def _groups_can_teach(self) -> Self:
        size, method = self.train.group_size, self.method
        count = method.demonstrations or 1 if method.plan == "expert" else 0
        if count > size:
            raise ValueError(f"method.demonstrations: got {count}, allowed at most train.group_size={size}")
        vllm = self.policy.vllm
        uses = {"plan=branching": method.plan == "branching", "entropy_weight": method.entropy_weight > 0}
        if any(uses.values()) and self.policy.engine == "vllm" and not vllm.top_logprobs:
            use = next(name for name, used in uses.items() if used)
            raise ValueError(
                f"policy.vllm.top_logprobs: got 0 with method.{use}, which needs entropies, allowed 1 to 20"
            )
        if method.plan == "branching" and method.assist_share_most == 0:
            raise ValueError(
                "method.assist_share: got 0 with method.plan=branching, allowed more: only rollouts with agents can be forked"
            )
        if method.plan == "branching" and method.branching.first_wave(size) > size:
            raise ValueError(
                f"method.branching.rollouts: got {method.branching.rollouts}, allowed at most train.group_size={size}"
            )
        if method.credit != "reward" and (size == 1 or count == size):
            raise ValueError(
                f"train.group_size: got {size}, of which {count} are demonstrations, with method.credit={method.credit}, allowed "
                "2 or more that differ (what is alike has no advantage over its mean), or method.credit=reward"
            )
        if count == size and method.of_agent(EXPERT).coefficient == "mask":
            raise ValueError(
                "method.coefficient: got 'mask' where all of a group are demonstrations, which then teach nothing, "
                "allowed another one (constant)"
            )
        return self

    @model_validator(mode="after")
    def _agents_of_the_method_exist(self) -> Self:
        names = [*self.agents, *([EXPERT] if self.method.plan == "expert" else [])]
        if unknown := sorted(self.method.agents.keys() - set(names)):
            raise ValueError(
                f"method.agents: got {unknown}, allowed {names}, the agents of this configuration"
            )
        return self

    @model_validator(mode="after")
    def _workers_can_sample(self) -> Self:
        workers, requests = self.rollout.workers, self.policy.vllm.requests
        if workers > 1 and self.policy.engine != "vllm":
            raise ValueError(
                f"rollout.workers: got {workers} with policy.engine={self.policy.engine}, allowed 1: the weights are "
                "in the main process only, others cannot sample from them (policy.engine=vllm can be shared)"
            )
        if workers > requests:
            raise ValueError(
                f"rollout.workers: got {workers}, allowed at most policy.vllm.requests={requests}, which they share"
            )
        local = [name for name, agent in self.agents.items() if agent.model == _REFERENCE]
        if workers > 1 and local:
            raise ValueError(
                f"rollout.workers: got {workers} and agents {local} of {_REFERENCE}, which each worker would load "
                "for itself, allowed 1, or an agent that is served (`aipo serve` with the first weights)"
            )
        return self
