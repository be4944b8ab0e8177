"""The transport: options, checks, and the way of a delivery."""

from __future__ import annotations

import asyncio
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
from skyring_redis.rules import METHOD, check_headers, check_key, xadd
from skyring_redis.sender import Limits, Sender
from skyring_redis.server import Server, read_url

__all__ = ["Redis"]

UNSENDABLE = Outcome.rejected("the callback cannot be sent as it is")
"""For callbacks that came past `Redis.check`. It quotes nothing: a header may be secret."""


class Redis(Transport):
    """Delivers a timer as an entry of a Redis stream; the answer to ``XADD`` takes it."""

    name = "redis"

    class Options(Transport.Options):
        """Options of the transport."""

        url: str = Field(
            default="redis://127.0.0.1:6379/0",
            description="the server: redis://host:port/db, rediss://host:port/db (TLS) or"
            " unix:///path?db=0; without credentials",
        )
        username: str | None = Field(default=None, min_length=1, description="user of an ACL")
        password: SecretStr | None = Field(
            default=None, min_length=1, description="password of the user, or of the server"
        )
        ca_file: Path | None = Field(
            default=None,
            description="certificates (PEM) that a server with TLS is verified by, instead of"
            " those of the machine",
        )
        connections_max: int = Field(default=2, ge=1, le=1_000, description="open connections")
        batch_max: int = Field(
            default=128,
            ge=1,
            le=10_000,
            description="entries sent together over one connection, before their answers are read",
        )
        in_flight_max: int = Field(
            default=4_096,
            ge=1,
            le=1_000_000,
            description="deliveries under way; further ones are told to try again",
        )
        connect_timeout_ms: int = Field(
            default=5_000, ge=1, le=300_000, description="time allowed to connect and log in"
        )
        answer_timeout_ms: int = Field(
            default=10_000,
            ge=1,
            le=300_000,
            description="a connection whose answers stay out for so long is given up",
        )
        reconnect_pause_ms: int = Field(
            default=500,
            ge=10,
            le=60_000,
            description="after a failure: time until the next attempt to connect",
        )
        maxlen: int = Field(
            default=0,
            ge=0,
            le=2**62,
            description="trim each stream to about so many entries (MAXLEN ~); 0 trims nothing",
        )

    options: Options

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._sender: Sender | None = None

    async def open(self) -> None:
        """Begin to connect; that the server is away is only logged.

        Raises:
            ConfigError: the address is malformed or holds credentials, or the file of
                certificates cannot be read.
        """
        options = self.options
        address = read_url(options.url)
        # Reading the machine's certificates takes some 20 ms.
        tls = (
            await asyncio.to_thread(client_tls, options.ca_file, "transport.redis.ca_file")
            if address.tls
            else None
        )
        password = None if options.password is None else options.password.get_secret_value()
        limits = Limits(
            connections_max=options.connections_max,
            batch_max=options.batch_max,
            in_flight_max=options.in_flight_max,
            connect_timeout_s=options.connect_timeout_ms / 1000,
            answer_timeout_s=options.answer_timeout_ms / 1000,
            pause_s=options.reconnect_pause_ms / 1000,
        )
        self._sender = Sender(Server(address, options.username, password, tls), limits)
        self._sender.begin()

    def check(self, callback: Callback) -> None:
        """Refuse a callback that could not become an entry.

        Raises:
            InvalidRequest: naming ``callback.method``, ``callback.uri`` or ``callback.headers``.
        """
        if callback.method.lower() != METHOD:
            raise InvalidRequest(f"must be {METHOD}", "callback.method")
        check_key(callback.uri)
        if callback.headers:
            check_headers(callback.headers)

    def destination(self, callback: Callback) -> str:
        """The stream, as ``redis:key``."""
        return f"redis:{callback.uri}"

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        """Add one entry, and say what the answer means."""
        sender = self._sender
        if sender is None:
            return Outcome.retry("the redis transport is closed")
        try:
            command = xadd(callback, payload, info, self.options.maxlen)
        except ValueError:
            return UNSENDABLE
        return await sender.send(command)

    async def close(self) -> None:
        """Wait for the deliveries under way, each of which has its time-out, then disconnect.

        If the wait is cancelled, they are cut off.
        """
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.close()
