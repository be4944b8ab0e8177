"""What listens at the address is no broker, or does not answer."""

from __future__ import annotations

import asyncio
import time

import pytest

from amqp_peer import deliver, opened


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_server_that_hangs_or_speaks_otherwise(scheme: str, greeting: bytes) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, opened(f"{scheme}://127.0.0.1:{port}", connect_timeout_ms=200) as amqp:
        start = time.monotonic()
        outcome = await deliver(amqp, "queue")
        assert outcome.kind == "retry"
        assert outcome.reason.startswith(f"cannot connect to {scheme}:127.0.0.1:{port}: ")
        assert time.monotonic() - start < 5


async def test_no_attempt_to_connect_during_the_pause() -> None:
    attempts = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.write(b"AMQP\x00\x00\x09\x01")  # what brokers say that want another version
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, opened(f"amqp://127.0.0.1:{port}", reconnect_pause_ms=60_000) as amqp:
        for _ in range(100):
            outcome = await deliver(amqp, "queue")
            assert outcome.kind == "retry"
            assert outcome.reason.startswith("cannot connect to")
    assert attempts == 1
