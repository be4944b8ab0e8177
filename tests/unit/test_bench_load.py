"""The load generator and the receiver's records, against a small server in the same process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from skyring.bench.bulk import bulk_body, created
from skyring.bench.errors import BenchError
from skyring.bench.load import Planned, closed_loop, constant, paced
from skyring.bench.receiver import decode, encode
from skyring.bench.wire import Framer, build_request

CREATED = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"
REQUEST = build_request("POST", "h", "/timer", b"{}")
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"x-skyring-reason: the disk is slow\r\ncontent-length: 0\r\n\r\n"
)


@asynccontextmanager
async def serving(answer: Callable[[int], bytes | None]) -> AsyncIterator[int]:
    """A server on the port it yields; ``answer`` of the n-th request, None closes instead."""
    numbers = itertools.count()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        framer = Framer()
        while data := await reader.read(65536):
            for _ in framer.feed(data):
                reply = answer(next(numbers))
                if reply is None:
                    writer.transport.abort()
                    return
                writer.write(reply)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


def plan(count: int) -> list[Planned]:
    return [Planned(f"k-{n}", 1000, REQUEST) for n in range(count)]


async def test_a_counted_source_is_sent_exactly() -> None:
    async with serving(lambda n: CREATED) as port:
        result = await closed_loop("127.0.0.1", port, 3, constant(REQUEST, 100), 60.0)
    assert result.statuses == {201: 100}
    assert len(result.latencies_ms) == 100
    assert (result.broken, result.refusal) == (0, None)
    assert result.seconds > 0


async def test_fewer_requests_than_connections() -> None:
    async with serving(lambda n: CREATED) as port:
        result = await closed_loop("127.0.0.1", port, 8, constant(REQUEST, 2), 60.0)
    assert result.statuses == {201: 2}


async def test_no_request_begins_after_the_time() -> None:
    async with serving(lambda n: CREATED) as port:
        result = await closed_loop("127.0.0.1", port, 4, constant(REQUEST), 0.0)
    assert result.statuses == {201: 4}


async def test_refusals_are_counted_and_the_first_is_told() -> None:
    async with serving(lambda n: BUSY if n % 2 else CREATED) as port:
        result = await closed_loop("127.0.0.1", port, 1, constant(REQUEST, 10), 60.0)
    assert result.statuses == {201: 5, 503: 5}
    assert result.refusal == "503 the disk is slow"


async def test_answers_are_handed_on() -> None:
    seen: list[tuple[int, bytes]] = []
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    async with serving(lambda n: answer) as port:
        await closed_loop(
            "127.0.0.1", port, 1, constant(REQUEST, 2), 60.0, lambda *args: seen.append(args)
        )
    assert seen == [(200, b"ok"), (200, b"ok")]


async def test_a_closed_loop_ends_when_its_connections_break() -> None:
    async with serving(lambda n: CREATED if n < 10 else None) as port:
        result = await closed_loop("127.0.0.1", port, 4, constant(REQUEST), 60.0)
    assert result.statuses[201] == 10
    assert result.broken == 4


async def test_a_peer_that_does_not_speak_http_breaks_the_connection() -> None:
    async with serving(lambda n: b"SSH-2.0\r\n\r\n") as port:
        result = await closed_loop("127.0.0.1", port, 2, constant(REQUEST), 60.0)
    assert result.statuses == {}
    assert result.broken == 2


async def test_paced_notes_when_each_timer_may_fire() -> None:
    async with serving(lambda n: BUSY if n == 7 else CREATED) as port:
        result = await paced("127.0.0.1", port, 4, plan(50), 5_000.0)
    assert len(result.acknowledged) == 49
    assert result.statuses == {201: 49, 503: 1}
    assert result.broken == 0


async def test_more_than_the_connections_can_carry_waits_its_turn() -> None:
    async with serving(lambda n: CREATED) as port:
        result = await paced("127.0.0.1", port, 1, plan(200), 1e9)
    assert len(result.acknowledged) == 200
    assert result.behind_max > 0


async def test_a_paced_load_ends_when_the_server_is_gone() -> None:
    async with serving(lambda n: CREATED if n < 20 else None) as port:
        result = await paced("127.0.0.1", port, 4, plan(100_000), 2_000.0)
    assert len(result.acknowledged) == 20
    assert result.broken == 4


async def test_nobody_listens() -> None:
    async with serving(lambda n: CREATED) as port:
        pass
    with pytest.raises(BenchError, match="no server at"):
        await closed_loop("127.0.0.1", port, 1, constant(REQUEST), 1.0)
    with pytest.raises(BenchError, match="no server at"):
        await paced("127.0.0.1", port, 1, plan(1), 1.0)


def test_bulk_bodies() -> None:
    assert bulk_body([b"{}", b"{}"]) == b"{}\n{}\n"
    assert bulk_body([b"{}", b"{}"], "array") == b"[{},{}]"


def test_created_counts_entries() -> None:
    lines = b'{"id":"a","status":201}\n{"status": 201,"id":"b"}\n{"status":400}\n{"status":2011}'
    assert created(lines) == 2


def test_records_survive_the_way_from_the_receiver() -> None:
    head = b"POST /webhook HTTP/1.1\r\nwebhook-id: t1\r\nWebhook-Due: 1700000000000\r\n"
    full = head + b"webhook-attempt: 2\r\n\r\n"
    first, second = decode(
        encode(
            [
                (1_700_000_000_001_500_000, full, b"key-1"),
                (5_000_000, b"POST / HTTP/1.1\r\nwebhook-due: soon\r\n\r\n", b"\xff"),
            ]
        )
    )
    assert (first.key, first.timer_id, first.due_ms) == ("key-1", "t1", 1_700_000_000_000)
    assert (first.arrived_ms, first.attempt) == (1_700_000_000_001.5, 2)
    assert (second.key, second.timer_id, second.due_ms) == ("\ufffd", "", None)
    assert (second.arrived_ms, second.attempt) == (5.0, 1)
