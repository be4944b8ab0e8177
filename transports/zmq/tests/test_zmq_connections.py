"""The zmq transport: its connections and their bounds, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from skyring.ports import free_port
from skyring.transports import Outcome
from skyring_zmq.channel import Broken, Channel, Context, SocketOptions, _is_connected_to_itself
from zmq_peer import (
    CLOSED,
    NOBODY,
    ZmqPeer,
    ZmqProcess,
    delivered_in_the_end,
    opened,
    quiet,
    send,
    small,
    sockets,
    until,
)

# Connections


async def test_one_connection_serves_many() -> None:
    async with ZmqPeer("router") as peer, opened() as transport:
        outcomes = await asyncio.gather(*(send(transport, peer) for _ in range(200)))
        assert set(outcomes) == {Outcome.delivered()}
        assert {route[0] for route in peer.routes} == {peer.routes[0][0]}
        assert sockets(transport) == 1


async def test_sockets_are_bounded() -> None:
    async with ZmqPeer() as one, ZmqPeer() as other, opened(sockets_max=1) as transport:
        for peer in (one, other, one, other):
            assert await send(transport, peer) == Outcome.delivered()
            assert sockets(transport) == 1
        await asyncio.gather(*(send(transport, peer) for peer in [one, other] * 20))
        assert len(one.messages) == len(other.messages) == 22
        await one.pause()
        held = asyncio.create_task(send(transport, one))
        await asyncio.sleep(0)
        got = await send(transport, other, timeout_ms=50)
        assert got.reason == "time-out after 50 ms"
        waiting = asyncio.create_task(send(transport, other))
        await asyncio.sleep(0)
        await one.resume()
        assert await held == await waiting == Outcome.delivered()
        assert sockets(transport) == 1


async def test_an_unused_connection_is_closed() -> None:
    async with ZmqPeer() as peer, opened(idle_ms=30) as transport:
        for _ in range(2):
            assert await send(transport, peer) == Outcome.delivered()
            await until(lambda: sockets(transport) == 0)
            assert transport._links is not None
            assert not transport._links._links  # nothing is kept of who is not called any more


async def test_a_connection_that_the_receiver_has_closed_is_not_used_again() -> None:
    async with ZmqPeer() as peer, opened() as transport:
        for number in range(3):
            await delivered_in_the_end(transport, peer, b"%d" % number)
            await peer.kill()
            await until(lambda: sockets(transport) == 0)
            await peer.start()
            assert await send(transport, peer) == Outcome.delivered()


async def test_all_requests_under_way_fail_with_their_connection() -> None:
    async with ZmqPeer("router", answer=quiet) as peer, opened() as transport:
        tasks = [asyncio.create_task(send(transport, peer)) for _ in range(300)]
        await peer.wait_until(lambda: len(peer.messages) > 10)
        await peer.kill()
        async with asyncio.timeout(5):
            assert set(await asyncio.gather(*tasks)) == {Outcome.retry(CLOSED)}


async def test_deliveries_are_bounded() -> None:
    async with ZmqPeer("router", answer=quiet) as peer, opened(deliveries_max=2) as transport:
        tasks = [asyncio.create_task(send(transport, peer)) for _ in range(3)]
        assert await tasks[2] == Outcome.retry("2 deliveries wait already")
        await peer.wait_until(lambda: len(peer.routes) == 2)
        for route in peer.routes:
            await peer.reply(route, b"ok")
        assert await asyncio.gather(*tasks[:2]) == [Outcome.delivered()] * 2


async def test_nothing_piles_up_while_the_receiver_is_silent() -> None:
    payload = b"x" * 1_000_000
    async with ZmqPeer(set_up=small) as peer, opened(send_queue_max=1) as transport:
        assert await send(transport, peer) == Outcome.delivered()
        await peer.pause()
        for _ in range(5):
            sent = (send(transport, peer, payload, timeout_ms=20) for _ in range(40))
            assert {outcome.kind for outcome in await asyncio.gather(*sent)} == {"retry"}
        assert transport._links is not None
        (channel,) = transport._links._open
        assert not channel._unsent
        assert not channel._unanswered
        await peer.resume()
        assert await send(transport, peer, b"next") == Outcome.delivered()
        assert len(peer.messages) < 60  # of 200


async def test_nothing_is_left_of_failures(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    nobody = [f"tcp://127.0.0.1:{free_port()}", f"ipc://{tmp_path}/none"]
    async with ZmqPeer() as peer, opened(reconnect_ms=1, sockets_max=2) as transport:
        for turn in range(30):
            tasks = [asyncio.create_task(send(transport, uri)) for uri in nobody]
            tasks += [asyncio.create_task(send(transport, peer)) for _ in range(3)]
            for _ in range(turn % 8):
                await asyncio.sleep(0)
            for task in tasks[:: 1 + turn % 3]:
                task.cancel()
            await asyncio.wait(tasks)
        await delivered_in_the_end(transport, peer)
        assert sockets(transport) == 1
        assert transport._links is not None
        assert len(transport._links._links) == 1
        assert len(transport._links._failed) <= 2
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1  # one that resolves names


# Failures


@pytest.mark.parametrize("method", ["push", "request"])
async def test_nobody_there_is_told_at_once(method: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    uris = (
        f"tcp://127.0.0.1:{free_port()}",
        f"tcp://[::1]:{free_port()}",
        f"ipc://{tmp_path}/none",
        f"ipc://{tmp_path}/file",
        f"ipc://{tmp_path}/none/none",
    )
    async with opened() as transport, asyncio.timeout(5):
        for uri in uris:
            for _ in range(2):
                many = (send(transport, uri, method=method) for _ in range(100))
                assert set(await asyncio.gather(*many)) == {Outcome.retry(NOBODY)}
        assert sockets(transport) == 0


async def test_after_a_failure_there_is_a_pause() -> None:
    async with ZmqPeer() as peer:
        await peer.kill()
        async with opened(reconnect_ms=60_000) as transport:
            assert await send(transport, peer) == Outcome.retry(NOBODY)
            await peer.start()
            assert await send(transport, peer) == Outcome.retry(NOBODY)
        async with opened(reconnect_ms=1) as transport:
            await peer.kill()
            assert await send(transport, peer) == Outcome.retry(NOBODY)
            await peer.start()
            await delivered_in_the_end(transport, peer)


async def test_host_names() -> None:
    async with ZmqPeer() as peer, opened() as transport:
        uri = peer.endpoint.replace("127.0.0.1", "localhost")
        assert await send(transport, uri) == Outcome.delivered()
        got = await send(transport, "tcp://nobody.invalid:7000")
        assert got.kind == "retry"
        assert got.reason.startswith("host name not resolved")


async def test_ipv6() -> None:
    async with (
        ZmqPeer(
            endpoint=f"tcp://[::1]:{free_port()}", set_up=lambda made: setattr(made, "ipv6", 1)
        ) as peer,
        opened() as transport,
    ):
        assert await send(transport, peer) == Outcome.delivered()


@pytest.mark.parametrize(("method", "kind"), [("push", "rep"), ("request", "pull")])
async def test_a_socket_that_does_not_fit(method: str, kind: str) -> None:
    async with ZmqPeer(kind) as peer, opened() as transport, asyncio.timeout(5):
        got = await send(transport, peer.endpoint, method=method)
        assert got.kind == "retry"
        fitting = "PULL" if method == "push" else "REP or ROUTER"
        assert f"is a {fitting} socket there" in got.reason


async def test_a_server_of_another_protocol() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP, and what do you want\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    # By its first byte ZeroMQ takes it for a receiver of 2010, which shakes no hands.
    async with opened(connect_timeout_ms=100) as transport, asyncio.timeout(5):
        got = await send(transport, f"tcp://127.0.0.1:{port}")
        assert got == Outcome.retry("no connection within 100 ms")
    server.close()
    await server.wait_closed()


async def test_a_server_that_says_nothing() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        uri = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        async with opened(connect_timeout_ms=50) as transport:
            for method in ("push", "request"):
                got = await send(transport, uri, method=method)
                assert got == Outcome.retry("no connection within 50 ms")
            assert sockets(transport) == 0


async def test_a_receiver_that_does_not_live_any_more_is_given_up(tmp_path: Path) -> None:
    async with ZmqProcess("rep", tmp_path / "got") as peer, opened(heartbeat_ms=50) as transport:
        assert await send(transport, peer) == Outcome.delivered()
        os.kill(peer.pid, signal.SIGSTOP)
        async with asyncio.timeout(10):
            assert await send(transport, peer) == Outcome.retry(CLOSED)


def test_a_connection_to_oneself_is_known() -> None:
    """As the system can make them on one machine."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", free_port()))
        made.connect(made.getsockname())
        assert _is_connected_to_itself(made.fileno())
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as made:
            assert not _is_connected_to_itself(made.fileno())
            descriptor = made.fileno()
        assert not _is_connected_to_itself(descriptor)
    one, other = socket.socketpair()
    with one, other:
        assert not _is_connected_to_itself(one.fileno())


async def test_a_connection_to_oneself_is_none() -> None:
    port = free_port()
    context: Context = zmq.Context()
    closed: list[Channel] = []
    options = SocketOptions(1, 1024, 5_000, 0, 0, None)
    channel = Channel(context, "request", options, closed.append)
    with pytest.raises(Broken, match="nobody listens there"):
        await channel.connect(f"tcp://127.0.0.1:{port};127.0.0.1:{port}")  # from here to there
    assert closed == [channel]
    context.term()
