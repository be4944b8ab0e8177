"""The webhook transport: certificates, cancellation, and its end."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest

from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring.transports.http import Http
from tests.contract.raw_receiver import OK, Exchange, RawReceiver

CERTIFICATE = Path(__file__).with_name("localhost.pem")
"""Names localhost, signed by itself, valid until 2126; its key is in the same file."""
CLOSED = Outcome.retry("the http transport is closed")


async def opened() -> Http:
    http = Http()
    await http.open()
    return http


async def post(http: Http, url: str, timeout_ms: int = 20_000) -> Outcome:
    info = DeliveryInfo("id", 1, 1_700_000_000_000, 1_700_000_000_000, timeout_ms, None)
    return await http.deliver(Callback("http", "post", url), b"hello", info)


class Gate:
    """A script that keeps its answers back."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await self.opened.wait()
        await exchange.send(OK)


# Certificates


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


async def test_a_certificate_that_nobody_vouches_for() -> None:
    http = await opened()
    async with RawReceiver(tls=tls()) as receiver:
        outcome = await post(http, receiver.url(scheme="https", host="localhost"))
        assert outcome.kind == "retry"
        assert outcome.reason.startswith("TLS: invalid peer certificate")
    assert receiver.exchanges == []
    await http.close()


async def test_a_trusted_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    http = await opened()
    async with RawReceiver(tls=tls()) as receiver:
        outcome = await post(http, receiver.url(scheme="https", host="localhost"))
        assert outcome == Outcome.delivered()
        outcome = await post(http, receiver.url(scheme="https", host="127.0.0.1"))
        assert outcome.reason.startswith("TLS: invalid peer certificate")
    assert len(receiver.exchanges) == 1
    await http.close()


async def test_a_machine_without_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    http = await opened()
    async with RawReceiver() as receiver:
        assert await post(http, receiver.url()) == Outcome.delivered()
    async with RawReceiver(tls=tls()) as receiver:
        outcome = await post(http, receiver.url(scheme="https", host="localhost"))
        assert outcome.reason.startswith("TLS: invalid peer certificate")
    await http.close()


async def test_https_to_a_receiver_that_speaks_http() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    http = await opened()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    outcome = await post(http, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert outcome.kind == "retry"
    assert not outcome.reason.startswith("time-out")
    server.close()
    await http.close()


# Cancellation


async def test_a_cancelled_delivery_frees_its_connection() -> None:
    """At the latest when its time-out has passed: until then the client goes on by itself."""

    async def silent(exchange: Exchange) -> None:
        await exchange.wait_for_close()

    http = await opened()
    async with RawReceiver(silent) as receiver:
        delivery = asyncio.create_task(post(http, receiver.url(), timeout_ms=200))
        await receiver.wait_for(lambda it: len(it.exchanges) == 1)
        delivery.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivery
        await receiver.wait_for(lambda it: it.closed == 1)
    await http.close()


async def test_a_cancellation_that_crosses_with_the_answer_is_not_lost() -> None:
    count = 20
    tasks: list[asyncio.Task[Outcome]] = []

    def hold_the_event_loop() -> None:
        time.sleep(0.05)  # the answers reach the client, but not yet the tasks

    async def script(exchange: Exchange) -> None:
        if exchange.number == count:
            for each in receiver.exchanges:
                each.writer.write(OK)
            hold_the_event_loop()
            for task in tasks:
                task.cancel()
        await exchange.wait_for_close()

    http = await opened()
    async with RawReceiver(script) as receiver:
        tasks += [asyncio.create_task(post(http, receiver.url())) for _ in range(count)]
        await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    await http.close()


# The end


async def test_close_waits_for_the_deliveries_under_way() -> None:
    http, gate = await opened(), Gate()
    async with RawReceiver(gate) as receiver:
        delivery = asyncio.create_task(post(http, receiver.url()))
        await receiver.wait_for(lambda it: len(it.exchanges) == 1)
        closings = [asyncio.create_task(http.close()) for _ in range(2)]
        await asyncio.sleep(0)
        assert await post(http, receiver.url()) == CLOSED
        assert not any(closing.done() for closing in closings)
        gate.opened.set()
        await asyncio.gather(*closings)
        assert await delivery == Outcome.delivered()
    await http.close()
    assert len(receiver.exchanges) == 1


async def test_close_that_is_cancelled_cuts_off() -> None:
    http, gate = await opened(), Gate()
    async with RawReceiver(gate) as receiver:
        delivery = asyncio.create_task(post(http, receiver.url()))
        await receiver.wait_for(lambda it: len(it.exchanges) == 1)
        closing = asyncio.create_task(http.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert await delivery == Outcome.retry("cut off, for this node is stopping")
        gate.opened.set()
    assert await post(http, receiver.url()) == CLOSED


async def test_close_disconnects() -> None:
    http = Http(idle_ms=600_000)
    await http.open()
    async with RawReceiver() as receiver:
        assert await post(http, receiver.url()) == Outcome.delivered()
        await http.close()
        await receiver.wait_for(lambda it: it.closed == 1)


async def test_never_opened() -> None:
    http = Http()
    assert await post(http, "http://127.0.0.1/") == CLOSED
    await http.close()
