"""The tcp transport: its connections and their bounds, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from skyring.ports import free_port
from skyring.transports import Outcome
from skyring_tcp.connection import Broken, Connection
from skyring_tcp.rules import LengthFraming
from tcp_peer import (
    TcpPeer,
    drained,
    opened,
    packed,
    send,
)


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
