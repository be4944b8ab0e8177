"""Entries as they come, and what the transport makes of a server that does not take them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from redis_peer import CERTIFICATE, RedisServer, deliver, opened, until_delivered
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


# Entries


async def test_an_entry_as_it_comes(server: RedisServer, redis: Redis) -> None:
    outcome = await deliver(
        redis,
        b'{"a":1}',
        headers={"tenant": "ä b", "Authorization": "Bearer\nx"},
        id="order-17",
        attempt=3,
        due_ms=1_700_000_000_000,
        started_ms=1_700_000_001_000,
        content_type="application/json",
    )
    assert outcome == Outcome.delivered()
    assert await server.entries() == [
        {
            "data": '{"a":1}',
            "type": "application/json",
            "webhook-id": "order-17",
            "webhook-timestamp": "1700000001",
            "webhook-attempt": "3",
            "webhook-due": "1700000000000",
            "tenant": "ä b",
            "Authorization": "Bearer\nx",
        }
    ]


async def test_a_timer_without_data(server: RedisServer, redis: Redis) -> None:
    assert await deliver(redis, b"", content_type=None) == Outcome.delivered()
    (entry,) = await server.entries()
    assert entry["data"] == ""
    assert "type" not in entry


async def test_payloads_that_are_no_text_or_very_large(server: RedisServer, redis: Redis) -> None:
    payloads = [bytes(range(256)), b"x" * 5_000_000, b"\r\n$1\r\n", b"y" * 3_000_000]
    outcomes = await asyncio.gather(*(deliver(redis, payload) for payload in payloads))
    assert outcomes == [Outcome.delivered()] * 4
    assert sorted(await server.received()) == sorted(payloads)


async def test_each_stream_gets_its_own(server: RedisServer, redis: Redis) -> None:
    keys = [f"stream {number % 7}" for number in range(70)]
    await asyncio.gather(*(deliver(redis, key.encode(), uri=key) for key in keys))
    for key in set(keys):
        server.key = key
        assert [entry["data"] for entry in await server.entries()] == [key] * 10


async def test_the_database_of_the_address(server: RedisServer) -> None:
    async with opened(f"redis://127.0.0.1:{server.port}/3") as redis:
        assert await deliver(redis) == Outcome.delivered()
    assert await server.do("EXISTS", "timers") == 0
    assert "db3" in await server.do("INFO", "keyspace")


async def test_streams_are_trimmed(server: RedisServer) -> None:
    async with opened(server.url, maxlen=100) as redis:
        await asyncio.gather(*(deliver(redis, b"%d" % number) for number in range(1_000)))
    # Whole nodes of 100 entries are cut off.
    assert 100 <= await server.do("XLEN", "timers") <= 200


# Refusals


async def test_a_key_that_is_no_stream(server: RedisServer, redis: Redis) -> None:
    await server.do("SET", "text", "x")
    assert await asyncio.gather(*(deliver(redis, uri=key) for key in ("text", "timers"))) == [
        Outcome.rejected(
            "Redis answers: WRONGTYPE Operation against a key holding the wrong kind of value"
        ),
        Outcome.delivered(),
    ]


async def test_a_server_without_room(server: RedisServer, redis: Redis) -> None:
    await server.do("CONFIG", "SET", "maxmemory", 1)
    outcome = await deliver(redis)
    assert outcome.kind == "retry"
    assert outcome.reason.startswith("Redis answers: OOM")
    await server.do("CONFIG", "SET", "maxmemory", 0)
    assert await deliver(redis) == Outcome.delivered()


async def test_a_server_that_is_a_replica(server: RedisServer, redis: Redis) -> None:
    await server.do("REPLICAOF", "127.0.0.1", 1)  # nobody is there
    outcome = await deliver(redis)
    assert outcome.kind == "retry"
    assert outcome.reason.startswith("Redis answers: READONLY")
    await server.do("REPLICAOF", "NO", "ONE")
    assert await deliver(redis) == Outcome.delivered()


async def test_a_server_that_is_still_loading(server: RedisServer, redis: Redis) -> None:
    count = 4_000  # while it loads, it looks for clients after each 1,024 commands
    await asyncio.gather(*(deliver(redis, b"%d" % number) for number in range(count)))
    await server.kill()
    server.arguments += ("--key-load-delay", "200")  # microseconds
    await server.launch()
    reasons = await until_delivered(redis)
    assert any("LOADING" in reason for reason in reasons), reasons
    assert len(await server.entries()) == count + 1


async def test_a_server_with_too_many_clients(server: RedisServer) -> None:
    await server.do("CONFIG", "SET", "maxclients", 1)
    async with opened(server.url) as redis:
        outcome = await deliver(redis)
        assert outcome.kind == "retry"
        assert "max number of clients reached" in outcome.reason
        await server.do("CONFIG", "SET", "maxclients", 100)
        await until_delivered(redis)


# Credentials


@pytest.mark.parametrize("credentials", [{"password": "wr0ng"}, {"username": "u"}, {}])
async def test_wrong_credentials(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, credentials: dict[str, str]
) -> None:
    caplog.set_level("DEBUG")
    async with RedisServer(tmp_path, "--requirepass", "s3cret", password="s3cret") as server:
        async with opened(server.url, **credentials) as redis:
            for _ in range(3):
                outcome = await deliver(redis)
                assert outcome.kind == "retry"
                assert "WRONGPASS" in outcome.reason or "NOAUTH" in outcome.reason
                assert "wr0ng" not in outcome.reason
        assert sum(record.levelname == "WARNING" for record in caplog.records) == 1
        assert "wr0ng" not in caplog.text
        async with opened(server.url, password="s3cret") as redis:
            assert await deliver(redis) == Outcome.delivered()


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    async with RedisServer(tmp_path, tls=True) as server:
        async with opened(server.url) as redis:
            outcome = await deliver(redis)
            assert outcome.kind == "retry"
            assert "certificate verify failed" in outcome.reason
        async with opened(f"rediss://127.0.0.1:{server.port}", ca_file=CERTIFICATE) as redis:
            outcome = await deliver(redis)
            assert "IP address mismatch" in outcome.reason
        async with opened(server.url, ca_file=CERTIFICATE) as redis:
            assert await deliver(redis) == Outcome.delivered()
