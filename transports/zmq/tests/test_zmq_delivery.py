"""The zmq transport: replies, connections and their bounds, failures, keys, the end."""

from __future__ import annotations

import asyncio
import json

import pytest
import zmq
import zmq.asyncio
import zmq.auth.asyncio

from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring_zmq import Zmq
from zmq_peer import (
    CLOSED,
    DUE_MS,
    NOBODY,
    ZmqPeer,
    opened,
    quiet,
    send,
    small,
    sockets,
    until,
)

# Replies


@pytest.mark.parametrize("kind", ["rep", "router"])
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"ok", Outcome.delivered()),
        (b"", Outcome.retry("the receiver gave no answer")),
        (b" OK\n", Outcome.delivered()),
        (b"retry too busy", Outcome.retry("too busy")),
        (b"reject gone", Outcome.rejected("gone")),
        (b"okay", None),
        (b"\xff\x00", None),
        (b"o" * 1025, Outcome.retry("the answer is longer than 1024 bytes")),
        (b"o" * 100_000, Outcome.retry(CLOSED)),
    ],
)
async def test_replies(kind: str, answer: bytes, outcome: Outcome | None) -> None:
    async with ZmqPeer(kind, answer=lambda _: answer) as peer, opened() as transport:
        got = await send(transport, peer)
        if outcome is None:
            assert got.kind == "retry"
            assert got.reason.startswith("the receiver answered neither ok, retry nor reject")
        else:
            assert got == outcome


@pytest.mark.parametrize(
    "frames", [[], [b"ok"], [b"", b"ok", b""], [b"ok", b""], [b"", b"", b"ok"], [b"x", b"ok"]]
)
async def test_replies_of_another_form_are_none(frames: list[bytes]) -> None:
    async with ZmqPeer("router", answer=lambda _: frames) as peer, opened() as transport:
        got = await send(transport, peer)
        assert got == Outcome.retry("the reply is not of the form id, empty frame, answer")
        peer.answer = lambda _: b"ok"
        assert await send(transport, peer) == Outcome.delivered()
        assert sockets(transport) == 1


async def test_replies_in_any_order_find_their_requests() -> None:
    async with ZmqPeer("router", answer=quiet) as peer, opened() as transport:
        tasks = [asyncio.create_task(send(transport, peer, b"%d" % each)) for each in range(20)]
        await peer.wait_until(lambda: len(peer.messages) == 20)
        for route, message in reversed(list(zip(peer.routes, peer.messages, strict=True))):
            await peer.reply([route[0], b"unknown", b""], b"reject this is for nobody")
            await peer.reply(route, b"retry " + message)
            await peer.reply(route, b"reject once more")
        outcomes = await asyncio.gather(*tasks)
        assert [outcome.reason for outcome in outcomes] == [str(each) for each in range(20)]
        assert {route[0] for route in peer.routes} == {peer.routes[0][0]}, "one connection"


async def test_a_late_reply_is_taken_for_no_other() -> None:
    async with ZmqPeer("router", answer=quiet) as peer, opened() as transport:
        got = await send(transport, peer, b"slow", timeout_ms=50)
        assert got == Outcome.retry("time-out after 50 ms")
        cancelled = asyncio.create_task(send(transport, peer, b"cancelled"))
        await peer.wait_until(lambda: len(peer.messages) == 2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        later = asyncio.create_task(send(transport, peer, b"later"))
        await peer.wait_until(lambda: len(peer.messages) == 3)
        for route, answer in zip(peer.routes, (b"reject", b"reject", b"ok"), strict=True):
            await peer.reply(route, answer)
        assert await later == Outcome.delivered()
        assert sockets(transport) == 1


# The message


async def test_the_envelope() -> None:
    async with ZmqPeer(content="envelope") as peer, opened(content="envelope") as transport:
        callback = Callback("zmq", "request", peer.endpoint, headers={"authorization": "x"})
        info = DeliveryInfo("id-1", 2, DUE_MS, DUE_MS + 5, 20_000, "application/json")
        assert await transport.deliver(callback, b'{"a":1}', info) == Outcome.delivered()
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
    async with ZmqPeer() as peer:
        async with opened(message_bytes_max=10) as transport:
            assert await send(transport, peer, b"x" * 10) == Outcome.delivered()
            got = await send(transport, peer, b"x" * 11)
            assert got == Outcome.rejected(
                "the message has 11 bytes, more than message_bytes_max=10"
            )
            assert (await send(transport, "nonsense")).kind == "rejected"
            assert (await send(transport, peer.endpoint, method="pub")).kind == "rejected"
        async with opened(content="envelope") as transport:
            assert (await send(transport, peer, b"\xff")).kind == "rejected"


async def test_a_big_message() -> None:
    big = b"x" * (16 << 20)
    async with ZmqPeer() as peer, opened() as transport:
        assert await send(transport, peer, big) == Outcome.delivered()
        assert peer.messages == [big]


# Push


async def test_a_push_needs_room_and_a_receiver() -> None:
    big = b"x" * (4 << 20)
    async with ZmqPeer("pull", set_up=small) as peer, opened(send_queue_max=1) as transport:
        assert await send(transport, peer, b"first") == Outcome.delivered()
        await peer.pause()
        full = Outcome.retry("time-out after 100 ms")
        sent = []
        while full not in sent:
            sent.append(await send(transport, peer, big, timeout_ms=100))
            assert len(sent) < 50, "there is room for everything"
        waiting = asyncio.create_task(send(transport, peer, b"waits"))
        await asyncio.sleep(0)
        await peer.resume()
        assert await waiting == Outcome.delivered()
        await peer.wait_until(lambda: b"waits" in peer.messages)
        assert peer.messages.count(big) >= sent.count(Outcome.delivered())
        await peer.kill()
        await until(lambda: sockets(transport) == 0)
        assert await send(transport, peer) == Outcome.retry(NOBODY)


async def test_what_was_pushed_leaves_before_the_end() -> None:
    big = b"x" * (4 << 20)
    async with ZmqPeer("pull") as peer:
        async with opened(linger_ms=20_000) as transport:
            for _ in range(10):
                assert await send(transport, peer, big) == Outcome.delivered()
        await peer.wait_until(lambda: len(peer.messages) == 10)


async def test_the_end_does_not_wait_for_ever() -> None:
    big = b"x" * (4 << 20)
    async with ZmqPeer("pull") as peer:
        await peer.pause()
        async with asyncio.timeout(10), opened(linger_ms=50) as transport:
            for _ in range(10):
                assert await send(transport, peer, big) == Outcome.delivered()


# Keys


SERVER_PUBLIC, SERVER_SECRET = zmq.curve_keypair()
CLIENT_PUBLIC, CLIENT_SECRET = zmq.curve_keypair()


def secured(made: zmq.asyncio.Socket) -> None:
    made.curve_server = 1
    made.curve_secretkey = SERVER_SECRET


async def test_the_key_of_the_receiver_is_verified() -> None:
    async with ZmqPeer(set_up=secured) as peer:
        async with opened(server_key=SERVER_PUBLIC.decode()) as transport:
            assert await send(transport, peer) == Outcome.delivered()
        async with (
            opened(server_key=CLIENT_PUBLIC.decode(), connect_timeout_ms=200) as transport,
            asyncio.timeout(5),
        ):
            assert (await send(transport, peer)).kind == "retry"
        async with opened() as transport, asyncio.timeout(5):
            assert "same security" in (await send(transport, peer)).reason
    async with ZmqPeer() as peer, opened(server_key=SERVER_PUBLIC.decode()) as transport:
        async with asyncio.timeout(5):
            assert "same security" in (await send(transport, peer)).reason
    assert peer.messages == []


@pytest.mark.parametrize("is_known", [True, False])
async def test_the_key_of_the_node_is_shown_to_the_receiver(is_known: bool) -> None:
    options = {
        "server_key": SERVER_PUBLIC.decode(),
        "public_key": CLIENT_PUBLIC.decode(),
        "secret_key": CLIENT_SECRET.decode(),
    }
    async with ZmqPeer() as peer, opened(**options) as transport, asyncio.timeout(10):
        await peer.kill()
        known: list[bytes] = []

        class Keys:
            def callback(self, domain: str, key: bytes) -> bool:
                known.append(key)
                return is_known

        peer._set_up = secured
        await peer.start()
        door = zmq.auth.asyncio.AsyncioAuthenticator(peer._context)
        door.start()
        try:
            door.configure_curve_callback("*", Keys())
            got = await send(transport, peer)
        finally:
            door.stop()
        assert CLIENT_SECRET.decode() not in got.reason
        if is_known:
            assert got == Outcome.delivered()
        else:
            assert got == Outcome.retry("the receiver does not accept the key: 400")


# The end


async def test_close_waits_for_the_deliveries_under_way() -> None:
    async with ZmqPeer() as peer, opened() as transport:
        await peer.pause()
        under_way = asyncio.create_task(send(transport, peer))
        await asyncio.sleep(0)
        closing = asyncio.create_task(transport.close())
        await asyncio.wait([closing], timeout=0.05)
        assert not closing.done()
        assert await send(transport, peer) == Outcome.retry("the zmq transport is closed")
        await peer.resume()
        await closing
        assert await under_way == Outcome.delivered()


async def test_a_close_that_is_cancelled_cuts_off() -> None:
    async with ZmqPeer() as peer, ZmqPeer() as other, opened(sockets_max=1) as transport:
        await peer.pause()
        tasks = [asyncio.create_task(send(transport, peer)) for _ in range(3)]
        tasks.append(asyncio.create_task(send(transport, other)))  # it waits for a socket
        await asyncio.wait(tasks, timeout=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await transport.close()
        assert {outcome.kind for outcome in await asyncio.gather(*tasks)} == {"retry"}


async def test_without_open_nothing_is_delivered() -> None:
    transport = Zmq()
    got = await send(transport, "tcp://127.0.0.1:1")
    assert got == Outcome.retry("the zmq transport is closed")
    await transport.close()
    await transport.close()
