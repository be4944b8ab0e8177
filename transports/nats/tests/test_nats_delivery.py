"""Messages as they come to receivers and streams, and what the transport makes of the replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import DiscardPolicy, StreamConfig

from nats_peer import STREAM, SUBJECT, NatsPeer, StreamPeer, deliver, opened
from skyring.testing.nats_server import NatsServer
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring_nats import Nats

MAX_PAYLOAD = 20_000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path, f"max_payload: {MAX_PAYLOAD}")
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
async def peer(server: NatsServer) -> AsyncIterator[NatsPeer]:
    async with NatsPeer(server) as peer:
        yield peer


@pytest.fixture
async def stream(server: NatsServer) -> AsyncIterator[StreamPeer]:
    async with StreamPeer(server) as peer:
        yield peer


@pytest.fixture
async def nats(server: NatsServer, request: pytest.FixtureRequest) -> AsyncIterator[Nats]:
    name = "stream" if "stream" in request.fixturenames else "peer"
    request.getfixturevalue(name)
    async with opened(server.url) as transport:
        yield transport


# Receivers


async def test_a_message_as_it_comes(peer: NatsPeer, nats: Nats) -> None:
    headers = {"authorization": "Bearer s3cret", "X-y": "ä b"}
    outcome = await deliver(
        nats,
        "request",
        payload=b'{"a":1}',
        headers=headers,
        id="order-17",
        attempt=3,
        due_ms=1_700_000_000_000,
        started_ms=1_700_000_001_000,
        content_type="application/json",
    )
    assert outcome == Outcome.delivered()
    (message,) = peer.messages
    assert (message.subject, message.data) == (SUBJECT, b'{"a":1}')
    assert message.headers == {
        "webhook-id": "order-17",
        "webhook-timestamp": "1700000001",
        "webhook-attempt": "3",
        "webhook-due": "1700000000000",
        "content-type": "application/json",
        **headers,
    }


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"ok", Outcome.delivered()),
        (b"", Outcome.retry("the receiver gave no answer")),
        (b"retry busy", Outcome.retry("busy")),
        (b"reject no", Outcome.rejected("no")),
        (b"{}", Outcome.retry("the receiver answered neither ok, retry nor reject: '{}'")),
    ],
)
async def test_answers_of_a_receiver(
    peer: NatsPeer, nats: Nats, answer: bytes, outcome: Outcome
) -> None:
    peer.answer = answer
    assert await deliver(nats, "request") == outcome


async def test_nobody_listens(peer: NatsPeer, nats: Nats) -> None:
    outcome = await deliver(nats, "request", "nobody.here")
    assert outcome == Outcome.retry("nobody listens on the subject (no responders)")
    # A message without receivers is taken by the server, and gone: that is what publish means.
    assert await deliver(nats, "publish", "nobody.here") == Outcome.delivered()


async def test_the_largest_message(peer: NatsPeer, nats: Nats) -> None:
    headers = {"webhook-id": "t", "webhook-timestamp": "1", "webhook-attempt": "1"}
    headers["webhook-due"] = "1700000000000"
    overhead = len("NATS/1.0\r\n\r\n") + sum(len(f"{k}: {v}\r\n") for k, v in headers.items())
    facts: dict[str, Any] = {"id": "t", "started_ms": 1_000, "due_ms": 1_700_000_000_000}
    room = MAX_PAYLOAD - overhead
    for method in ("publish", "request"):
        fits = await deliver(nats, method, payload=b"x" * room, **facts)
        assert fits == Outcome.delivered()
        larger = await deliver(nats, method, payload=b"x" * (room + 1), **facts)
        assert larger.kind == "rejected"
        assert "20001 bytes" in larger.reason
        assert "max_payload 20000" in larger.reason


async def test_what_came_past_the_check_is_rejected(peer: NatsPeer, nats: Nats) -> None:
    for callback in (
        Callback(transport="nats", method="publish", uri="a b"),
        Callback(transport="nats", method="post", uri="a"),
        Callback(transport="nats", method="publish", uri="a", headers={"a": "s3cret\r\n"}),
        Callback(transport="nats", method="publish", uri="a", headers={"a": "\ud800s3cret"}),
    ):
        info = DeliveryInfo("t", 1, 0, 0, 1_000, None)
        outcome = await nats.deliver(callback, b"", info)
        assert outcome.kind == "rejected"
        assert "s3cret" not in outcome.reason
    assert await deliver(nats) == Outcome.delivered()


async def test_no_more_than_in_flight_max_at_once(peer: NatsPeer, server: NatsServer) -> None:
    peer.answers = False
    async with opened(server.url, in_flight_max=2) as nats:
        tasks = [asyncio.create_task(deliver(nats, "request")) for _ in range(3)]
        await peer.wait(lambda received: len(received) >= 2)
        assert await deliver(nats, "request", timeout_ms=50) == Outcome.retry(
            "time-out after 50 ms"
        )
        assert len(peer.messages) == 2
        await peer.messages[0].respond(b"ok")
        await peer.wait(lambda received: len(received) >= 3)
        for message in peer.messages[1:]:
            await message.respond(b"ok")
        assert await asyncio.gather(*tasks) == [Outcome.delivered()] * 3


async def test_only_the_first_reply_counts(peer: NatsPeer, nats: Nats) -> None:
    peer.answers = False
    task = asyncio.create_task(deliver(nats, "request"))
    await peer.wait(lambda received: len(received) == 1)
    for answer in (b"ok", b"reject", b"reject"):
        await peer.messages[0].respond(answer)
    assert await task == Outcome.delivered()
    peer.answers = True
    assert await deliver(nats, "request") == Outcome.delivered()


async def test_closing_waits_for_a_reply(peer: NatsPeer, server: NatsServer) -> None:
    peer.answers = False
    async with opened(server.url) as nats:
        task = asyncio.create_task(deliver(nats, "request"))
        await peer.wait(lambda received: len(received) == 1)
        closing = asyncio.create_task(nats.close())
        await peer.messages[0].respond(b"ok")
        assert await task == Outcome.delivered()
        await closing
        assert await deliver(nats) == Outcome.retry("the nats transport is closed")


async def test_closing_that_is_cut_off_fails_what_is_under_way(
    peer: NatsPeer, server: NatsServer
) -> None:
    peer.answers = False
    async with opened(server.url) as nats:
        task = asyncio.create_task(deliver(nats, "request"))
        await peer.wait(lambda received: len(received) == 1)
        closing = asyncio.create_task(nats.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert await task == Outcome.retry("the connection to NATS was lost: this node is stopping")


# Streams


async def test_two_attempts_of_a_timer_are_stored_once(stream: StreamPeer, nats: Nats) -> None:
    for attempt in (1, 2):
        outcome = await deliver(nats, "jetstream", id="order-17", due_ms=1_000, attempt=attempt)
        assert outcome == Outcome.delivered()
    # The id was used again after its delivery: another timer.
    assert await deliver(nats, "jetstream", id="order-17", due_ms=2_000) == Outcome.delivered()
    await stream.wait(lambda received: len(received) >= 2)
    stored = [(message.headers or {})["Nats-Msg-Id"] for message in stream.messages]
    assert stored == ["order-17.1000", "order-17.2000"]


async def test_no_stream(stream: StreamPeer, nats: Nats) -> None:
    outcome = await deliver(nats, "jetstream", "no.stream")
    assert outcome == Outcome.retry("no stream takes this subject")


async def test_a_listener_is_no_stream(peer: NatsPeer, nats: Nats) -> None:
    outcome = await deliver(nats, "jetstream")
    assert outcome == Outcome.retry("the reply is no acknowledgement of a stream")


async def test_the_expected_stream(stream: StreamPeer, server: NatsServer) -> None:
    async with opened(server.url, expected_stream=STREAM) as nats:
        assert await deliver(nats, "jetstream") == Outcome.delivered()
    async with opened(server.url, expected_stream="OTHER") as nats:
        outcome = await deliver(nats, "jetstream")
        assert outcome == Outcome.retry("JetStream: expected stream does not match (10060)")


async def test_limits_of_a_stream(stream: StreamPeer, nats: Nats) -> None:
    assert stream.consumer is not None
    config = StreamConfig(
        name="SMALL", subjects=["small"], max_msg_size=300, max_msgs=1, discard=DiscardPolicy.NEW
    )
    await stream.consumer.jetstream().add_stream(config)
    outcome = await deliver(nats, "jetstream", "small", b"x" * 300)
    assert outcome == Outcome.rejected("JetStream: message size exceeds maximum allowed (10054)")
    assert await deliver(nats, "jetstream", "small", due_ms=1) == Outcome.delivered()
    outcome = await deliver(nats, "jetstream", "small", due_ms=2)
    assert outcome == Outcome.retry("JetStream: maximum messages exceeded (10077)")
