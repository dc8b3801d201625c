"""A server that answers as vLLM does, over a tiny network, and that can be started the wrong way."""

from dataclasses import dataclass, field
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from transformers import Qwen2ForCausalLM

from aipo.policies.tokenizer import HFTokenizer


@dataclass
class TinyVLLM:
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

    @property
    def app(self) -> Starlette:
        posted = [Route("/collective_rpc", _nothing, methods=["POST"])]
        posted += [Route("/reset_prefix_cache", _nothing, methods=["POST"])]
        return Starlette(
            routes=[
                Route("/health", _nothing),
                Route("/version", lambda _: JSONResponse({"version": self.version})),
                Route("/v1/models", self._models),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                *([Route("/server_info", self._info), *posted] if self.dev else []),
            ]
        )

    def _models(self, request: Request) -> Response:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, status_code=401)
        return JSONResponse({"data": [{"id": self.name, "max_model_len": self.positions}]})

    async def _tokenize(self, request: Request) -> Response:
        asked = await request.json()
        return JSONResponse({"tokens": self.tokenizer.encode(asked["prompt"], control=True)})

    def _info(self, request: Request) -> Response:
        return JSONResponse(server_info(**self.flags))

    async def _complete(self, request: Request) -> Response:
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
        choice: dict[str, Any] = {
            "token_ids": written,
            "logprobs": {"token_logprobs": logprobs, "top_logprobs": tops},
            "finish_reason": "length",
            "stop_reason": None,
        }
        if self.echo:
            choice["prompt_token_ids"] = asked["prompt"]
        return JSONResponse({"choices": [choice]})


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


async def _nothing(request: Request) -> Response:
    return Response()
