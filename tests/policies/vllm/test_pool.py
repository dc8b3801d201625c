"""The pool of servers against real ones that fail in every way that servers do."""

import asyncio
from contextlib import ExitStack

import pytest

from aipo.errors import ConfigError, PolicyError
from aipo.policies.vllm.pool import ServerPool
from kit.servers import free_port, serving
from kit.vllm import ANSWER, FakeVLLM, complete, start, until, used


@pytest.mark.parametrize("fault", [429, 500, 502, 503, "half", "drop"])
def test_what_passes_by_itself_is_tried_again(stack: ExitStack, fault: int | str) -> None:
    fake = FakeVLLM()
    fake.faults.extend([fault, fault])
    pool = ServerPool(start(stack, fake), attempts=3)
    assert used(pool, complete) == ANSWER
    assert len(fake.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_another_attempt_does_not_change_is_not_tried_again(stack: ExitStack, status: int) -> None:
    fake = FakeVLLM()
    fake.faults.append(status)
    (url,) = start(stack, fake)
    with pytest.raises(PolicyError, match=f"{url}/v1/completions: got status {status}: .*said the server"):
        used(ServerPool([url]), complete)
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    "body", [b'{"error": {"code": 429}}', b'{"error": "overloaded"}', b'{"error": {"code": 502}}']
)
def test_an_error_that_passes_may_stand_in_the_body(stack: ExitStack, body: bytes) -> None:
    fake = FakeVLLM()
    fake.faults.extend([body, body])
    assert used(ServerPool(start(stack, fake), attempts=3), complete) == ANSWER
    assert len(fake.asked) == 3


def test_an_error_that_stays_may_stand_in_the_body(stack: ExitStack) -> None:
    fake = FakeVLLM()
    fake.faults.append(b'{"error": {"code": 400, "message": "maximum context length is 64"}}')
    says = "got status 400: .*an error in the body of an answer with status 200, longer than the context"
    with pytest.raises(PolicyError, match=says):
        used(ServerPool(start(stack, fake)), complete)
    assert len(fake.asked) == 1


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_no_proxy_stands_before_servers_on_this_machine(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    pool = ServerPool(start(stack, FakeVLLM()))

    async def work(pool: ServerPool) -> list[int]:
        await pool.check_servers()
        return await complete(pool)

    assert used(pool, work) == ANSWER


def test_attempts_come_to_an_end(stack: ExitStack) -> None:
    fake = FakeVLLM()
    fake.faults.extend([500] * 9)
    with pytest.raises(PolicyError, match=r"got no answer in 2 attempts, the last was status 500"):
        used(ServerPool(start(stack, fake), attempts=2), complete)
    assert len(fake.asked) == 2


def test_a_server_may_say_when_to_come_back(stack: ExitStack) -> None:
    fake = FakeVLLM(retry_after="0")
    fake.faults.extend([429] * 30)
    assert used(ServerPool(start(stack, fake), attempts=31), complete) == ANSWER


def test_a_request_has_a_deadline_and_the_server_is_told(stack: ExitStack) -> None:
    fake = FakeVLLM()
    fake.faults.extend([None, "hang"])

    async def work(pool: ServerPool) -> None:
        assert await complete(pool) == ANSWER
        with pytest.raises(PolicyError, match=r"got no answer within 2 s, servers that are out: none"):
            await complete(pool)
        await until(lambda: not fake.now)

    used(ServerPool(start(stack, fake), deadline=2), work)
    assert (len(fake.asked), fake.cut_off) == (2, 1)


def test_cancelling_reaches_the_server(stack: ExitStack) -> None:
    fake = FakeVLLM()
    fake.faults.append("hang")

    async def work(pool: ServerPool) -> None:
        task = asyncio.create_task(complete(pool))
        await until(lambda: fake.asked)
        task.cancel()
        await until(lambda: fake.cut_off)

    used(ServerPool(start(stack, fake)), work)


def test_a_session_stays_and_sessions_spread(stack: ExitStack) -> None:
    fakes = [FakeVLLM(), FakeVLLM()]
    for fake in fakes:
        fake.faults.extend(["hang"] * 2)

    async def work(pool: ServerPool) -> None:
        waiting = [asyncio.create_task(complete(pool, session)) for session in range(4)]
        # Each goes to the one that is less busy.
        await until(lambda: [len(fake.asked) for fake in fakes] == [2, 2])
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for fake in fakes:
            fake.asked.clear()
        for _ in range(5):
            await complete(pool, session=2)

    used(ServerPool(start(stack, *fakes)), work)
    assert sorted(len(fake.asked) for fake in fakes) == [0, 5]


def test_so_many_requests_are_in_flight_and_no_more(stack: ExitStack) -> None:
    fake = FakeVLLM()

    async def work(pool: ServerPool) -> list[list[int]]:
        return await asyncio.gather(*(complete(pool, session) for session in range(20)))

    assert used(ServerPool(start(stack, fake), requests=3), work) == [ANSWER] * 20
    assert fake.most <= 3 and len(fake.asked) == 20


def test_the_key_is_sent(stack: ExitStack) -> None:
    fake = FakeVLLM()
    used(ServerPool(start(stack, fake), key="secret"), complete)
    assert fake.keys == ["Bearer secret"]


def test_sessions_of_a_dead_server_move_on(stack: ExitStack) -> None:
    alive = FakeVLLM()
    pool = ServerPool([f"http://127.0.0.1:{free_port()}", *start(stack, alive)])

    async def work(pool: ServerPool) -> list[list[int]]:
        return [await complete(pool, session) for session in range(6)]

    assert used(pool, work) == [ANSWER] * 6
    assert len(alive.asked) == 6


def test_a_server_that_comes_back_is_restored_before_it_serves() -> None:
    port, fake, restored = free_port(), FakeVLLM(), []

    async def work(pool: ServerPool) -> list[int]:
        async def restore(url: str) -> None:
            assert not fake.asked
            restored.append(url)

        pool.restore = restore
        waiting = asyncio.create_task(complete(pool))
        await until(lambda: not pool.servers[0].up)
        with serving(fake.app, port):
            return await waiting

    pool = ServerPool([f"http://127.0.0.1:{port}"])
    assert used(pool, work) == ANSWER
    assert restored == [f"http://127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PolicyError("other weights"), "other weights"),
        (RuntimeError("a bug"), "which came back: got RuntimeError: a bug"),
    ],
)
def test_a_server_that_cannot_be_restored_ends_every_request(error: Exception, says: str) -> None:
    port, fake = free_port(), FakeVLLM()

    async def work(pool: ServerPool) -> None:
        async def restore(url: str) -> None:
            raise error

        pool.restore = restore
        waiting = asyncio.create_task(complete(pool))
        await until(lambda: not pool.servers[0].up)
        with serving(fake.app, port):
            for request in (waiting, complete(pool)):
                with pytest.raises(PolicyError, match=says):
                    await request
        with pytest.raises(PolicyError, match=says):
            pool.check()

    used(ServerPool([f"http://127.0.0.1:{port}"]), work)
    assert fake.asked == []


def test_nobody_there_is_said_before_anything_begins(stack: ExitStack) -> None:
    loading, dead = FakeVLLM(healthy=False), f"http://127.0.0.1:{free_port()}"
    urls = [*start(stack, FakeVLLM(), loading), dead]
    with pytest.raises(PolicyError, match=rf"got no answer from \['{urls[1]}', '{dead}'\]") as caught:
        used(ServerPool(urls), lambda pool: pool.check_servers())
    assert f"{urls[1]}: status 503; {dead}: ConnectError" in str(caught.value)
    assert "nobody listens there" in str(caught.value)


def test_a_proxy_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(PolicyError, match=f"through the proxy {proxy}, which HTTP_PROXY names"):
        used(ServerPool(["http://far.invalid:8000"]), lambda pool: pool.check_servers())


def test_waiting_for_anybody_ends_at_the_deadline() -> None:
    async def work(pool: ServerPool) -> None:
        pool.take_out(pool.servers[0])
        await pool.wait_for_any()

    with pytest.raises(PolicyError, match=r"got none that answers within 0\.2 s"):
        used(ServerPool([f"http://127.0.0.1:{free_port()}"], deadline=0.2), work)


@pytest.mark.parametrize(
    "urls", [[], ["127.0.0.1:8000"], ["http://a:1/v1"], ["http://a:1/v1/"], ["http://a:1", "http://a:1/"]]
)
def test_addresses_are_checked(urls: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"policy\.vllm\.servers: got"):
        ServerPool(urls)
