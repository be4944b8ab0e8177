"""The transport: a timer as a NATS message."""

from __future__ import annotations

import asyncio
from pathlib import Path
from sys import intern

from pydantic import ConfigDict, Field, SecretStr

from skyring.nats import (
    ConnectionLost,
    Link,
    Message,
    Refused,
    Session,
    check_library,
    credentials,
    read_servers,
)
from skyring.transports import (
    Callback,
    DeliveryInfo,
    InvalidRequest,
    Outcome,
    Transport,
    client_tls,
)
from skyring_nats.answers import outcome_of_ack, outcome_of_reply
from skyring_nats.rules import (
    DEFAULT_INBOX_PREFIX,
    check_headers,
    check_subject,
    message_id,
    message_of,
    method_of,
)

__all__ = ["Nats"]

UNSENDABLE = Outcome.rejected("the callback cannot be sent as it is")
"""For callbacks that came past `Nats.check`. It quotes nothing: a header may be secret."""
PREFIX = "transport.nats"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"


class Nats(Transport):
    """Delivers a timer as a NATS message; the callback's ``uri`` is the subject.

    The method ``publish`` counts as delivered when the server has taken the message, ``request``
    when a receiver has replied, ``jetstream`` when a stream has stored it.
    """

    name = "nats"

    class Options(Transport.Options):
        """Where NATS is, who connects, and the limits."""

        # A server's address may hold a password by mistake.
        model_config = ConfigDict(hide_input_in_errors=True)

        servers: str = Field(
            default="nats://127.0.0.1:4222",
            description="nats://host:port, tls://host:port or host:port, several with commas",
        )
        user: str | None = Field(default=None, description="user name, with a password")
        password: SecretStr | None = Field(default=None, description="the user's password")
        token: SecretStr | None = Field(default=None, description="instead of a user name")
        credentials_file: Path | None = Field(
            default=None, description="instead of a user name: a .creds file with a JWT and a seed"
        )
        nkey_seed_file: Path | None = Field(
            default=None, description="instead of a user name: a file with an nkey seed"
        )
        ca_file: Path | None = Field(
            default=None,
            description="certificates to trust (PEM) instead of the machine's; TLS is then a must",
        )
        client_name: str = Field(
            default="skyring", max_length=256, description="what the server's monitoring shows"
        )
        inbox_prefix: str = Field(
            default=DEFAULT_INBOX_PREFIX,
            pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
            max_length=128,
            description="first tokens of the subjects that replies come to",
        )
        expected_stream: str | None = Field(
            default=None,
            pattern=r"^[^\s.*>/\\]+$",
            max_length=256,
            description="jetstream: the stream that has to take the messages; none: any",
        )
        connect_timeout_ms: int = Field(
            default=2_000, ge=1, le=600_000, description="time allowed to an attempt to connect"
        )
        reconnect_pause_ms: int = Field(
            default=250, ge=1, le=600_000, description="pause before the servers are tried again"
        )
        echo_interval_ms: int = Field(
            default=2_000,
            ge=1,
            le=600_000,
            description="pause between two looks whether the server still answers",
        )
        echo_timeout_ms: int = Field(
            default=5_000,
            ge=1,
            le=600_000,
            description="silence after which a connection is given up and made anew",
        )
        in_flight_max: int = Field(
            default=1_024, ge=1, le=65_536, description="deliveries at once; more of them wait"
        )
        pending_bytes_max: int = Field(
            default=4 << 20,
            ge=1 << 10,
            le=1 << 30,
            description="bytes that may wait to be written to the server",
        )

    options: Options

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._link: Link | None = None
        self._slots = asyncio.Semaphore(0)
        self._under_way = 0
        self._drained = asyncio.Event()
        self._drained.set()

    async def open(self) -> None:
        """Connect; if that fails it goes on in the background.

        Raises:
            ConfigError: an option can never work.
        """
        options = self.options
        check_library()
        servers = read_servers(options.servers, PREFIX, needs_tls=options.ca_file is not None)
        access = credentials(options, PREFIX)
        self._slots = asyncio.Semaphore(options.in_flight_max)
        self._link = Link(
            servers,
            {
                **access,
                "name": options.client_name,
                "inbox_prefix": options.inbox_prefix,
                "pending_size": options.pending_bytes_max,
                "connect_timeout": options.connect_timeout_ms / 1000,
                "tls": await asyncio.to_thread(client_tls, options.ca_file, f"{PREFIX}.ca_file"),
            },
            connect_timeout_ms=options.connect_timeout_ms,
            reconnect_pause_ms=options.reconnect_pause_ms,
            echo_interval_ms=options.echo_interval_ms,
            echo_timeout_ms=options.echo_timeout_ms,
        )
        await self._link.start()

    def check(self, callback: Callback) -> None:
        """Refuse a callback that could not be published as it is.

        Raises:
            InvalidRequest: naming ``callback.method``, ``callback.uri`` or ``callback.headers``.
        """
        method_of(callback.method)
        check_subject(callback.uri, self.options.inbox_prefix)
        if callback.headers:
            check_headers(callback.headers)

    def destination(self, callback: Callback) -> str:
        """The subject, as ``nats:subject``; the same object each time."""
        return intern(f"nats:{callback.uri}")

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        """Publish one message, and say what became of it."""
        link = self._link
        if link is None:
            return Outcome.retry("the nats transport is closed")
        try:
            self.check(callback)
        except (InvalidRequest, ValueError):
            return UNSENDABLE
        self._under_way += 1
        self._drained.clear()
        try:
            async with self._slots:
                session = link.session
                if session is None:
                    return Outcome.retry(f"no connection to NATS: {link.reason}")
                return await self._send(session, callback, payload, info)
        except ConnectionLost as error:
            return Outcome.retry(f"the connection to NATS was lost: {error}")
        except Refused as error:
            return Outcome.retry(str(error))
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._drained.set()

    async def close(self) -> None:
        """Wait for the deliveries under way, each of which has its time-out, then disconnect.

        If the wait is cancelled, they are cut off.
        """
        link, self._link = self._link, None
        if link is None:
            return
        try:
            await self._drained.wait()
        finally:
            await link.stop()

    async def _send(
        self, session: Session, callback: Callback, payload: bytes, info: DeliveryInfo
    ) -> Outcome:
        method = method_of(callback.method)
        extra: dict[str, str] = {}
        if method == "jetstream":
            extra[MESSAGE_ID] = message_id(info)
            if self.options.expected_stream is not None:
                extra[EXPECTED_STREAM] = self.options.expected_stream
        message = message_of(callback, payload, info, extra)
        too_large = _too_large(message, session.payload_bytes_max)
        if too_large is not None:
            return too_large
        if method == "publish":
            await session.publish(message)
            return Outcome.delivered()
        reply = await session.request(message)
        return outcome_of_ack(reply) if method == "jetstream" else outcome_of_reply(reply)


def _too_large(message: Message, bytes_max: int) -> Outcome | None:
    """The server closes the connection of whoever sends it more than it takes."""
    size_bytes = message.size_bytes
    if size_bytes <= bytes_max:
        return None
    return Outcome.rejected(
        f"{size_bytes} bytes with headers are more than the server takes (max_payload {bytes_max})"
    )
