"""Connections that are lost, hang or never come to be, on both kinds of event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import uvloop

from nats_peer import (
    SUBJECT,
    NatsPeer,
    StreamPeer,
    deliver,
    delivered_in_the_end,
    opened,
    until,
)
from skyring.ports import free_port
from skyring.testing.nats_server import NatsServer
from skyring.testing.proxy import Proxy
from skyring.transports import Outcome
from skyring_nats import Nats

AT_ONCE_S = 5
"""For a busy machine; far less than the time-out of the deliveries."""
LONG_MS = 60_000
Test = Callable[[], Awaitable[None]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Runs a test on an event loop of each kind."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    def run_bounded(test: Test) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await test()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run_bounded


def test_what_is_under_way_fails_at_once_when_the_server_is_killed(
    server: NatsServer, run: Callable[[Test], None]
) -> None:
    async def test() -> None:
        peer = NatsPeer(server)
        peer.answers = False
        async with peer, opened(server.url) as nats:
            tasks = [
                asyncio.create_task(deliver(nats, "request", timeout_ms=LONG_MS)) for _ in range(20)
            ]
            await peer.wait(lambda received: len(received) == 20)
            await peer.kill()
            async with asyncio.timeout(AT_ONCE_S):
                for outcome in await asyncio.gather(*tasks):
                    assert outcome.kind == "retry"
                    assert outcome.reason.startswith("the connection to NATS was lost: ")
                await until(partial(_reason_has, nats, "no connection to NATS"))
            await peer.start()
            await delivered_in_the_end(nats)

    run(test)


def test_a_black_hole_is_thrown_away(server: NatsServer, run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with (
            StreamPeer(server) as peer,
            Proxy(server.port) as proxy,
            opened(proxy.url, echo_interval_ms=50, echo_timeout_ms=500) as nats,
        ):
            await delivered_in_the_end(nats, method="jetstream", due_ms=1)
            proxy.swallow()
            # So much that the sockets and all buffers are full: the watchdog has no room either.
            tasks = [
                asyncio.create_task(
                    deliver(nats, method, payload=b"x" * 900_000, timeout_ms=LONG_MS)
                )
                for method in ("publish", "jetstream") * 20
            ]
            async with asyncio.timeout(AT_ONCE_S):
                for outcome in await asyncio.gather(*tasks):
                    assert outcome == Outcome.retry(
                        "the connection to NATS was lost: the server was silent for 500 ms"
                    )
                await delivered_in_the_end(nats, method="jetstream", due_ms=2)
            assert proxy.connections == 2
            await peer.wait(lambda received: len(received) == 2)

    run(test)


def test_a_silent_server_costs_each_delivery_its_own_time_and_no_memory(
    server: NatsServer, run: Callable[[Test], None]
) -> None:
    async def test() -> None:
        async with NatsPeer(server) as peer, opened(server.url) as nats:
            await delivered_in_the_end(nats)
            await peer.pause()
            for _ in range(5):
                begun = time.monotonic()
                outcomes = await asyncio.gather(
                    *(
                        deliver(nats, method, payload=b"x" * 500_000, timeout_ms=100)
                        for method in ("publish", "request") * 20
                    )
                )
                assert set(outcomes) == {Outcome.retry("time-out after 100 ms")}
                assert time.monotonic() - begun < AT_ONCE_S
            assert nats._link is not None
            session = nats._link.session
            assert session is not None, "it was not silent for long enough to be given up"
            assert not session._open
            assert not session._queue
            assert not session._by_address
            unsent_bytes = session._connection.unsent_bytes
            assert unsent_bytes <= nats.options.pending_bytes_max + 1_000_000
            await peer.resume()
            await delivered_in_the_end(nats, method="request")

    run(test)


def test_a_connection_that_is_only_idle_is_kept(
    server: NatsServer, run: Callable[[Test], None]
) -> None:
    async def test() -> None:
        async with (
            NatsPeer(server),
            Proxy(server.port) as proxy,
            opened(proxy.url, echo_interval_ms=1, echo_timeout_ms=5_000) as nats,
        ):
            await delivered_in_the_end(nats)
            passed = proxy.passed

            async def is_used() -> bool:
                return proxy.passed > passed + 50

            await until(is_used)
            assert await deliver(nats, "request") == Outcome.delivered()
            assert proxy.connections == 1

    run(test)


def test_the_proof_is_asked_for_behind_the_message(run: Callable[[Test], None]) -> None:
    heard = bytearray()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload": 1000, "headers": true}\r\n')
        while data := await reader.read(1_000):
            heard.extend(data)
            writer.write(b"PONG\r\n" * data.count(b"PING\r\n"))
        writer.close()

    async def test() -> None:
        heard.clear()
        async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with opened(f"nats://127.0.0.1:{port}", echo_interval_ms=LONG_MS) as nats:
                heard.clear()
                outcomes = await asyncio.gather(*(deliver(nats) for _ in range(3)))
                assert outcomes == [Outcome.delivered()] * 3
        assert heard.count(b"PING\r\n") == 1
        assert heard.count(f"HPUB {SUBJECT}".encode()) == 3
        assert heard.endswith(b"x\r\nPING\r\n")

    run(test)


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (None, "connection refused"),
        (b"", "no answer within 200 ms"),
        (b"HTTP/1.1 400 Bad Request\r\n", "expecting INFO"),
        (b"INFO {\r\n", "json parse error"),
        (b"INFO {}\r\n-ERR 'maximum connections exceeded'\r\n", "maximum connections exceeded"),
        (b"INFO {}\r\n", "the server closed the connection"),
        (b"INFO " + b"x" * 100_000, "limit"),
        (b'INFO {"tls_required": true}\r\n', "no answer within 200 ms"),
    ],
)
def test_what_is_no_server(
    greeting: bytes | None,
    reason: str,
    run: Callable[[Test], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting or b"")
        if greeting == b"INFO {}\r\n":
            await reader.readline()  # the log-in
        else:
            await reader.read()
        writer.close()

    async def test() -> None:
        port = free_port()
        url = f"nats://127.0.0.1:{port}"
        serving = None
        if greeting is not None:
            serving = await asyncio.start_server(pretend, "127.0.0.1", port)
        try:
            async with opened(url, connect_timeout_ms=200, reconnect_pause_ms=1) as nats:
                await until(partial(_reason_has, nats, f"no connection to NATS: {url}: "))
                await until(partial(_reason_has, nats, reason))
        finally:
            if serving is not None:
                serving.close()

    run(test)
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) <= 3


def test_many_failed_attempts_leave_nothing_behind(
    server: NatsServer, run: Callable[[Test], None]
) -> None:
    async def test() -> None:
        await server.start()
        async with (
            Proxy(server.port) as proxy,
            opened(proxy.url, reconnect_pause_ms=1) as nats,
        ):
            for turn in range(30):
                await delivered_in_the_end(nats)
                if turn == 5:
                    files, tasks = _files(), len(asyncio.all_tasks())
                proxy.cut()
            await delivered_in_the_end(nats)
            assert proxy.connections >= 31
            assert _files() <= files + 6
            assert len(asyncio.all_tasks()) <= tasks + 6
        assert len(asyncio.all_tasks()) <= 6

    run(test)


def test_the_next_server_is_taken(tmp_path: Path, run: Callable[[Test], None]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(exist_ok=True)
    second.mkdir(exist_ok=True)
    servers = [NatsServer(first), NatsServer(second)]
    urls = ",".join(server.url for server in servers)

    async def test() -> None:
        await servers[1].start()
        async with opened(urls) as nats:
            assert await deliver(nats) == Outcome.delivered()
            await servers[0].start()
            servers[1].kill()
            await delivered_in_the_end(nats)

    try:
        run(test)
    finally:
        for server in servers:
            server.kill()


async def test_an_opening_that_is_cancelled_leaves_nothing_behind() -> None:
    async with await asyncio.start_server(_silent, "127.0.0.1", 0) as serving:
        url = f"nats://127.0.0.1:{serving.sockets[0].getsockname()[1]}"
        before = asyncio.all_tasks()
        nats = Nats(Nats.Options(servers=url, connect_timeout_ms=LONG_MS))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await nats.open()
        assert {task for task in asyncio.all_tasks() - before if "nats" in task.get_name()} == set()
        await nats.close()


async def _reason_has(nats: Nats, text: str) -> bool:
    outcome = await deliver(nats)
    assert outcome.kind == "retry"
    return text.lower() in outcome.reason.lower()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))
