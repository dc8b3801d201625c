"""Servers that answer as vLLM does, over a tiny network: one can be started the wrong way, one loads weights."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from aipo.policies.logprobs import score
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.policies.vllm.pool import ServerPool
from aipo.policies.vllm.transport import DiskTransport
from aipo.policies.vllm.weight_sync import WeightSync
from aipo.util.event_loop import LOOP
from kit.vllm import StandIn, choice


@dataclass
class TinyVLLM(StandIn):
    """A server of `network`.

    Args:
        processed: log-probs are those of the distribution that was sampled from, else raw ones.
        dev: the development routes are open.
        echo: it says which ids it read.
        key: what requests have to bring.
        flags: of the model, over those of a good start.
    """

    network: Qwen2ForCausalLM
    tokenizer: HFTokenizer
    version: str = "0.32.0"
    name: str = "tiny"
    positions: int = 128
    processed: bool = True
    dev: bool = True
    echo: bool = True
    key: str | None = None
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)

    def more(self) -> list[BaseRoute]:
        routes: list[BaseRoute] = [
            Route("/version", lambda _: JSONResponse({"version": self.version})),
            Route("/tokenize", self._tokenize, methods=["POST"]),
        ]
        return [*routes, *super().more(), Route("/server_info", self._info)] if self.dev else routes

    async def models(self, request: Request) -> Response:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, status_code=401)
        return await super().models(request)

    async def _tokenize(self, request: Request) -> Response:
        asked = await request.json()
        return JSONResponse({"tokens": self.tokenizer.encode(asked["prompt"], control=True)})

    def _info(self, request: Request) -> Response:
        return JSONResponse(server_info(**self.flags))

    async def complete(self, request: Request) -> Response:
        asked = await request.json()
        ids, written, logprobs, tops = list(asked["prompt"]), [], [], []
        for _ in range(asked["max_tokens"]):
            with torch.no_grad():
                raw = self.network(input_ids=torch.tensor([ids])).logits[0, -1].float()
            for token in map(int, asked.get("logit_bias", {})):
                raw[token] = -torch.inf
            sampled = torch.log_softmax(raw / asked["temperature"], -1)
            told = sampled if self.processed else torch.log_softmax(raw, -1)
            token = int(sampled.argmax())
            ids, written = [*ids, token], [*written, token]
            logprobs.append(float(told[token]))
            values, places = told.topk(5)
            tops.append({f"token_id:{i}": v for i, v in zip(places.tolist(), values.tolist(), strict=True)})
        echo = {"prompt_token_ids": asked["prompt"]} if self.echo else {}
        scores = {"token_logprobs": logprobs, "top_logprobs": tops}
        return JSONResponse(choice(written, [], logprobs=scores, **echo))


def server_info(**sections: dict[str, Any]) -> dict[str, Any]:
    """What vLLM 0.32 says of itself, as far as it is read."""
    good: dict[str, dict[str, Any]] = {
        "model_config": {"dtype": "torch.float32", "quantization": None},
        "cache_config": {"enable_prefix_caching": True, "kv_cache_size_tokens": 699008},
        "device_config": {"device": "cpu"},
        "scheduler_config": {"max_num_seqs": 256},
    }
    config = {name: {**values, **sections.get(name, {})} for name, values in good.items()}
    others = {name: values for name, values in sections.items() if name not in good}
    return {"vllm_config": {"speculative_config": None, "weight_transfer_config": None, **config, **others}}


class Reloading(StandIn):
    """A server that computes with the weights that it was told to load, or pretends to.

    Args:
        deaf: it answers that it has loaded them, and has not.
        keeps: names of parameters that stay what they were, as tied ones do in some builds of vLLM.
    """

    name, positions = "it", 64

    def __init__(self, network: PreTrainedModel, *, deaf: bool = False, keeps: str | None = None) -> None:
        self.network, self.deaf, self.keeps = network, deaf, keeps
        self.loads: list[str] = []

    async def _load(self, request: Request) -> Response:
        asked = await request.json()
        assert asked["method"] == "reload_weights"
        self.loads.append(Path(asked["kwargs"]["weights_path"]).name.rpartition("-")[0])
        if not self.deaf:
            new = Qwen2ForCausalLM.from_pretrained(asked["kwargs"]["weights_path"])
            old = dict(self.network.named_parameters())
            with torch.no_grad():
                for name, parameter in new.named_parameters():
                    if name != self.keeps:
                        old[name].copy_(parameter)
        return await super()._load(request)

    async def complete(self, request: Request) -> Response:
        asked = await request.json()
        context = np.array(asked["prompt"], np.int32)
        ids = np.arange(2, 2 + asked["max_tokens"], dtype=np.int32)
        logprobs = score(self.network, context, ids, tuple(map(int, asked.get("logit_bias", {}))))
        return JSONResponse(choice(ids.tolist(), logprobs.astype(float).tolist()))


Synced = Callable[..., tuple[Any, WeightSync, VLLMPolicy]]
"""Starts a server, `Reloading` or of another kind; gives it, the push of weights to it, and the policy."""


def copy_of(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model.save_pretrained(folder / "copy")
    return AutoModelForCausalLM.from_pretrained(folder / "copy").eval()


def pushing(
    stack: ExitStack,
    network: PreTrainedModel,
    tokenizer: HFTokenizer,
    folder: Path,
    *urls: str,
    tolerance: float = 1e-3,
) -> tuple[WeightSync, VLLMPolicy]:
    policy = VLLMPolicy(ServerPool(urls, deadline=60), tokenizer, vocabulary=44)
    stack.callback(lambda: LOOP.run(policy.aclose()))
    return WeightSync(policy, network, DiskTransport(folder / "weights"), tolerance=tolerance), policy


def learn(network: PreTrainedModel) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
