"""The other end: a real nats-server with a real consumer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig

from skyring.nats import Connection, Server
from skyring.testing import Peer
from skyring.testing.nats_server import NatsServer
from skyring.timers.attempt import Attempts
from skyring.transports import Callback, DeliveryInfo, Outcome, Transport
from skyring_nats import Nats

WAIT_S_MAX = 20
POLL_S = 0.01
SUBJECT = "orders.created"
STREAM = "ORDERS"


async def deliver(
    transport: Transport,
    method: str = "publish",
    uri: str = SUBJECT,
    payload: bytes = b"x",
    *,
    timeout_ms: int = 20_000,
    headers: Mapping[str, str] | None = None,
    **facts: Any,
) -> Outcome:
    """Deliver as a node does."""
    now_ms = int(time.time() * 1000)
    info: dict[str, Any] = {
        "id": "timer",
        "attempt": 1,
        "due_ms": now_ms,
        "started_ms": now_ms,
        "content_type": None,
        **facts,
    }
    callback = Callback(transport="nats", method=method, uri=uri, headers=dict(headers or {}))
    return await Attempts().attempt(
        transport, callback, payload, DeliveryInfo(timeout_ms=timeout_ms, **info)
    )


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[Nats]:
    """The transport with these options."""
    transport = Nats(Nats.Options.model_validate({"servers": url, **options}))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def delivered_in_the_end(transport: Transport, **delivery: Any) -> None:
    """As soon as there is a connection."""

    async def is_delivered() -> bool:
        return await deliver(transport, **delivery) == Outcome.delivered()

    await until(is_delivered)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """For what nobody tells when it is so.

    Raises:
        TimeoutError: it never is.
    """
    async with asyncio.timeout(WAIT_S_MAX):
        while not await condition():
            await asyncio.sleep(POLL_S)


class NatsPeer(Peer):
    """A server, and a consumer that answers requests with ok."""

    method = "request"

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.answer = b"ok"
        self.answers = True
        self.messages: list[Msg] = []
        self.consumer: Connection | None = None

    @property
    def callback(self) -> Callback:
        return Callback(transport="nats", method=self.method, uri=SUBJECT)

    async def start(self) -> None:
        await self.server.start()
        # nats-py's own client would not end when its server is killed.
        self.consumer = Connection(Server(self.server.url, needs_tls=False))
        await self.consumer.establish({})
        await self.consume(self.consumer)
        await self.consumer.ping()

    async def consume(self, consumer: Connection) -> None:
        await consumer.subscribe(SUBJECT, cb=self.take)

    async def take(self, msg: Msg) -> None:
        self.messages.append(msg)
        if msg.reply and self.answers:
            await msg.respond(self.answer)

    async def kill(self) -> None:
        self.server.kill()
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            await consumer.dispose()

    async def pause(self) -> None:
        await self.server.pause()

    async def resume(self) -> None:
        self.server.resume()

    async def received(self) -> Sequence[bytes]:
        return [msg.data for msg in self.messages]


class PublishPeer(NatsPeer):
    """A server, and a consumer that only listens."""

    method = "publish"


class StreamPeer(NatsPeer):
    """A server with a stream on disk; received is what it has stored."""

    method = "jetstream"

    async def consume(self, consumer: Connection) -> None:
        jetstream = consumer.jetstream()
        await jetstream.add_stream(StreamConfig(name=STREAM, subjects=[SUBJECT]))
        inbox = consumer.new_inbox()
        await consumer.subscribe(inbox, cb=self.take_stored)
        await jetstream.add_consumer(
            STREAM,
            ConsumerConfig(
                deliver_subject=inbox,
                ack_policy=AckPolicy.NONE,
                mem_storage=True,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=len(self.messages) + 1,
            ),
        )

    async def take_stored(self, msg: Msg) -> None:
        assert msg.metadata.sequence.stream == len(self.messages) + 1, "none is left out"
        self.messages.append(msg)
