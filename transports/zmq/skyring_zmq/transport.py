"""The transport: a callback becomes a message, and the reply to it an outcome."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Annotated, Literal, Self

import zmq
from pydantic import Field, SecretStr, StringConstraints, model_validator

from skyring.errors import ConfigError
from skyring.transports import (
    Callback,
    DeliveryInfo,
    InvalidRequest,
    Outcome,
    Transport,
    envelope,
    outcome_of_answer,
)
from skyring_zmq.channel import Broken, Context, Curve, SocketOptions, new_socket
from skyring_zmq.links import Limits, Links
from skyring_zmq.rules import method_of, read_target

__all__ = ["Zmq"]

TARGETS_MAX = 4096
"""Endpoints that are remembered as they were read."""
SOCKETS_EACH = 6
"""A channel has one socket and two for its monitor; as many again may still be ending."""
KEY_CHARS = 40

Key = Annotated[str, StringConstraints(min_length=KEY_CHARS, max_length=KEY_CHARS)]


class Zmq(Transport):
    """Delivers a timer as a ZeroMQ message to a socket that somebody has bound.

    ``push`` sends it to a PULL socket, which acknowledges nothing. ``request`` sends it to a REP or
    ROUTER socket and waits for the reply; many requests are under way on one connection.
    """

    name = "zmq"

    class Options(Transport.Options):
        """Options of the transport."""

        content: Literal["payload", "envelope"] = Field(
            default="payload",
            description="payload: the data of the timer as they are;"
            " envelope: one JSON object with id, attempt, due, headers, type and data",
        )
        message_bytes_max: int = Field(
            default=16 << 20, ge=1, le=1 << 30, description="longest message"
        )
        answer_bytes_max: int = Field(
            default=1024, ge=2, le=1 << 20, description="longest reply; a longer one is none"
        )
        send_queue_max: int = Field(
            default=100,
            ge=1,
            le=1_000_000,
            description="messages for one receiver that ZeroMQ holds; what is pushed into it counts"
            " as delivered",
        )
        deliveries_max: int = Field(
            default=8192, ge=1, description="deliveries under way or waiting; more are put off"
        )
        sockets_max: int = Field(
            default=256,
            ge=1,
            le=10_000,
            description="receivers that are connected at once; deliveries to further ones wait",
        )
        connect_timeout_ms: int = Field(
            default=5_000, ge=1, le=600_000, description="time allowed to connect and shake hands"
        )
        reconnect_ms: int = Field(
            default=100,
            ge=1,
            le=60_000,
            description="pause after a connection could not be made; deliveries fail meanwhile",
        )
        heartbeat_ms: int = Field(
            default=5_000,
            ge=0,
            le=600_000,
            description="a receiver that gives no sign of life for twice this time is given up;"
            " 0: never",
        )
        idle_ms: int = Field(
            default=60_000, ge=1, description="how long an unused connection is kept"
        )
        linger_ms: int = Field(
            default=1_000,
            ge=0,
            le=60_000,
            description="time that pushed messages have to leave when their connection is closed",
        )
        server_key: Key | None = Field(
            default=None, description="CURVE: public key of the receivers, in Z85; none: no CURVE"
        )
        public_key: Key | None = Field(
            default=None, description="CURVE: public key of this node; none: a new one each start"
        )
        secret_key: SecretStr | None = Field(
            default=None, description="CURVE: secret key that belongs to public_key"
        )

        @model_validator(mode="after")
        def _keys_belong_together(self) -> Self:
            if (self.public_key is None) != (self.secret_key is None):
                raise ValueError("public_key and secret_key are given together or not at all")
            if self.public_key is not None and self.server_key is None:
                raise ValueError("public_key needs server_key, the key of the receivers")
            return self

    options: Options

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._read_target = lru_cache(TARGETS_MAX)(read_target)
        self._context: Context | None = None
        self._links: Links | None = None
        self._is_closing = False
        self._under_way = 0
        self._drained = asyncio.Event()
        self._drained.set()

    async def open(self) -> None:
        """Check the keys; connections are made when they are needed.

        Raises:
            ConfigError: a key is none, or ZeroMQ was built without CURVE.
        """
        options = self.options
        socket_options = SocketOptions(
            options.send_queue_max,
            options.answer_bytes_max,
            options.connect_timeout_ms,
            options.heartbeat_ms,
            options.linger_ms,
            _curve(options),
        )
        context: Context = zmq.Context()
        context.set(zmq.MAX_SOCKETS, SOCKETS_EACH * options.sockets_max + SOCKETS_EACH)
        try:
            new_socket(context, "request", socket_options).close()
        except zmq.ZMQError as error:
            context.term()
            raise ConfigError(f"transport.zmq.server_key: {error.strerror}") from error
        limits = Limits(options.sockets_max, options.reconnect_ms, options.idle_ms)
        self._context = context
        self._links = Links(context, limits, socket_options)

    def check(self, callback: Callback) -> None:
        """Refuse a callback that could not be sent.

        Raises:
            InvalidRequest: naming ``callback.method``, ``callback.uri`` or ``callback.headers``.
        """
        method_of(callback.method)
        self._read_target(callback.uri)
        if callback.headers and self.options.content != "envelope":
            raise InvalidRequest(
                "cannot be carried; the option content=envelope of this transport can",
                "callback.headers",
            )

    def destination(self, callback: Callback) -> str:
        """The endpoint, as ``zmq:tcp://host:port`` or ``zmq:ipc:///path``.

        Raises:
            InvalidRequest: naming ``callback.uri``.
        """
        return self._read_target(callback.uri).destination

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        """Send one message, and say what its reply means."""
        links = self._links
        if links is None or self._is_closing:
            return Outcome.retry("the zmq transport is closed")
        if self._under_way >= self.options.deliveries_max:
            return Outcome.retry(f"{self._under_way} deliveries wait already")
        try:
            method = method_of(callback.method)
            target = self._read_target(callback.uri)
            message = self._message(callback, payload, info)
        except (InvalidRequest, ValueError) as error:
            return Outcome.rejected(str(error))
        self._under_way += 1
        self._drained.clear()
        try:
            async with links.channel(method, target) as channel:
                answer = await channel.send(message)
        except Broken as error:
            return Outcome.retry(str(error))
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._drained.set()
        return Outcome.delivered() if method == "push" else self._outcome(answer)

    async def close(self) -> None:
        """Wait for the deliveries under way, each of which has its time-out, then disconnect.

        If the wait is cancelled, they are cut off. What was pushed has ``linger_ms`` to leave.
        """
        self._is_closing = True
        try:
            await self._drained.wait()
        finally:
            if self._links is not None:
                self._links.close()
            context, self._context = self._context, None
            if context is not None:
                # It waits for what lingers.
                await asyncio.to_thread(context.term)

    def _message(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> bytes:
        message = payload
        if self.options.content == "envelope":
            message = envelope(callback, payload, info)
        if len(message) > self.options.message_bytes_max:
            raise ValueError(
                f"the message has {len(message)} bytes,"
                f" more than message_bytes_max={self.options.message_bytes_max}"
            )
        return message

    def _outcome(self, answer: bytes) -> Outcome:
        if len(answer) > self.options.answer_bytes_max:
            return Outcome.retry(f"the answer is longer than {self.options.answer_bytes_max} bytes")
        return outcome_of_answer(answer)


def _curve(options: Zmq.Options) -> Curve | None:
    """The keys that a node has, or makes for itself.

    Raises:
        ConfigError: they are none, or do not belong together.
    """
    if options.server_key is None:
        return None
    if not zmq.has("curve"):
        raise ConfigError("transport.zmq.server_key: this build of ZeroMQ has no CURVE")
    if options.public_key is None or options.secret_key is None:
        public, secret = zmq.curve_keypair()
    else:
        public = options.public_key.encode()
        secret = options.secret_key.get_secret_value().encode()
        try:
            matches = zmq.curve_public(secret) == public
        except (zmq.ZMQError, ValueError):
            matches = False
        if not matches:
            raise ConfigError("transport.zmq.secret_key: does not belong to public_key")
    return Curve(options.server_key.encode(), public, secret)
