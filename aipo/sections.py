"""The sections of the configuration: frozen groups of settings, one line of text per field."""

from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aipo.objectives import check_denominator, clip_of
from aipo.weighing import Weighing

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen group of settings that knows no other keys than its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class RunConfig(Section):
    out: Path = Field(Path("runs/aipo"), description="folder of this run; must not hold another run")
    seed: int = Field(0, ge=0, description="seeds everything that is not given a seed of its own")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; default: torch decides")
    report_to: tuple[str, ...] = Field((), description="trackers of transformers' Trainer (wandb, ...)")


class EnvConfig(Section):
    name: str = Field("envs.miniature:Miniature", description="environment, 'module:class'")
    options: dict[str, Any] = Field({}, description="keyword arguments of the environment")
    mixture: dict[str, float] = Field(
        {"easy_train": 0.5, "hard": 0.5}, description="share of each training split"
    )


class ServeConfig(Section):
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="type of the servers' weights; default: policy.dtype"
    )
    context: int | None = Field(None, ge=1, description="longest context in tokens; default: the model's own")
    gpus: Count = Field(1, description="GPUs that the model of one server is cut over")
    memory: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None, description="share of each GPU's memory that the server takes; default: vLLM's"
    )
    cache: Positive | None = Field(
        None, description="GiB of keys and values; default: 2 on a CPU, else what is left of `memory`"
    )


class VLLMConfig(Section):
    servers: tuple[str, ...] = Field(("http://127.0.0.1:8000",), description="addresses, without /v1")
    model: str | None = Field(None, description="served name; default: what the first server serves")
    secret: str | None = Field(None, description="NAME of an environment variable with the servers' key")
    requests: Count = Field(256, description="most requests in flight at one server")
    deadline: Positive = Field(600.0, description="seconds for one request, waiting and retries included")
    attempts: Count = Field(5, description="attempts of one request while its server lives")
    seeded: bool = Field(True, description="send each request's seed; costs a generator per request on GPUs")
    sync: Literal["disk", "nccl"] = Field("disk", description="how weights reach the servers")
    folder: Path | None = Field(
        None,
        description="where `disk` leaves weights; both sides see it. Default: weights/ in the run folder",
    )
    tolerance: Positive | None = Field(
        None,
        description="largest mean |Δ log-prob| of the probe after a push; default: 1e-3 if all is float32, else 0.1",
    )
    serve: ServeConfig = ServeConfig()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="after")
    def _one_group(self) -> Self:
        if self.sync == "nccl" and len(self.servers) != 1:
            raise ValueError(f"sync: got nccl and {len(self.servers)} servers, allowed one server, or disk")
        return self


class LoRAConfig(Section):
    rank: Count = Field(16, description="width of the adapter's matrices")
    alpha: Count = Field(32, description="their product is multiplied with alpha / rank")
    targets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="last names of the layers; default: every linear one but the output layer",
    )


class PolicyConfig(Section):
    engine: Literal["local", "vllm"] = Field("local", description="what samples: this process, or servers")
    model: str = Field(..., description="folder, hub name, or 'module:function' that returns a folder")
    options: dict[str, Any] = Field({}, description="keyword arguments of that function")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the weights")
    device: Literal["cpu", "cuda"] | None = Field(None, description="default: cuda where there is one")
    lora: LoRAConfig | None = Field(
        None, description="train an adapter beside frozen weights; {} for the default one"
    )
    max_batch: Count = Field(256, description="local: most rollouts that are decoded at once")
    vllm: VLLMConfig = VLLMConfig()  # pyright: ignore[reportCallIssue]


class GraphConfig(Section):
    name: str = Field("graphs.consult:consult", description="'module:function' or 'file.py:function'")
    options: dict[str, Any] = Field({}, description="keyword arguments of the graph's function")


class PricesConfig(Section):
    input: Annotated[float, Field(ge=0.0)] = Field(..., description="of a million tokens that it reads")
    output: Annotated[float, Field(ge=0.0)] = Field(..., description="of a million tokens that it writes")


class AgentConfig(Section):
    graph: str = Field(..., description="sub-graph, 'module:function' or 'file.py:function'")
    prompt: Path | None = Field(None, description="default: prompts/NAME.md beside the graph's file")
    model: str | None = Field(None, description="LangChain chat model, 'module:callable'")
    options: dict[str, Any] = Field({}, description="keyword arguments of the chat model")
    secrets: dict[str, str] = Field({}, description="keyword argument: NAME of an environment variable")
    prices: PricesConfig | None = Field(None, description="what its model's tokens cost; default: nothing")
    budget: Count = Field(3, description="most consults of this agent in one rollout")
    max_tokens: Count = Field(256, description="most tokens of one reply, in the policy's tokenizer")
    timeout: Positive = Field(30.0, description="seconds for one attempt of one step")
    deadline: Positive = Field(60.0, description="seconds for one consult, retries included")
    attempts: Count = Field(3, description="attempts of one step; only transient errors are tried again")
    cache: bool = Field(False, description="reuse replies; refused unless options.temperature is 0")


class RolloutConfig(Section):
    temperature: Positive = Field(1.0, description="sampling temperature; there is no top-p or top-k")
    max_tokens: Count = Field(256, description="most tokens after the prompt, agents' included")
    deadline: Positive = Field(300.0, description="seconds for one rollout")
    concurrency: Count = Field(256, description="rollouts in flight")
    workers: Count = Field(1, description="processes that roll out; 1 = this one; more need engine vllm")
    reward_weights: dict[str, float] = Field({"correct": 1.0}, description="weight of each reward part")
    spending_limit: Positive | None = Field(
        None, description="stops the run when its agents have cost so much (agents.NAME.prices); null = never"
    )
    outage_limit: Share | None = Field(
        0.5,
        description="stops the run when more of the last 64 consults failed by the agent's fault; null = never",
    )
    forbid_tags: tuple[str, ...] = Field(
        ("<consult:{agent}>", "<feedback:{agent}>"),
        description="tags, for every agent, that a rollout with forbidden tags cannot write; as in the graph's grammar",
    )

    @model_validator(mode="after")
    def _tags_name_the_agent(self) -> Self:
        for tag in self.forbid_tags:
            fields = {name for _, name, _, _ in Formatter().parse(tag) if name is not None}
            if fields - {"agent"}:
                raise ValueError(f"forbid_tags: got {tag!r}, allowed no other field than {{agent}}")
        return self


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
    forbid_share: Share = Field(0.0, description="share of its solo rollouts with the consult tags masked")
    credit: Literal["group", "reward"] = Field("group", description="how rewards become advantages")
    scale_by_std: bool = Field(True, description="divide by the group's standard deviation")
    per_mode_baseline: bool = Field(False, description="assisted and solo rollouts have a mean each")
    negative_weight: Annotated[float, Field(ge=0.0)] = Field(1.0, description="factor on negative advantages")
    scale_by_active: bool = Field(True, description="learning rate x share of rollouts with an advantage")
    coefficient: Literal["mask", "pi", "luffy", "rlplus", "floor", "power", "constant", "echo", "ratio"] = (
        Field("constant", description="what an agent's token is worth to the policy gradient")
    )
    coefficient_value: float | None = Field(
        None,
        description="c of `floor` (default 0.3), `constant` (1), `echo` (0.05); γ of `luffy` (0.1); α of `power` (0.5)",
    )
    coefficient_clip: tuple[float | None, float | None] = Field(
        (None, None),
        description="bounds of it; unless given, `ratio` is at most 2 and `power` at least 0.1",
    )
    coefficient_trust: Positive | None = Field(
        None,
        description="e: agents' tokens are pushed no further once their ratio left [1/(1+e), 1+e]; null = never",
    )
    negative: Literal["zero", "pi", "floor", "same"] = Field(
        "zero", description="coefficient where advantage < 0"
    )
    negative_value: float | None = Field(None, description="c of the rule `floor` (default 0.1)")
    distil: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="weight of distilled rows (consults cut out of the context); 0 = none"
    )
    distil_forbid: bool = Field(
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
        None, description="policy ratio is clipped above 1 + clip_high; default 0.28, `gspo` 4e-4, `cispo` 4"
    )
    clip_keeps_gradient: bool = Field(
        False,
        description="a clipped token keeps the bound's gradient (GPPO); not with `cispo`, which does so",
    )
    denominator: Literal["policy", "union"] = Field(
        "policy",
        description="tokens that averages count: the policy's, or agents' too; not with `dr_grpo`",
    )
    kl: Annotated[float, Field(ge=0.0)] = Field(0.0, description="weight of the KL to the first policy")
    correction: Literal["truncate", "mask"] = Field(
        "truncate", description="policy tokens whose sampler-to-trainer weight is outside: cut to C, or 0"
    )
    correction_cap: Positive | None = Field(
        None, description="C: truncates that weight above C, or masks outside [1/C, C]; null = no correction"
    )
    max_drift: Positive | None = Field(
        None, description="stops the run where drift/mean exceeds it (nats per token); null = never"
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
        cap = self.correction_cap
        if self.correction == "mask" and not (cap is not None and cap > 1):
            raise ValueError(
                f"correction_cap: got {'none' if cap is None else f'{cap:g}'}, allowed > 1 where correction is mask"
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
            ConfigError: see `aipo.weighing.Weighing`.
        """
        low, high = self.coefficient_clip
        return Weighing(
            coefficient=self.coefficient,
            coefficient_value=self.coefficient_value,
            coefficient_clip_low=low,
            coefficient_clip_high=high,
            coefficient_trust=self.coefficient_trust,
            negatives=self.negative,
            negatives_value=self.negative_value,
        )


class TrainConfig(Section):
    steps: Count = Field(120, description="generation steps")
    tasks_per_step: Count = Field(16, description="groups per generation step")
    group_size: Count = Field(8, description="rollouts of one task")
    minibatches: Count = Field(2, description="optimiser steps per generation step and pass")
    passes: Count = Field(1, description="how often each generation is gone through")
    gradient_accumulation: Count = Field(1, description="micro-batches per optimiser step")
    learning_rate: Positive = Field(1e-6, description="peak learning rate of AdamW")
    warmup: Share = Field(0.0, description="share of the steps with a rising learning rate")
    decay: Share = Field(0.0, description="share of the steps, at the end, with a falling learning rate")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="AdamW's weight decay")
    max_grad_norm: Positive = Field(1.0, description="gradients are clipped to this norm")
    autocast: bool = Field(
        False, description="compute in bfloat16; weights, gradients, optimiser stay float32"
    )
    activation_checkpointing: bool = Field(
        False, description="keep each layer's input only, and compute the rest again: less memory, slower"
    )
    save_every: int | None = Field(20, ge=1, description="generation steps between checkpoints; null = none")
    lessons: bool = Field(True, description="keep what the loss did with each token, for the viewer")

    @property
    def updates(self) -> int:
        """Optimiser steps per generation."""
        return self.minibatches * self.passes

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay: got {self.warmup + self.decay:g}, allowed at most 1")
        return self


class EvaluateConfig(Section):
    splits: tuple[str, ...] = Field(("heldout",), description="splits that are evaluated")
    samples: Count = Field(8, description="rollouts per task")
    ks: tuple[Count, ...] = Field((1, 8), description="k of pass@k")
    settings: tuple[Literal["solo", "forbid", "assisted"], ...] = Field(
        ("solo", "forbid", "assisted"), description="solo; solo with consult tags forbidden; with agents"
    )

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.ks and max(self.ks) > self.samples:
            raise ValueError(f"ks: got {max(self.ks)}, allowed at most samples={self.samples}")
        return self
