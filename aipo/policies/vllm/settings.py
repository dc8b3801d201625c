"""The settings of a policy, and of the vLLM servers that may sample it."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from aipo.policies.lora import LoRASettings
from aipo.util.http.urls import check_servers
from aipo.util.section import Count, Positive, Section, Variable


class ServeConfig(Section):
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="data type of the servers' weights; default: policy.dtype"
    )
    context: int | None = Field(None, ge=1, description="longest context in tokens; default: the model's own")
    gpus: Count = Field(1, description="GPUs per server (tensor parallel)")
    memory: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None, description="share of each GPU's memory that the server takes; default: vLLM's"
    )
    cache: Positive | None = Field(
        None, description="KV cache in GiB; default: 2 on a CPU, else the rest of `memory`"
    )


class VLLMConfig(Section):
    servers: tuple[str, ...] = Field(("http://127.0.0.1:8000",), description="addresses, without /v1")
    model: str | None = Field(
        None, description="name of the model on the servers; default: the first model of the first server"
    )
    secret: Variable | None = Field(None, description="NAME of an environment variable with the servers' key")
    requests: Count = Field(256, description="maximum number of requests in flight per server")
    deadline: Positive = Field(600.0, description="seconds for one request, waiting and retries included")
    attempts: Count = Field(5, description="attempts of one request while its server lives")
    seeded: bool = Field(True, description="send each request's seed; costs a generator per request on GPUs")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = Field(
        0,
        description="likely tokens that come with each sampled one, to estimate its entropy (method.plan=branching)",
    )
    sync: Literal["disk", "nccl"] = Field("disk", description="transport of new weights to the servers")
    folder: Path | None = Field(
        None,
        description="folder for `disk`, which trainer and servers share; default: weights/ in the run folder",
    )
    tolerance: Positive | None = Field(
        None,
        description="largest mean |Δ log-prob| of the probe after a push; default: 1e-3 if all is float32, else 0.1",
    )
    serve: ServeConfig = ServeConfig()  # pyright: ignore[reportCallIssue]

    @field_validator("servers")
    @classmethod
    def _addresses(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        check_servers(servers, "servers")
        return servers

    @model_validator(mode="after")
    def _one_group(self) -> Self:
        if self.sync == "nccl" and len(self.servers) != 1:
            raise ValueError(f"sync: got nccl and {len(self.servers)} servers, allowed one server, or disk")
        return self


class PolicyConfig(Section):
    engine: Literal["local", "vllm"] = Field(
        "local", description="where tokens are sampled: in this process, or by vLLM servers"
    )
    model: str = Field(..., description="folder, hub name, or 'module:function' that returns a folder")
    options: dict[str, Any] = Field({}, description="keyword arguments of that function")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the weights")
    device: Literal["cpu", "cuda"] | None = Field(None, description="default: cuda if available")
    add_tags: bool = Field(
        False,
        description="make each tag of the graph, for every agent, one token of the model's tokenizer, if it is not one yet",
    )
    lora: LoRASettings | None = Field(
        None, description="train an adapter beside frozen weights; {} for the default one"
    )
    max_batch: Count = Field(256, description="local: maximum number of rollouts decoded together")
    vllm: VLLMConfig = VLLMConfig()  # pyright: ignore[reportCallIssue]

    @property
    def making(self) -> str:
        """The name in progress of making the model: that of its function, or `policy`."""
        _, made, function = self.model.rpartition(":")
        return function.replace("_", " ") if made else "policy"


class PeerConfig(PolicyConfig):
    learning_rate: Positive | None = Field(None, description="its own peak; default: train.learning_rate")


def filled_in(common: dict[str, Any], peer: Any) -> Any:
    """The settings of a policy over those that all have."""
    if not isinstance(peer, dict):
        return peer
    if peer.get("model", common.get("model")) != common.get("model"):
        common = {key: value for key, value in common.items() if key != "options"}
    both = {
        k: filled_in(v, peer[k])
        for k, v in common.items()
        if isinstance(v, dict) and k in peer and k != "options"
    }
    return {**common, **peer, **both}
