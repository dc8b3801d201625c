"""Servers that fail in ways that a pool can make worse: half dead, hanging, or killed by what they are asked."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from transformers import Qwen2ForCausalLM

from aipo.config.build import load_experiment
from aipo.errors import PolicyError
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm import pool as servers
from aipo.policies.vllm.pool import ServerPool
from aipo.util.event_loop import LOOP
from kit.servers import CutOff, free_port, serving
from kit.tiny_vllm import Reloading, copy_of, learn, pushing
from kit.vllm import ANSWER, FakeVLLM, complete, start, used


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def network(tmp_path: Path, model: Qwen2ForCausalLM) -> Qwen2ForCausalLM:
    return copy_of(model, tmp_path)


def test_an_engine_that_died_behind_its_api_is_out(stack: ExitStack) -> None:
    dead, alive = FakeVLLM(healthy=False), FakeVLLM()
    dead.faults.extend([500] * 100)
    pool = ServerPool(start(stack, dead, alive), attempts=3)
    assert used(pool, complete) == ANSWER


def test_a_server_that_fails_fast_does_not_get_everybody(stack: ExitStack) -> None:
    broken, alive = FakeVLLM(), FakeVLLM()
    broken.faults.extend([500] * 1000)

    async def work(pool: ServerPool) -> list[list[int]]:
        return await asyncio.gather(*(complete(pool, session) for session in range(8)))

    assert used(ServerPool(start(stack, broken, alive), attempts=2), work) == [ANSWER] * 8


class Mortal:
    """Dies of every request, and is up again soon."""

    def __init__(self) -> None:
        self.deaths, self.dead = 0, False

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/completions", self.complete, methods=["POST"]),
            ]
        )

    async def _health(self, request: Request) -> Response:
        was, self.dead = self.dead, False
        return Response(status_code=503 if was else 200)

    async def complete(self, request: Request) -> CutOff:
        self.deaths, self.dead = self.deaths + 1, True
        return CutOff(b"")


def test_a_request_that_kills_servers_is_given_up(stack: ExitStack) -> None:
    mortals = [Mortal(), Mortal()]
    pool = ServerPool([stack.enter_context(serving(one.app)) for one in mortals], attempts=3)
    with pytest.raises(PolicyError, match="got 3 servers lost while they had this request"):
        used(pool, complete)
    assert sum(one.deaths for one in mortals) == 3


def test_what_a_hanging_server_has_in_hand_moves_on(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_BEAT", 0.05)
    hanging, alive = FakeVLLM(), FakeVLLM()
    hanging.faults.extend(["hang"] * 100)

    async def work(pool: ServerPool) -> list[int]:
        asked = asyncio.create_task(complete(pool))
        while not hanging.asked:
            await asyncio.sleep(0.01)
        hanging.healthy = False
        return await asked

    assert used(ServerPool(start(stack, hanging, alive)), work) == ANSWER


def test_one_that_is_away_while_nobody_asks_it_is_restored_before_it_serves(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_BEAT", 0.05)
    fake = FakeVLLM()

    async def work(pool: ServerPool) -> list[int]:
        restored: list[int] = []

        async def restore(url: str) -> None:
            restored.append(len(fake.asked))

        pool.restore = restore
        await complete(pool)
        fake.healthy = False
        while pool.servers[0].up:
            await asyncio.sleep(0.01)
        fake.healthy = True
        await complete(pool)
        return restored

    assert used(ServerPool(start(stack, fake)), work) == [1]


def test_a_push_has_a_deadline(
    stack: ExitStack,
    network: Qwen2ForCausalLM,
    tokenizer: HFTokenizer,
    model: Qwen2ForCausalLM,
    tmp_path: Path,
) -> None:
    class Stuck(Reloading):
        async def _load(self, request: Request) -> Response:
            while not await request.is_disconnected():
                await asyncio.sleep(0.02)
            return JSONResponse({})

    url = stack.enter_context(serving(Stuck(copy_of(model, tmp_path / "theirs")).app))
    weight_sync, policy = pushing(stack, network, tokenizer, tmp_path, url)
    policy.pool.deadline = 1.0
    with pytest.raises(PolicyError, match="got none that answers within 1 s"):
        weight_sync.push()


def test_a_probe_that_is_refused_says_so(
    stack: ExitStack,
    network: Qwen2ForCausalLM,
    tokenizer: HFTokenizer,
    model: Qwen2ForCausalLM,
    tmp_path: Path,
) -> None:
    class Refusing(Reloading):
        async def complete(self, request: Request) -> Response:
            return JSONResponse({"message": "no such model"}, status_code=404)

    url = stack.enter_context(serving(Refusing(copy_of(model, tmp_path / "theirs")).app))
    weight_sync, _ = pushing(stack, network, tokenizer, tmp_path, url)
    with pytest.raises(PolicyError, match="a probe: got status 404"):
        weight_sync.push()


def test_a_server_that_comes_back_while_weights_move_has_the_newest(
    stack: ExitStack,
    network: Qwen2ForCausalLM,
    tokenizer: HFTokenizer,
    model: Qwen2ForCausalLM,
    tmp_path: Path,
) -> None:
    """Its push is half done when the loop stands still for a training step."""
    began, go = threading.Event(), threading.Event()
    go.set()

    class Slow(Reloading):
        async def _load(self, request: Request) -> Response:
            answer = await super()._load(request)
            began.set()
            while not go.is_set():
                await asyncio.sleep(0.01)
            return answer

    first, second = Reloading(copy_of(model, tmp_path / "a")), Slow(copy_of(model, tmp_path / "b"))
    port = free_port()
    urls = [stack.enter_context(serving(first.app)), f"http://127.0.0.1:{port}"]
    weight_sync, policy = pushing(stack, network, tokenizer, tmp_path, *urls, tolerance=10.0)
    stack.enter_context(serving(second.app, port))
    weight_sync.push()
    pool = policy.pool

    async def lose_it() -> None:
        began.clear()
        go.clear()
        pool.take_out(pool.servers[1])
        while not began.is_set():
            await asyncio.sleep(0.01)

    LOOP.run(lose_it())
    learn(network)
    weight_sync.advance(1)
    weight_sync.push()
    go.set()

    async def wait() -> None:
        while not pool.servers[1].up:
            await asyncio.sleep(0.01)

    LOOP.run(wait())
    ours = dict(network.named_parameters())
    for server in (first, second):
        assert all(torch.equal(p, ours[name]) for name, p in server.network.named_parameters())


def test_the_only_server_is_lost_at_its_first_push(
    stack: ExitStack,
    network: Qwen2ForCausalLM,
    tokenizer: HFTokenizer,
    model: Qwen2ForCausalLM,
    tmp_path: Path,
) -> None:
    class Late(Reloading):
        async def _load(self, request: Request) -> Response:
            if not self.loads:
                self.loads.append("lost")
                return CutOff(b"")  # type: ignore[return-value]
            return await super()._load(request)

    server = Late(copy_of(model, tmp_path / "theirs"))
    weight_sync, _ = pushing(stack, network, tokenizer, tmp_path, stack.enter_context(serving(server.app)))
    weight_sync.push()
    assert server.loads[0] == "lost" and len(server.loads) >= 3


def test_nothing_is_left_on_a_disk_that_both_sides_see(
    stack: ExitStack,
    network: Qwen2ForCausalLM,
    tokenizer: HFTokenizer,
    model: Qwen2ForCausalLM,
    tmp_path: Path,
) -> None:
    url = stack.enter_context(serving(Reloading(copy_of(model, tmp_path / "theirs")).app))
    both = tmp_path / "both"
    experiment = load_experiment(
        "aipo", ["policy.engine=vllm", f"policy.vllm.servers=[{url}]", f"policy.vllm.folder={both}"]
    )
    with experiment.open_policy(network, tokenizer, tmp_path / "run") as sampler:
        sampler.refresh()
        assert len(list(both.iterdir())) == 1
    assert list(both.iterdir()) == []
