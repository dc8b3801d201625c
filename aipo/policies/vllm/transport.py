"""Transports of weights to a policy server: over a shared disk, or over NCCL.

`export` takes the network's weights, `load` loads them into a server and empties its prefix cache, `drop` leaves nothing
behind. Both use routes that vLLM opens in development mode only (`aipo serve` does); they are not guarded by a key.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import orjson
import torch
from transformers import PreTrainedModel

from aipo.errors import ConfigError, PolicyError
from aipo.policies.vllm.client import Server
from aipo.policies.weights import save_snapshot, snapshot
from aipo.util.files import disk
from aipo.util.http.client import describe
from aipo.util.http.urls import is_here

_RESETS, _PAUSE = 20, 0.25


class DiskTransport:
    """Weights as a `from_pretrained` folder that the server reads: any machine, any number of servers.

    Args:
        folder: where such folders are left, one at a time; servers see it under the same path.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._current: Path | None = None

    def export(self, network: PreTrainedModel, version: int) -> None:
        """Writes the weights, whole or not at all.

        Raises:
            RunError: the disk is full or broken.
        """
        with disk("saving weights for the policy servers", self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=self._folder, prefix=f"version-{version:06d}-"))
            folder.chmod(0o755)  # the server may be another user's
            try:
                save_snapshot(network, folder, for_server=True)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        self.drop()
        self._current = folder

    def drop(self) -> None:
        """Removes the exported weights."""
        if self._current is not None:
            shutil.rmtree(self._current, ignore_errors=True)
            self._current = None

    async def load(self, server: Server) -> None:
        """Loads the weights exported last into `server`.

        Raises:
            PolicyError: the server refuses.
            httpx2.TransportError: it is gone.
        """
        rpc = {"method": "reload_weights", "kwargs": {"weights_path": str(self._current)}}
        await _post(server, "collective_rpc", rpc)
        await _reset_prefix_cache(server)


class NCCLTransport:
    """Weights from GPU to GPU, by TRL's own client for vLLM's weight transfer. One server.

    Args:
        url: of the server; started with `--weight-transfer-config '{"backend": "nccl"}'`.

    Raises:
        ConfigError: there is no CUDA device here, or no vLLM to be imported, whose engine it uses.
    """

    def __init__(self, url: str) -> None:
        from trl.import_utils import is_vllm_available

        if not torch.cuda.is_available() or not is_vllm_available():
            missing = "CUDA device" if not torch.cuda.is_available() else "vLLM in this environment"
            raise ConfigError(f"policy.vllm.sync: got nccl and no {missing}, allowed disk")
        self._url = url
        self._client: Any = None
        self._network: PreTrainedModel | None = None

    def export(self, network: PreTrainedModel, version: int) -> None:
        """Copies nothing: the weights must not move until they are loaded."""
        self._network = network

    def drop(self) -> None:
        self._network = None

    async def load(self, server: Server) -> None:
        """See `DiskTransport.load`."""
        await asyncio.to_thread(self._send)
        await _reset_prefix_cache(server)

    def _send(self) -> None:
        from trl.generation.vllm_client import VLLMClient

        here = is_here(urlsplit(self._url).hostname or "")

        class Client(VLLMClient):
            def check_server(self, *given: Any, **named: Any) -> None:
                """The first request; those to this machine take no proxy."""
                self.session.trust_env = not here
                super().check_server(*given, **named)

        assert self._network is not None
        try:
            if self._client is None:
                self._client = Client(base_url=self._url)
                self._client.init_communicator(device=self._network.device)
            weights = snapshot(self._network)
            kinds = [(n, str(w.dtype).removeprefix("torch."), list(w.shape)) for n, w in weights.items()]
            self._client.update_named_params(kinds, ((n, w.contiguous()) for n, w in weights.items()))
        except Exception as error:
            self._client = None  # a server that comes back needs a new group
            raise PolicyError(
                f"weights to {self._url} over NCCL: got {error}, allowed a server that `aipo serve --nccl` started "
                "(or policy.vllm.sync=disk)"
            ) from error


async def _reset_prefix_cache(server: Server) -> None:
    """Empties the server's prefix cache, which holds keys and values of other weights."""
    for _ in range(_RESETS):
        answer = await _post(server, "reset_prefix_cache", {})
        # Servers before 0.26 answer with nothing.
        try:
            if not answer or orjson.loads(answer).get("success", True):
                return
        except (ValueError, AttributeError) as error:
            raise PolicyError(
                f"{server.url}/reset_prefix_cache: got {answer[:200]!r}, allowed a vLLM server's answer"
            ) from error
        await asyncio.sleep(_PAUSE)  # the server still holds blocks of a request that was just cancelled
    raise PolicyError(
        f"prefix cache of {server.url}: got a refusal to empty it, allowed a server that nobody else uses"
    )


async def _post(server: Server, route: str, body: dict[str, Any]) -> bytes:
    try:
        return await server.ask(route, orjson.dumps(body))
    except httpx2.HTTPStatusError as error:
        raise await refusal(server, route, error) from error


async def refusal(server: Server, route: str, error: httpx2.HTTPStatusError) -> Exception:
    """The error for an error answer of `server`; a server that is about to stop is no error of AIPO."""
    status = error.response.status_code
    if status >= 500 and not await server.healthy():
        return httpx2.ConnectError("it is about to go away", request=error.request)
    hint = ", a server in development mode (VLLM_SERVER_DEV_MODE=1, as `aipo serve` starts it)"
    return PolicyError(
        f"{server.url}/{route}: got {describe(error)}, allowed status 200"
        + (hint if status in (401, 404, 405) else "")
    )
