"""The transport: a callback becomes a message, and the answer to it an outcome."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Literal

from pydantic import Field

from skyring.transports import (
    Callback,
    DeliveryInfo,
    InvalidRequest,
    Outcome,
    Transport,
    client_tls,
    envelope,
    outcome_of_answer,
)
from skyring_tcp.connection import Broken, Connection
from skyring_tcp.pool import Limits, Pool
from skyring_tcp.rules import (
    LengthFraming,
    NewlineFraming,
    check_method,
    read_target,
)

__all__ = ["Tcp"]

TARGETS_MAX = 4096
"""Addresses that are remembered as they were read."""
FRAMINGS = {"length": LengthFraming, "newline": NewlineFraming}


class Tcp(Transport):
    """Delivers a timer as one framed message; the receiver answers with one, in the same framing.

    A connection carries one delivery at a time and is kept for the next. What was given up, for
    its time or for anything else, takes its connection with it: so a late answer finds nobody.
    """

    name = "tcp"

    class Options(Transport.Options):
        """Options of the transport."""

        framing: Literal["length", "newline"] = Field(
            default="length",
            description="length: 4 bytes of length, big-endian, then the message;"
            " newline: the message, then a line feed",
        )
        content: Literal["payload", "envelope"] = Field(
            default="payload",
            description="payload: the data of the timer as they are;"
            " envelope: one JSON object with id, attempt, due, headers, type and data",
        )
        ack: Literal["required", "none"] = Field(
            default="required",
            description="required: delivered when the receiver answers ok;"
            " none: delivered when the system has taken the bytes",
        )
        message_bytes_max: int = Field(
            default=16 << 20, ge=1, le=0xFFFF_FFFF, description="longest message"
        )
        answer_bytes_max: int = Field(
            default=1024, ge=2, le=1 << 20, description="longest answer; a longer one is none"
        )
        connections_per_destination_max: int = Field(
            default=64, ge=1, description="connections to one receiver; further deliveries wait"
        )
        connections_max: int = Field(
            default=1024, ge=1, description="connections in all; further deliveries wait"
        )
        deliveries_max: int = Field(
            default=8192, ge=1, description="deliveries under way or waiting; more are put off"
        )
        connect_timeout_ms: int = Field(
            default=5_000, ge=1, le=600_000, description="time allowed to connect, TLS included"
        )
        idle_ms: int = Field(
            default=30_000, ge=1, description="how long an unused connection is kept"
        )
        ca_file: str | None = Field(
            default=None,
            description="PEM file of the certificates that tls:// trusts; none: the system's",
        )

    options: Options

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._read_target = lru_cache(TARGETS_MAX)(read_target)
        self._pool: Pool | None = None
        self._is_closing = False
        self._under_way = 0
        self._drained = asyncio.Event()
        self._drained.set()

    async def open(self) -> None:
        """Read the file of certificates; connections are made when they are needed.

        Raises:
            ConfigError: the file of certificates cannot be used.
        """
        options = self.options
        tls = None
        if options.ca_file is not None:
            tls = await asyncio.to_thread(client_tls, options.ca_file, "transport.tcp.ca_file")
        self._framing = FRAMINGS[options.framing](options.answer_bytes_max)
        limits = Limits(
            options.connections_max,
            options.connections_per_destination_max,
            options.connect_timeout_ms,
            options.idle_ms,
        )
        self._pool = Pool(limits, self._framing, tls, options.ack == "none")

    def check(self, callback: Callback) -> None:
        """Refuse a callback that could not be sent.

        Raises:
            InvalidRequest: naming ``callback.method``, ``callback.uri`` or ``callback.headers``.
        """
        check_method(callback.method)
        self._read_target(callback.uri)
        if callback.headers and self.options.content != "envelope":
            raise InvalidRequest(
                "cannot be carried; the option content=envelope of this transport can",
                "callback.headers",
            )

    def destination(self, callback: Callback) -> str:
        """Host and port, as ``tcp:host:port`` or ``tls:host:port``.

        Raises:
            InvalidRequest: naming ``callback.uri``.
        """
        return self._read_target(callback.uri).destination

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        """Send one message, and say what its answer means."""
        pool = self._pool
        if pool is None or self._is_closing:
            return Outcome.retry("the tcp transport is closed")
        if self._under_way >= self.options.deliveries_max:
            return Outcome.retry(f"{self._under_way} deliveries wait already")
        try:
            target = self._read_target(callback.uri)
            frame = self._frame(callback, payload, info)
        except (InvalidRequest, ValueError) as error:
            return Outcome.rejected(str(error))
        self._under_way += 1
        self._drained.clear()
        try:
            async with pool.connection(target) as connection:
                return await self._send(connection, frame)
        except Broken as error:
            return Outcome.retry(str(error))
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._drained.set()

    async def close(self) -> None:
        """Wait for the deliveries under way, each of which has its time-out, then disconnect.

        If the wait is cancelled, they are cut off.
        """
        self._is_closing = True
        try:
            await self._drained.wait()
        finally:
            if self._pool is not None:
                await self._pool.close()

    def _frame(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> bytes:
        message = payload
        if self.options.content == "envelope":
            message = envelope(callback, payload, info)
        if len(message) > self.options.message_bytes_max:
            raise ValueError(
                f"the message has {len(message)} bytes,"
                f" more than message_bytes_max={self.options.message_bytes_max}"
            )
        return self._framing.pack(message)

    async def _send(self, connection: Connection, frame: bytes) -> Outcome:
        if self.options.ack == "none":
            await connection.tell(frame)
            return Outcome.delivered()
        outcome = outcome_of_answer(await connection.ask(frame))
        if not connection.is_sent():
            connection.abort()
            if outcome.kind == "delivered":
                return Outcome.retry("the receiver answered before it had the whole message")
        return outcome
