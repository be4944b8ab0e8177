"""The tcp transport: answers, connections and their bounds, failures, certificates, the end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from skyring.bench.process import free_port
from skyring.errors import ConfigError
from skyring.timers.attempt import attempt
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring_tcp import Tcp
from skyring_tcp.connection import Broken, Connection
from skyring_tcp.rules import LengthFraming
from tcp_peer import CERTIFICATE, TcpPeer, packed, quiet

DUE_MS = 1_700_000_000_000
BIG = b"x" * (16 << 20)


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Tcp]:
    transport = Tcp(Tcp.Options(**options))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def send(
    transport: Tcp, peer: TcpPeer | str, payload: bytes = b"hello", timeout_ms: int = 20_000
) -> Outcome:
    """Deliver as a node does."""
    uri = peer if isinstance(peer, str) else peer.uri
    info = DeliveryInfo("id-1", 2, DUE_MS, DUE_MS + 5, timeout_ms, "text/plain; charset=utf-8")
    return await attempt(transport, Callback("tcp", "send", uri), payload, info)


async def drained(transport: Tcp) -> None:
    """Until no connection is left."""
    assert transport._pool is not None
    async with asyncio.timeout(20):
        while len(transport._pool):
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
) -> AsyncIterator[str]:
    """A receiver that treats each connection as ``handle`` does; its uri."""
    server = await asyncio.start_server(handle, "127.0.0.1", free_port())
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


# Answers


@pytest.mark.parametrize("framing", ["length", "newline"])
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"ok", Outcome.delivered()),
        (b"", Outcome.delivered()),
        (b" OK \r", Outcome.delivered()),
        (b"retry too busy", Outcome.retry("too busy")),
        (b"reject gone", Outcome.rejected("gone")),
        (b"okay", None),
        (b"\xff\x00", None),
        (b"ok" * 1000, Outcome.retry("the answer is longer than 1024 bytes")),
    ],
)
async def test_answers(framing: str, answer: bytes, outcome: Outcome | None) -> None:
    async with TcpPeer(framing, answer=lambda _: answer) as peer, opened(framing=framing) as tcp:
        got = await send(tcp, peer)
        if outcome is None:
            assert got.kind == "retry"
            assert got.reason.startswith("the receiver answered neither ok, retry nor reject")
        else:
            assert got == outcome


@pytest.mark.parametrize("framing", ["length", "newline"])
@pytest.mark.parametrize("bytes_sent", [0, 2])
async def test_a_connection_that_ends_before_its_answer(framing: str, bytes_sent: int) -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(packed(b"ok", framing)[:bytes_sent])
        writer.close()

    async with serving(end) as uri, opened(framing=framing) as tcp:
        for _ in range(3):
            got = await send(tcp, uri)
            assert got == Outcome.retry("the receiver closed the connection before its answer")


async def test_a_receiver_that_closes_after_each_answer() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(packed(b"ok"))
        writer.close()

    async with serving(once) as uri, opened(connections_per_destination_max=2) as tcp:
        for _ in range(20):
            assert set(await asyncio.gather(*(send(tcp, uri) for _ in range(5)))) == {
                Outcome.delivered()
            }


async def test_a_connection_that_is_reset() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)  # what is left unread makes a reset of the end
        writer.transport.abort()

    async with serving(reset) as uri, opened() as tcp:
        got = await send(tcp, uri)
        assert got.kind == "retry"
        assert "connection" in got.reason


async def test_an_answer_before_the_whole_message_is_no_acknowledgement() -> None:
    done = asyncio.Event()

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(packed(b"ok"))
        await done.wait()
        writer.close()

    async with serving(hasty) as uri, opened() as tcp:
        got = await send(tcp, uri, BIG)
        assert got == Outcome.retry("the receiver answered before it had the whole message")
        done.set()


async def test_a_refusal_before_the_whole_message_is_one() -> None:
    done = asyncio.Event()

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(packed(b"reject too large for me"))
        await done.wait()
        writer.close()

    async with serving(hasty) as uri, opened() as tcp:
        assert await send(tcp, uri, BIG) == Outcome.rejected("too large for me")
        done.set()


async def test_what_comes_after_an_answer_is_taken_for_no_other() -> None:
    async with TcpPeer(answer=quiet) as peer, opened() as tcp:
        for number, extra in enumerate([b"", packed(b"reject no"), b"x", b""], 1):
            task = asyncio.create_task(send(tcp, peer))
            await peer.wait_until(lambda count=number: len(peer.messages) == count)  # type: ignore[misc]
            peer.links[-1].transport.write(packed(b"ok") + extra)
            assert await task == Outcome.delivered()
        assert peer.connections == 3


# The message


async def test_the_envelope() -> None:
    async with TcpPeer(content="envelope") as peer, opened(content="envelope") as tcp:
        callback = Callback("tcp", "send", peer.uri, headers={"authorization": "x"})
        info = DeliveryInfo("id-1", 2, DUE_MS, DUE_MS + 5, 20_000, "application/json")
        assert await tcp.deliver(callback, b'{"a":1}', info) == Outcome.delivered()
        assert json.loads(peer.messages[0]) == {
            "version": 1,
            "id": "id-1",
            "attempt": 2,
            "due": DUE_MS,
            "headers": {"authorization": "x"},
            "type": "application/json",
            "data": '{"a":1}',
        }


async def test_what_cannot_be_sent_is_rejected() -> None:
    async with TcpPeer() as peer:
        async with opened(message_bytes_max=10) as tcp:
            assert await send(tcp, peer, b"x" * 10) == Outcome.delivered()
            got = await send(tcp, peer, b"x" * 11)
            assert got == Outcome.rejected(
                "the message has 11 bytes, more than message_bytes_max=10"
            )
            assert (await send(tcp, "nonsense")).kind == "rejected"
        async with opened(framing="newline") as tcp:
            got = await send(tcp, peer, b"two\nlines")
            assert got.kind == "rejected"
            assert "line feed" in got.reason
        async with opened(content="envelope") as tcp:
            assert (await send(tcp, peer, b"\xff")).kind == "rejected"


async def test_a_big_message() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        assert await send(tcp, peer, BIG) == Outcome.delivered()
        assert peer.messages == [BIG]


# Connections


async def test_a_connection_is_used_again() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        for _ in range(20):
            assert await send(tcp, peer) == Outcome.delivered()
        assert peer.connections == 1


async def test_connections_to_one_receiver_are_bounded() -> None:
    async with TcpPeer() as peer, opened(connections_per_destination_max=3) as tcp:
        outcomes = await asyncio.gather(*(send(tcp, peer) for _ in range(50)))
        assert set(outcomes) == {Outcome.delivered()}
        assert peer.connections == 3


async def test_connections_in_all_are_bounded() -> None:
    async with TcpPeer() as one, TcpPeer() as other, opened(connections_max=1) as tcp:
        for peer in (one, other, one, other):
            assert await send(tcp, peer) == Outcome.delivered()
            assert len(one.links) + len(other.links) <= 2  # the end of one is on its way
        await asyncio.gather(*(send(tcp, peer) for peer in [one, other] * 20))
        assert len(one.messages) == len(other.messages) == 22
        await one.pause()
        held = asyncio.create_task(send(tcp, one))
        await asyncio.sleep(0)
        assert (await send(tcp, other, timeout_ms=50)).reason == "time-out after 50 ms"
        waiting = asyncio.create_task(send(tcp, other))
        await asyncio.sleep(0)
        await one.resume()
        assert await held == await waiting == Outcome.delivered()


async def test_an_unused_connection_is_closed() -> None:
    async with TcpPeer() as peer, opened(idle_ms=30) as tcp:
        await asyncio.gather(*(send(tcp, peer) for _ in range(5)))
        assert peer.connections == 5
        await peer.wait_until(lambda: not peer.links)
        assert tcp._pool is not None
        assert not tcp._pool._receivers  # nothing is kept of who is not called any more
        assert await send(tcp, peer) == Outcome.delivered()


async def test_a_connection_that_the_receiver_has_closed_is_not_used_again() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        for _ in range(5):
            assert await send(tcp, peer) == Outcome.delivered()
            peer.links[0].transport.close()
            await drained(tcp)
        assert peer.connections == 5


async def test_a_connection_on_which_something_comes_by_itself_is_not_used_again() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        assert await send(tcp, peer) == Outcome.delivered()
        peer.links[0].transport.write(packed(b"reject nothing"))
        await drained(tcp)
        assert await send(tcp, peer) == Outcome.delivered()
        assert peer.connections == 2


async def test_what_was_given_up_takes_its_connection_with_it() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        await peer.pause()
        got = await send(tcp, peer, b"slow", timeout_ms=50)
        assert got == Outcome.retry("time-out after 50 ms")
        cancelled = asyncio.create_task(send(tcp, peer, b"cancelled"))
        await peer.wait_until(lambda: True)
        await asyncio.sleep(0.01)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await peer.wait_until(lambda: not peer.links)
        await peer.resume()
        assert await send(tcp, peer, b"next") == Outcome.delivered()
        assert peer.messages == [b"next"]


async def test_a_port_with_nobody_there_is_told_at_once() -> None:
    uri = f"tcp://127.0.0.1:{free_port()}"
    async with opened(connections_per_destination_max=4) as tcp:
        outcomes = await asyncio.gather(*(send(tcp, uri) for _ in range(200)))
        assert set(outcomes) == {Outcome.retry("connection refused")}
        assert tcp._pool is not None
        assert not tcp._pool._receivers


async def test_all_deliveries_under_way_fail_with_their_connections() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        await peer.pause()
        tasks = [asyncio.create_task(send(tcp, peer)) for _ in range(100)]
        await asyncio.wait(tasks, timeout=0.05)
        await peer.kill()
        async with asyncio.timeout(5):
            for outcome in await asyncio.gather(*tasks):
                assert outcome.kind == "retry"
                assert "connection" in outcome.reason


async def test_a_host_name_that_is_none() -> None:
    async with opened() as tcp:
        got = await send(tcp, "tcp://nobody.invalid:7000")
        assert got.kind == "retry"
        assert got.reason.startswith("host name not resolved")


async def test_a_receiver_that_takes_no_connection() -> None:
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for filler in (first, second):  # the queue of the system is full then
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        uri = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        async with opened(connect_timeout_ms=100) as tcp:
            assert await send(tcp, uri) == Outcome.retry("no connection within 100 ms")


async def test_a_connection_to_oneself_is_none() -> None:
    """As the system can make them on one machine."""
    port, lost = free_port(), asyncio.Event()
    connection = Connection(LengthFraming(1024), lambda _: lost.set())
    here = ("127.0.0.1", port)
    await asyncio.get_running_loop().create_connection(lambda: connection, *here, local_addr=here)
    with pytest.raises(Broken, match="connection refused"):
        await connection.ask(packed(b"ok"))
    await lost.wait()


async def test_deliveries_are_bounded() -> None:
    async with TcpPeer() as peer, opened(deliveries_max=2) as tcp:
        await peer.pause()
        tasks = [asyncio.create_task(send(tcp, peer)) for _ in range(3)]
        assert await tasks[2] == Outcome.retry("2 deliveries wait already")
        await peer.resume()
        assert await asyncio.gather(*tasks[:2]) == [Outcome.delivered()] * 2


async def test_nothing_is_left_of_failures() -> None:
    """No descriptor, no connection, no permit."""
    descriptors = len(os.listdir("/proc/self/fd"))
    uri = f"tcp://127.0.0.1:{free_port()}"
    async with TcpPeer() as peer, opened(connections_max=8) as tcp:
        await peer.pause()
        for turn in range(10):
            tasks = [asyncio.create_task(send(tcp, peer, timeout_ms=10 * turn)) for _ in range(8)]
            tasks += [asyncio.create_task(send(tcp, uri)) for _ in range(8)]
            for _ in range(turn):
                await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            await asyncio.wait(tasks)
        await peer.resume()
        assert set(await asyncio.gather(*(send(tcp, peer) for _ in range(50)))) == {
            Outcome.delivered()
        }
    await peer.wait_until(lambda: not peer.links)
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1  # one that resolves names


# Without acknowledgement


async def test_without_acknowledgement_the_system_has_to_take_it() -> None:
    async with TcpPeer(answer=quiet) as peer, opened(ack="none") as tcp:
        assert await send(tcp, peer, b"first") == Outcome.delivered()
        await peer.wait_until(lambda: len(peer.messages) == 1)
        peer.links[0].transport.pause_reading()
        got = await send(tcp, peer, BIG, timeout_ms=100)
        assert got == Outcome.retry("time-out after 100 ms")
        await peer.wait_until(lambda: len(peer.messages) == 1)
        assert await send(tcp, peer, b"second") == Outcome.delivered()
        await peer.wait_until(lambda: len(peer.messages) == 2)
        await peer.kill()
        await drained(tcp)
        assert await send(tcp, peer) == Outcome.retry("connection refused")


async def test_without_acknowledgement_a_connection_that_breaks_is_told() -> None:
    async with TcpPeer(answer=quiet) as peer, opened(ack="none") as tcp:
        assert await send(tcp, peer, b"first") == Outcome.delivered()
        await peer.wait_until(lambda: len(peer.messages) == 1)
        peer.links[0].transport.pause_reading()
        task = asyncio.create_task(send(tcp, peer, BIG))
        await asyncio.sleep(0.01)
        await peer.kill()
        assert (await task).kind == "retry"


# Certificates


async def test_a_certificate_is_verified() -> None:
    async with TcpPeer(tls=True) as peer:
        async with opened() as tcp:
            got = await send(tcp, peer)
            assert got.kind == "retry"
            assert got.reason.startswith("TLS: certificate not accepted: ")
        async with opened(ca_file=str(CERTIFICATE)) as tcp:
            assert await send(tcp, peer) == Outcome.delivered()
            got = await send(tcp, f"tls://127.0.0.1:{peer.port}")
            assert got.kind == "retry"
            assert "IP address mismatch" in got.reason
    assert peer.messages == [b"hello"]


async def test_tls_to_a_receiver_that_has_none() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"what is that?\n")
        await writer.drain()
        writer.close()

    async with serving(speak) as uri, opened() as tcp:
        got = await send(tcp, uri.replace("tcp", "tls"))
        assert got.kind == "retry"
        assert got.reason.startswith("TLS: ")


async def test_a_tls_handshake_that_hangs() -> None:
    async with TcpPeer() as peer, opened(connect_timeout_ms=100) as tcp:
        await peer.pause()
        got = await send(tcp, peer.uri.replace("tcp", "tls"))
        assert got == Outcome.retry("no connection within 100 ms")
        await peer.wait_until(lambda: not peer.links)


async def test_a_file_of_certificates_that_is_none(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "missing.pem", "no such file"),
        (Path(__file__), "TLS: "),
        (tmp_path, "TLS: |is a directory"),
    ):
        tcp = Tcp(Tcp.Options(ca_file=str(path)))
        with pytest.raises(ConfigError, match=rf"transport\.tcp\.ca_file: .*({reason})"):
            await tcp.open()
        await tcp.close()


# The end


async def test_close_waits_for_the_deliveries_under_way() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        await peer.pause()
        under_way = asyncio.create_task(send(tcp, peer))
        await asyncio.sleep(0)
        closing = asyncio.create_task(tcp.close())
        await asyncio.wait([closing], timeout=0.05)
        assert not closing.done()
        assert await send(tcp, peer) == Outcome.retry("the tcp transport is closed")
        await peer.resume()
        await closing
        assert await under_way == Outcome.delivered()
        await peer.wait_until(lambda: not peer.links)


async def test_a_close_that_is_cancelled_cuts_off() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        await peer.pause()
        under_way = asyncio.create_task(send(tcp, peer))
        await asyncio.wait([under_way], timeout=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await tcp.close()
        assert (await under_way).kind == "retry"
        await peer.wait_until(lambda: not peer.links)


async def test_without_open_nothing_is_delivered() -> None:
    tcp = Tcp()
    assert await send(tcp, "tcp://127.0.0.1:1") == Outcome.retry("the tcp transport is closed")
    await tcp.close()
    await tcp.close()
