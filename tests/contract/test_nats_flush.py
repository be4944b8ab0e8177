"""A connection that closes in the very turn of the event loop in which something is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop

from skyring.nats.access import Server
from skyring.nats.connection import Connection
from skyring.testing.nats_server import NatsServer

LOOPS: list[Any] = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),  # its transports refuse a write by raising
]
ANSWER_S_MAX = 10


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[Connection]:
    async with NatsServer(directory, jetstream=False) as server:
        connection = Connection(Server(server.url, needs_tls=False))
        await connection.establish({})
        try:
            yield connection
        finally:
            await connection.dispose()


async def put_while_it_closes(directory: Path) -> list[str]:
    """What the event loop is told of: errors that nobody has handled."""
    unhandled: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(repr(context)))
    proven: list[str] = []
    async with connected(directory) as connection:
        assert connection._writer is not None
        connection.put(b"PUB before 0\r\n\r\n")
        connection.prove(partial(proven.append, "before"))
        async with asyncio.timeout(ANSWER_S_MAX):
            await connection.ping()
        loop.call_soon(connection._writer.transport.abort)  # as when the server is killed
        loop.call_soon(connection.put, b"PUB after 0\r\n\r\n")
        loop.call_soon(connection.prove, partial(proven.append, "after"))
        async with asyncio.timeout(ANSWER_S_MAX):
            assert await connection.lost == "the server closed the connection"
        connection.put(b"PUB later 0\r\n\r\n")
        for _ in range(3):  # whatever the loss has set going
            await asyncio.sleep(0)
    assert proven == ["before"]
    return unhandled


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_write_to_a_connection_that_closes_tells_of_its_loss(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(put_while_it_closes(tmp_path)) == []


async def drain_while_it_closes(directory: Path) -> None:
    async with connected(directory) as connection:
        assert connection._writer is not None
        connection.put(b"PUB unsent 0\r\n\r\n")
        connection._writer.transport.abort()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                await connection.drain()
        except OSError:
            pass  # it may say so itself
        async with asyncio.timeout(ANSWER_S_MAX):
            assert await connection.lost == "the server closed the connection"


@pytest.mark.parametrize("new_loop", LOOPS)
def test_waiting_for_room_on_a_connection_that_closes_ends(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(drain_while_it_closes(tmp_path))
