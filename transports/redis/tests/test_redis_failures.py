"""Servers that go away, fall silent or hang, and deliveries that are cut off."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from redis_peer import RedisServer, deliver, opened, turns, until, until_delivered
from skyring.transports import Outcome
from skyring_redis import Redis


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    async with opened(server.url) as transport:
        yield transport


async def connections(server: RedisServer) -> int:
    """Those of the transport: the client of the test has one too, over the socket."""
    listed = (await server.do("CLIENT", "LIST")).decode().splitlines()
    return sum("addr=127.0.0.1" in line for line in listed)


async def until_disconnected(server: RedisServer) -> None:
    async def reached() -> bool:
        return await connections(server) == 0

    await until(reached)


# The server goes away


async def test_a_kill_ends_the_deliveries_under_way_at_once(
    server: RedisServer, redis: Redis
) -> None:
    assert await deliver(redis) == Outcome.delivered()
    await server.pause()
    tasks = [asyncio.create_task(deliver(redis, b"%d" % number)) for number in range(500)]
    await asyncio.sleep(0)
    start = time.monotonic()
    await server.kill()
    outcomes = await asyncio.gather(*tasks)
    assert time.monotonic() - start < 5, "their own time-out is 20 s"
    assert {outcome.kind for outcome in outcomes} == {"retry"}
    assert all("127.0.0.1" in outcome.reason for outcome in outcomes)


async def test_refused_connections_fail_at_once_and_are_logged_once(
    server: RedisServer, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    assert await deliver(redis) == Outcome.delivered()
    await server.kill()
    start = time.monotonic()
    for _ in range(200):
        outcome = await deliver(redis)
        assert outcome.kind == "retry"
    assert time.monotonic() - start < 5
    assert f"cannot connect to redis:127.0.0.1:{server.port}" in outcome.reason
    await server.start()
    await until_delivered(redis)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_no_attempt_to_connect_during_the_pause(tmp_path: Path) -> None:
    attempts = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, opened(f"redis://127.0.0.1:{port}/1", reconnect_pause_ms=60_000) as redis:
        for _ in range(100):
            outcome = await deliver(redis)
            assert outcome.kind == "retry"
            assert outcome.reason.startswith("cannot connect to")
        assert attempts == 1


async def test_a_connection_that_the_server_has_closed_costs_no_delivery(
    server: RedisServer, redis: Redis
) -> None:
    for _ in range(3):
        outcomes = await asyncio.gather(*(deliver(redis) for _ in range(300)))
        assert set(outcomes) == {Outcome.delivered()}
        await server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until_disconnected(server)


async def test_a_restart_while_nothing_is_delivered_costs_no_delivery(
    server: RedisServer, redis: Redis
) -> None:
    assert await deliver(redis) == Outcome.delivered()
    await server.kill()
    await server.start()
    assert await deliver(redis) == Outcome.delivered()


# The server is silent


async def test_a_server_that_hangs_while_it_is_connected_to(tmp_path: Path) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    url = f"redis://127.0.0.1:{port}/1"
    async with listener, opened(url, connect_timeout_ms=100) as redis:
        start = time.monotonic()
        outcome = await deliver(redis)
        assert outcome.kind == "retry"
        assert outcome.reason == f"cannot connect to redis:127.0.0.1:{port}: it does not answer"
        assert time.monotonic() - start < 5


async def test_a_connection_without_answers_is_given_up(server: RedisServer) -> None:
    async with opened(server.url, answer_timeout_ms=200, connect_timeout_ms=200) as redis:
        assert await deliver(redis) == Outcome.delivered()
        await server.pause()
        outcomes = await asyncio.gather(*(deliver(redis) for _ in range(1_000)))
        assert {outcome.kind for outcome in outcomes} == {"retry"}
        assert outcomes[0].reason == f"redis:127.0.0.1:{server.port} has not answered in 0.2 s"
        await server.resume()
        await until_delivered(redis)


async def test_closing_while_the_server_is_silent(server: RedisServer) -> None:
    async with opened(server.url) as redis:
        assert await deliver(redis) == Outcome.delivered()
        await server.pause()
        task = asyncio.create_task(deliver(redis, timeout_ms=300))
        await turns(5)
        start = time.monotonic()
        await redis.close()
        assert time.monotonic() - start < 5
        assert (await task).reason == "time-out after 300 ms"


async def test_closing_in_a_hurry_cuts_off_what_is_under_way(server: RedisServer) -> None:
    async with opened(server.url, connections_max=1, batch_max=10) as redis:
        assert await deliver(redis) == Outcome.delivered()
        await server.pause()
        tasks = [asyncio.create_task(deliver(redis)) for _ in range(25)]
        await turns(10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await redis.close()
        reasons = {(await task).reason for task in tasks}
        assert reasons == {"cut off, for this node is stopping"}


# Deliveries that are cut off


async def test_answers_never_change_hands(server: RedisServer) -> None:
    """A known trap of this client: what is cancelled leaves its answer to the next command."""
    await server.do("SET", "text", "x")
    async with opened(server.url, connections_max=2, batch_max=7) as redis:
        for turn in range(30):
            wrong = [asyncio.create_task(deliver(redis, uri="text")) for _ in range(20)]
            right = [asyncio.create_task(deliver(redis)) for _ in range(20)]
            await turns(turn % 6)
            for task in (*wrong[turn % 3 :: 3], *right[turn % 2 :: 2]):
                task.cancel()
            await asyncio.wait([*wrong, *right])
            assert {task.result().kind for task in wrong if not task.cancelled()} <= {"rejected"}
            assert {task.result().kind for task in right if not task.cancelled()} <= {"delivered"}
        assert await connections(server) <= 2


async def test_what_is_cut_off_before_it_was_sent_never_arrives(server: RedisServer) -> None:
    async with opened(server.url, connections_max=1, batch_max=1) as redis:
        assert await deliver(redis, b"first") == Outcome.delivered()
        await server.pause()
        tasks = [asyncio.create_task(deliver(redis, b"sent"))]
        await turns(10)
        tasks += [asyncio.create_task(deliver(redis, b"cut off")) for _ in range(50)]
        await turns(10)
        for task in tasks[1:]:
            task.cancel()
        await server.resume()
        assert await tasks[0] == Outcome.delivered()
        assert await deliver(redis, b"last") == Outcome.delivered()
        assert await server.received() == [b"first", b"sent", b"last"]


async def test_what_is_under_way_is_bounded(server: RedisServer) -> None:
    async with opened(server.url, in_flight_max=10) as redis:
        assert await deliver(redis) == Outcome.delivered()
        await server.pause()
        tasks = [asyncio.create_task(deliver(redis)) for _ in range(10)]
        await asyncio.sleep(0)
        outcome = await deliver(redis)
        assert outcome == Outcome.retry("10 deliveries to Redis are under way already")
        await server.resume()
        assert set(await asyncio.gather(*tasks)) == {Outcome.delivered()}


# Resources


async def test_connections_are_bounded_and_reused(server: RedisServer) -> None:
    async with opened(server.url, connections_max=3, batch_max=5) as redis:
        for _ in range(20):
            await asyncio.gather(*(deliver(redis) for _ in range(100)))
            assert await connections(server) <= 3
    await until_disconnected(server)


async def test_nothing_is_left_behind(server: RedisServer) -> None:
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def reached() -> bool:
        return held() <= before

    before = held()
    for _ in range(20):
        async with opened(server.url) as redis:
            await asyncio.gather(*(deliver(redis) for _ in range(50)))
            await server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.gather(*(deliver(redis, timeout_ms=1) for _ in range(50)))
    gc.collect()
    await until(reached)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_with_uvloop(tmp_path: Path) -> None:
    async def run() -> None:
        async with RedisServer(tmp_path) as server, opened(server.url) as redis:
            outcomes = await asyncio.gather(*(deliver(redis) for _ in range(1_000)))
            assert set(outcomes) == {Outcome.delivered()}
            await server.kill()
            assert (await deliver(redis)).kind == "retry"
            await server.start()
            await until_delivered(redis)

    uvloop.run(run())
