"""The configuration: strict, frozen, one line of text per field.

A configuration is a preset or a YAML file plus `key=value` overrides. A file may start from another one
with `extends: NAME`. An unknown key or a wrong value is refused by name, with the nearest valid key.
Only the composition root (`aipo.compose`) sees these classes; everything else takes flat values.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aipo.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"

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


class PolicyConfig(Section):
    model: str = Field(..., description="folder, hub name, or 'module:function' that returns a folder")
    options: dict[str, Any] = Field({}, description="keyword arguments of that function")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the weights")
    device: Literal["cpu", "cuda"] | None = Field(None, description="default: cuda where there is one")
    max_batch: Count = Field(256, description="most rollouts that are decoded at once")


class GraphConfig(Section):
    name: str = Field("graphs.consult:consult", description="'module:function' or 'file.py:function'")
    options: dict[str, Any] = Field({}, description="keyword arguments of the graph's function")


class AgentConfig(Section):
    graph: str = Field(..., description="sub-graph, 'module:function' or 'file.py:function'")
    prompt: Path | None = Field(None, description="default: prompts/NAME.md beside the graph's file")
    model: str | None = Field(None, description="LangChain chat model, 'module:callable'")
    options: dict[str, Any] = Field({}, description="keyword arguments of the chat model")
    secrets: dict[str, str] = Field({}, description="keyword argument: NAME of an environment variable")
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
    reward_weights: dict[str, float] = Field({"correct": 1.0}, description="weight of each reward part")
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
    plan: Literal["independent"] = Field("independent", description="which rollouts make up a group")
    assist_share: Share = Field(0.5, description="share of a group's rollouts that have agents")
    forbid_share: Share = Field(0.0, description="share of its solo rollouts with the consult tags masked")
    credit: Literal["group"] = Field("group", description="how rewards become advantages")
    scale_by_std: bool = Field(True, description="divide by the group's standard deviation")
    per_mode_baseline: bool = Field(False, description="assisted and solo rollouts have a mean each")
    negative_weight: Annotated[float, Field(ge=0.0)] = Field(1.0, description="factor on negative advantages")
    scale_by_active: bool = Field(True, description="learning rate x share of rollouts with an advantage")
    coefficient: Literal["mask", "pi", "floor", "constant"] = Field(
        "constant", description="what an agent's token is worth to the policy gradient"
    )
    coefficient_value: float | None = Field(
        None, description="c of `floor` (default 0.3) or `constant` (default 1)"
    )
    coefficient_clip: tuple[float | None, float | None] = Field((None, None), description="bounds of it")
    negative: Literal["zero", "pi", "same"] = Field("zero", description="coefficient where advantage < 0")
    distil: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="weight of distilled rows (consults cut out of the context); 0 = none"
    )
    distil_forbid: bool = Field(
        True, description="train distilled rows with the tags masked; else they also teach not to ask"
    )
    objective: Literal["grpo", "dapo", "dr_grpo"] = Field("dapo", description="loss on policy tokens")
    clip_low: Positive = Field(0.2, description="policy ratio is clipped below 1 - clip_low")
    clip_high: Positive = Field(0.28, description="policy ratio is clipped above 1 + clip_high")
    kl: Annotated[float, Field(ge=0.0)] = Field(0.0, description="weight of the KL to the first policy")
    correction_cap: Positive | None = Field(
        None, description="truncates the sampler-to-trainer importance weight; None = no correction"
    )

    @model_validator(mode="after")
    def _value_fits(self) -> Self:
        if self.coefficient_value is not None and self.coefficient in ("mask", "pi"):
            raise ValueError(f"coefficient_value is for floor and constant, got {self.coefficient!r}")
        low, high = self.coefficient_clip
        if low is not None and high is not None and low > high:
            raise ValueError(f"coefficient_clip: got {low:g} above {high:g}, allowed low <= high")
        return self


class TrainConfig(Section):
    steps: Count = Field(120, description="generation steps")
    tasks_per_step: Count = Field(16, description="groups per generation step")
    group_size: Annotated[int, Field(ge=2)] = Field(8, description="rollouts of one task")
    minibatches: Count = Field(2, description="optimiser steps per generation step")
    gradient_accumulation: Count = Field(1, description="micro-batches per optimiser step")
    learning_rate: Positive = Field(1e-6, description="peak learning rate of AdamW")
    warmup: Share = Field(0.0, description="share of the steps with a rising learning rate")
    decay: Share = Field(0.0, description="share of the steps, at the end, with a falling learning rate")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="AdamW's weight decay")
    max_grad_norm: Positive = Field(1.0, description="gradients are clipped to this norm")
    save_every: int | None = Field(20, ge=1, description="generation steps between checkpoints; null = none")
    lessons: bool = Field(True, description="keep what the loss did with each token, for the viewer")

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


class Config(Section):
    """Everything that a run depends on."""

    run: RunConfig = RunConfig()  # pyright: ignore[reportCallIssue]
    env: EnvConfig = EnvConfig()  # pyright: ignore[reportCallIssue]
    policy: PolicyConfig
    graph: GraphConfig = GraphConfig()  # pyright: ignore[reportCallIssue]
    agents: dict[str, AgentConfig] = {}
    rollout: RolloutConfig = RolloutConfig()  # pyright: ignore[reportCallIssue]
    method: MethodConfig = MethodConfig()  # pyright: ignore[reportCallIssue]
    train: TrainConfig = TrainConfig()  # pyright: ignore[reportCallIssue]
    evaluate: EvaluateConfig = EvaluateConfig()  # pyright: ignore[reportCallIssue]


def presets() -> list[str]:
    """Names of the configurations that ship."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """A preset's name or a YAML file's path, then `a.b=value` overrides, the last one winning.

    Raises:
        ConfigError: no such preset or file, not YAML, an unknown key, a wrong value.
    """
    raw = _read(name, seen=())
    for override in overrides:
        _override(raw, override)
    return validate(raw, name)


def validate(raw: Mapping[str, Any], where: str) -> Config:
    """Checks nested plain data.

    Raises:
        ConfigError: names every key that is unknown or has a wrong value, and where.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(item["loc"], item["type"], item["msg"], item["input"]) for item in error.errors()]
        raise ConfigError(f"configuration {where!r}:\n  " + "\n  ".join(lines)) from error


def dump(config: Config) -> str:
    """The resolved configuration as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise ConfigError(f"extends: got a circle {' -> '.join((*seen, name))}, allowed a chain that ends")
    path = PRESETS / f"{name}.yaml" if name in presets() else Path(name)
    if not path.is_file():
        raise ConfigError(f"configuration: got {name!r}, allowed a YAML file or one of {presets()}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"configuration {path}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"configuration {path}: got {type(raw).__name__}, allowed keys and values")
    base = raw.pop("extends", None)
    return _merge(_read(base, (*seen, name)), raw) if base is not None else raw


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override: got {text!r}, allowed 'section.key=value'")
    node = raw
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {text!r}: {part!r} holds a value, it has no keys")
    try:
        node[parts[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: {error}") from error


def _explain(loc: tuple[int | str, ...], kind: str, message: str, got: object) -> str:
    key = ".".join(map(str, loc))
    if kind != "extra_forbidden":
        return f"{key}: {message}, got {got!r}" if kind != "missing" else f"{key}: is missing"
    allowed = _keys_at(loc[:-1])
    near = difflib.get_close_matches(str(loc[-1]), allowed, n=1, cutoff=0.4)
    hint = f"; did you mean {'.'.join([*map(str, loc[:-1]), near[0]])!r}?" if near else ""
    return f"{key}: unknown key{hint} Allowed: {', '.join(allowed)}"


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for part in loc:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        elif get_origin(model) is dict:
            model = get_args(model)[1]
    return list(model.model_fields)
