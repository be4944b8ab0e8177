"""A queue of a real broker, and a consumer that empties it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from yarl import URL

from amqp_broker import PASSWORD, RabbitMq
from skyring.testing import Peer, pause_process, resume_process
from skyring.timers.attempt import Attempts
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring_amqp import Amqp

__all__ = ["Consumer", "bound", "deliver", "name", "opened", "turns", "until", "until_delivered"]

WAIT_S_MAX = 60
POLL_S = 0.01


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[Amqp]:
    """A transport with these options, open; short pauses unless said otherwise."""
    given = {"url": url, "password": PASSWORD, "reconnect_pause_ms": 50, **options}
    transport = Amqp(Amqp.Options.model_validate(given))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def deliver(
    transport: Amqp,
    uri: str,
    payload: bytes = b"hello",
    headers: dict[str, str] | None = None,
    **facts: Any,
) -> Outcome:
    """One attempt, as a node makes it."""
    callback = Callback(transport="amqp", method="publish", uri=uri, headers=headers or {})
    usual = {"id": uuid4().hex, "attempt": 1, "due_ms": 1_000, "started_ms": 2_000}
    usual |= {"timeout_ms": 20_000, "content_type": "text/plain"}
    return await Attempts().attempt(
        transport, callback, payload, DeliveryInfo(**{**usual, **facts})
    )


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Until it is true, which nobody is told of."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not await reached():
            await asyncio.sleep(POLL_S)


async def turns(count: int) -> None:
    """Let everything that waits for nothing outside this process get on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until_delivered(transport: Amqp, uri: str, payload: bytes = b"again") -> list[str]:
    """Deliver until it is taken, and return why it was not before."""
    reasons = []
    async with asyncio.timeout(WAIT_S_MAX):
        while (outcome := await deliver(transport, uri, payload)) != Outcome.delivered():
            assert outcome.kind == "retry"
            reasons.append(outcome.reason)
            await asyncio.sleep(POLL_S)
    return reasons


class Consumer(Peer):
    """A durable queue with a name of its own, whose messages are consumed and acknowledged.

    Args:
        exchange: a durable exchange of this name is made as well, and leads to the queue.
    """

    def __init__(self, broker: RabbitMq, exchange: str = "") -> None:
        self.broker = broker
        self.queue = f"queue-{uuid4().hex}"
        self.exchange = exchange
        self.messages: list[DeliveredMessage] = []
        self._connection: aiormq.Connection | None = None
        self._channel: AbstractChannel | None = None

    @property
    def uri(self) -> str:
        return f"{self.exchange}/{self.queue}" if self.exchange else self.queue

    @property
    def callback(self) -> Callback:
        return Callback(transport="amqp", method="publish", uri=self.uri)

    @property
    def channel(self) -> AbstractChannel:
        assert self._channel is not None
        return self._channel

    async def start(self) -> None:
        await asyncio.to_thread(self.broker.start)
        url = URL(self.broker.url)
        self._connection = aiormq.Connection(url.with_user("guest").with_password(PASSWORD))
        await self._connection.connect()
        self._channel = await self._connection.channel()
        await self._channel.basic_qos(prefetch_count=1_000)
        await self._channel.queue_declare(self.queue, durable=True)
        if self.exchange:
            await self._channel.exchange_declare(self.exchange, durable=True)
            await self._channel.queue_bind(self.queue, self.exchange, self.queue)
        await self._channel.basic_consume(self.queue, self._take)

    async def kill(self) -> None:
        await asyncio.to_thread(self.broker.kill)
        await self._disconnect()

    async def pause(self) -> None:
        await pause_process(self.broker.pid)

    async def resume(self) -> None:
        resume_process(self.broker.pid)

    async def received(self) -> Sequence[bytes]:
        return [message.body for message in self.messages]

    async def close(self) -> None:
        """The broker stays, for the next test."""
        if self.broker.is_up:
            resume_process(self.broker.pid)
        await self._disconnect()

    async def _take(self, message: DeliveredMessage) -> None:
        self.messages.append(message)
        assert message.delivery_tag is not None
        with suppress(aiormq.AMQPError, aiormq.ChannelInvalidStateError):
            await message.channel.basic_ack(message.delivery_tag, wait=False)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def name() -> str:
    """One that no other test has."""
    return f"name-{uuid4().hex}"


async def bound(consumer: Consumer, kind: str, routing_key: str, exchange: str = "") -> str:
    """An exchange that leads to the queue of a consumer; returns its name."""
    exchange = exchange or name()
    await consumer.channel.exchange_declare(exchange, exchange_type=kind)
    await consumer.channel.queue_bind(consumer.queue, exchange, routing_key)
    return exchange
