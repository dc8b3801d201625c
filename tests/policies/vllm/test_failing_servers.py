"""Servers that fail in ways that a pool can make worse: half dead, hanging, or killed by what they are asked."""

import asyncio
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from transformers import Qwen2ForCausalLM

from aipo.config.build import load_experiment
from aipo.errors import PolicyError
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm import pool as servers
from aipo.policies.vllm.pool import ServerPool
from aipo.util.event_loop import LOOP
from kit.servers import CutOff, free_port, serving
from kit.tiny_vllm import Reloading, Synced, copy_of, learn, pushing
from kit.vllm import ANSWER, FakeVLLM, complete, start, until, used


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


@dataclass
class Mortal(FakeVLLM):
    """Dies of every request, and is up again soon."""

    deaths: int = 0
    dead: bool = False

    async def health(self, request: Request) -> Response:
        was, self.dead = self.dead, False
        return Response(status_code=503 if was else 200)

    async def complete(self, request: Request) -> CutOff:
        self.deaths, self.dead = self.deaths + 1, True
        return CutOff(b"")


def test_a_request_that_kills_servers_is_given_up(stack: ExitStack) -> None:
    mortals = [Mortal(), Mortal()]
    pool = ServerPool(start(stack, *mortals), attempts=3)
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
        await until(lambda: hanging.asked)
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
        await until(lambda: not pool.servers[0].up)
        fake.healthy = True
        await complete(pool)
        return restored

    assert used(ServerPool(start(stack, fake)), work) == [1]


class Stuck(Reloading):
    """Never loads weights."""

    async def _load(self, request: Request) -> Response:
        while not await request.is_disconnected():
            await asyncio.sleep(0.02)
        return JSONResponse({})


class Refusing(Reloading):
    """Answers no probe."""

    async def complete(self, request: Request) -> Response:
        return JSONResponse({"message": "no such model"}, status_code=404)


@pytest.mark.parametrize(
    ("kind", "deadline", "says"),
    [(Stuck, 1, "got none that answers within 1 s"), (Refusing, 60, "a probe: got status 404")],
)
def test_a_push_that_cannot_be_made_says_so(
    synced: Synced, kind: type[Reloading], deadline: float, says: str
) -> None:
    _, weight_sync, policy = synced(kind)
    policy.pool.deadline = deadline
    with pytest.raises(PolicyError, match=says):
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
            await until(go.is_set)
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
        await until(began.is_set)

    LOOP.run(lose_it())
    learn(network)
    weight_sync.advance(1)
    weight_sync.push()
    go.set()

    LOOP.run(until(lambda: pool.servers[1].up))
    ours = dict(network.named_parameters())
    for server in (first, second):
        assert all(torch.equal(p, ours[name]) for name, p in server.network.named_parameters())


def test_the_only_server_is_lost_at_its_first_push(synced: Synced) -> None:
    class Late(Reloading):
        async def _load(self, request: Request) -> Response:
            if not self.loads:
                self.loads.append("lost")
                return CutOff(b"")  # type: ignore[return-value]
            return await super()._load(request)

    server, weight_sync, _ = synced(Late)
    weight_sync.push()
    assert server.loads[0] == "lost" and len(server.loads) >= 3


def test_nothing_is_left_on_a_disk_that_both_sides_see(
    synced: Synced, network: Qwen2ForCausalLM, tokenizer: HFTokenizer, tmp_path: Path
) -> None:
    _, _, policy = synced()
    both = tmp_path / "both"
    servers = f"policy.vllm.servers={list(policy.pool.urls)}"
    experiment = load_experiment("aipo_distil", ["policy.engine=vllm", servers, f"policy.vllm.folder={both}"])
    with experiment.open_policy(network, tokenizer, tmp_path / "run") as sampler:
        sampler.refresh()
        assert len(list(both.iterdir())) == 1
    assert list(both.iterdir()) == []
