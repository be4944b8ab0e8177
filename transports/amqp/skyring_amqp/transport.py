"""The transport: options, checks, and the way of a delivery."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from pathlib import Path

from pydantic import Field, SecretStr

from skyring.transports import (
    Callback,
    DeliveryInfo,
    InvalidRequest,
    Outcome,
    Transport,
    client_tls,
)
from skyring_amqp.broker import Broker
from skyring_amqp.link import Limits
from skyring_amqp.rules import METHOD, check_headers, properties_of, read_target
from skyring_amqp.server import Server, read_url

__all__ = ["Amqp"]

TARGETS_MAX = 4096
"""URIs whose meaning is remembered."""
UNSENDABLE = Outcome.rejected("the callback cannot be sent as it is")
"""For callbacks that came past `Amqp.check`. It quotes nothing: a header may be secret."""


class Amqp(Transport):
    """Publishes a timer as a persistent message; the broker's confirm takes it."""

    name = "amqp"

    class Options(Transport.Options):
        """Options of the transport."""

        url: str = Field(
            default="amqp://127.0.0.1:5672/",
            description="the broker: amqp://host:port/vhost, or amqps:// for TLS; without"
            " credentials",
        )
        user: str = Field(default="guest", min_length=1, description="user of the broker")
        password: SecretStr = Field(
            default=SecretStr("guest"), min_length=1, description="password of the user"
        )
        ca_file: Path | None = Field(
            default=None,
            description="certificates (PEM) that a broker with TLS is verified by, instead of"
            " those of the machine",
        )
        channels_max: int = Field(
            default=64,
            ge=1,
            le=1_000,
            description="open channels, one for each exchange that is in use",
        )
        in_flight_max: int = Field(
            default=4_096,
            ge=1,
            le=1_000_000,
            description="deliveries under way, and messages that the broker has not confirmed;"
            " further ones are told to try again",
        )
        message_bytes_max: int = Field(
            default=16 << 20,
            ge=1,
            le=512 << 20,
            description="longest payload; it must not be more than the broker takes",
        )
        connect_timeout_ms: int = Field(
            default=5_000, ge=1, le=300_000, description="time allowed to connect and log in"
        )
        heartbeat_s: int = Field(
            default=10,
            ge=1,
            le=600,
            description="a connection on which nothing has come for some three times this long is"
            " given up",
        )
        reconnect_pause_ms: int = Field(
            default=500,
            ge=10,
            le=60_000,
            description="after a failure: time until the next attempt to connect",
        )

    options: Options

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._broker: Broker | None = None
        self._target = lru_cache(TARGETS_MAX)(read_target)

    async def open(self) -> None:
        """Begin to connect; that the broker is away is only logged.

        Raises:
            ConfigError: the address is malformed or holds credentials, or the file of
                certificates cannot be read.
        """
        options = self.options
        address = read_url(options.url)
        uses_tls = address.scheme == "amqps"
        # Reading the machine's certificates takes some 20 ms.
        tls = (
            await asyncio.to_thread(client_tls, options.ca_file, "transport.amqp.ca_file")
            if uses_tls
            else None
        )
        password = options.password.get_secret_value()
        server = Server(address, options.user, password, options.heartbeat_s, tls)
        limits = Limits(
            channels_max=options.channels_max,
            in_flight_max=options.in_flight_max,
            connect_timeout_s=options.connect_timeout_ms / 1000,
            pause_s=options.reconnect_pause_ms / 1000,
        )
        self._broker = Broker(server, limits)
        self._broker.begin()

    def check(self, callback: Callback) -> None:
        """Refuse a callback that could not be published.

        Raises:
            InvalidRequest: naming ``callback.method``, ``callback.uri`` or ``callback.headers``.
        """
        if callback.method.lower() != METHOD:
            raise InvalidRequest(f"must be {METHOD}", "callback.method")
        self._target(callback.uri)
        if callback.headers:
            check_headers(callback.headers)

    def destination(self, callback: Callback) -> str:
        """The queue as ``amqp:queue``, or the exchange as ``amqp:exchange/``.

        Raises:
            InvalidRequest: naming ``callback.uri``.
        """
        target = self._target(callback.uri)
        return f"amqp:{target.exchange}/" if target.exchange else f"amqp:{target.routing_key}"

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        """Publish one message, and say what the broker answers."""
        broker = self._broker
        if broker is None:
            return Outcome.retry("the amqp transport is closed")
        size_bytes_max = self.options.message_bytes_max
        if len(payload) > size_bytes_max:
            return Outcome.rejected(
                f"the payload has {len(payload)} bytes, and {size_bytes_max} are allowed"
            )
        try:
            target = self._target(callback.uri)
        except InvalidRequest:
            return UNSENDABLE
        return await broker.publish(target, payload, properties_of(callback, info))

    async def close(self) -> None:
        """Wait for the deliveries under way, each of which has its time-out, then disconnect.

        If the wait is cancelled, they are cut off.
        """
        broker, self._broker = self._broker, None
        if broker is not None:
            await broker.close()
