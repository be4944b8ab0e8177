"""The connection to NATS, made anew whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from skyring.errors import Unavailable, Uncertain
from skyring.nats.access import Server
from skyring.nats.connection import Connection, ConnectionLost, told
from skyring.nats.message import Message, Received, Reply
from skyring.nats.session import Refused, Session, TimedOut
from skyring.nats.subscription import Subscription
from skyring.tasks import end_tasks

__all__ = ["Link"]

logger = logging.getLogger(__name__)

START_S_MAX = 5
"""A node has to start although NATS is away: other timers are waiting."""
PAYLOAD_BYTES = 1 << 20
"""What a server takes by default."""
REASONS_LOGGED_MAX = 10
"""Different reasons that are logged while there is no connection."""


class Link:
    """Holds one connection. When it is lost, what was under way fails at once.

    The library's own reconnecting is not used: it may never happen, and swallows what is published
    meanwhile.

    Args:
        servers: tried in turn.
        arguments: for ``Client.connect``: who connects, and the limits.
        connect_timeout_ms: time allowed to one attempt to connect.
        reconnect_pause_ms: pause when all servers have been tried.
        echo_interval_ms: see `Session`.
        echo_timeout_ms: see `Session`.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        arguments: Mapping[str, Any],
        *,
        connect_timeout_ms: int,
        reconnect_pause_ms: int,
        echo_interval_ms: int,
        echo_timeout_ms: int,
    ) -> None:
        self._servers = servers
        self._arguments = arguments
        self._connect_timeout_ms = connect_timeout_ms
        self._reconnect_pause_ms = reconnect_pause_ms
        self._echo_interval_ms = echo_interval_ms
        self._echo_timeout_ms = echo_timeout_ms
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._logged: set[str] = set()
        self._subscriptions: set[Subscription] = set()
        self._watchers: list[tuple[Callable[[Session], None], Callable[[str], None]]] = []
        self.session: Session | None = None
        """What to send with; None while there is no connection."""
        self.reason = "not tried yet"
        """Why there is none."""

    async def start(self) -> None:
        """Connect in the background. Returns when it has gone well or all servers were tried.

        It does not wait longer than one attempt may take, nor than `START_S_MAX`.
        """
        self._task = asyncio.create_task(self._run(), name="nats-link")
        timeout_s = min(self._connect_timeout_ms / 1000, START_S_MAX)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), timeout_s)
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Disconnect, and free everything. What is under way fails. May be called twice."""
        self.reason = "this node is stopping"
        task, self._task = self._task, None
        if task is not None:
            await end_tasks(task)

    @property
    def payload_bytes_max(self) -> int:
        """The largest message, headers included, that the servers take, as far as is known now."""
        return PAYLOAD_BYTES if self.session is None else self.session.payload_bytes_max

    # For those who send and listen

    async def request(self, message: Message, timeout_ms: int) -> Reply:
        """Send a message, and return the first reply.

        If nobody listens, that is a reply too: see `Reply.is_no_responders`.

        Args:
            timeout_ms: see `Session.request`.

        Raises:
            Unavailable: it was certainly not sent: there is no connection, or no permission.
            Uncertain: there was no reply; it may have arrived or not.
            TooLarge: the server does not take messages of this size.
        """
        session = self.session
        if session is None:
            raise Unavailable(f"no connection to NATS: {self.reason}")
        try:
            return await session.request(message, timeout_ms)
        except TimedOut as error:
            if error.is_sent:
                raise Uncertain(f"NATS gave no answer within {timeout_ms} ms") from None
            raise Unavailable(f"NATS took nothing for {timeout_ms} ms") from None
        except ConnectionLost as error:
            raise Uncertain(f"the connection to NATS was lost: {error}") from None
        except Refused as error:
            raise Unavailable(f"NATS: {error}") from None

    def send(self, message: Message, reply_to: str = "") -> None:
        """Send a message without waiting for anything. It may be lost.

        Raises:
            Unavailable: it was not sent: no connection, or too much is waiting already.
            TooLarge: the server does not take messages of this size.
        """
        session = self.session
        if session is None:
            raise Unavailable(f"no connection to NATS: {self.reason}")
        session.send(message, reply_to)

    def subscribe(
        self, subject: str, on_message: Callable[[Received], None], queue: str = ""
    ) -> Subscription:
        """Listen on this connection and on each that follows it, from its beginning.

        Args:
            subject: may hold wildcards.
            on_message: called for each message, on the event loop, while nothing else is read: it
                should be short. What it raises is logged and counted.
            queue: of all subscriptions with this name, one gets each message.
        """
        subscription = Subscription(subject, on_message, queue, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        if self.session is not None:
            subscription.begin(self.session)
        return subscription

    def watch(self, up: Callable[[Session], None], down: Callable[[str], None]) -> None:
        """Have it told when there is a connection, and when there is none any more.

        If there is one now, ``up`` is called at once. What they raise is logged.

        Args:
            up: called when all subscriptions are in force.
            down: called with the reason, when what was under way has failed already.
        """
        self._watchers.append((up, down))
        if self.session is not None:
            _call(up, self.session)

    # The connection

    async def _run(self) -> None:
        while True:
            for server in self._servers:
                try:
                    reason = await self._hold(server)
                except Exception as error:  # the library lets errors of all kinds through
                    logger.debug("no connection to %s", server.url, exc_info=True)
                    reason = told(error)
                self._note(f"{server.url}: {reason}")
            self._tried.set()
            await asyncio.sleep(self._reconnect_pause_ms / 1000)

    async def _hold(self, server: Server) -> str:
        """Connect, and serve until the connection is lost; why it was."""
        connection = Connection(server)
        try:
            try:
                async with asyncio.timeout(self._connect_timeout_ms / 1000):
                    session = await self._begin(connection)
            except TimeoutError:  # or one of the library's own, which has the same limit
                return f"no answer within {self._connect_timeout_ms} ms"
            logger.info("connected to NATS at %s", server.url)
            self._logged.clear()
            return await self._serve(session)
        finally:
            await connection.dispose()

    async def _begin(self, connection: Connection) -> Session:
        await connection.establish(self._arguments)
        session = Session(
            connection,
            echo_interval_ms=self._echo_interval_ms,
            echo_timeout_ms=self._echo_timeout_ms,
        )
        begun = set(self._subscriptions)
        for subscription in begun:
            subscription.begin(session)
        await session.begin()
        for subscription in self._subscriptions - begun:
            subscription.begin(session)
        return session

    async def _serve(self, session: Session) -> str:
        self.session = session
        self._tried.set()
        for up, _ in self._watchers:
            _call(up, session)
        reason = "this node is stopping"
        try:
            reason = await session.run()
            return reason
        finally:
            self.session = None
            self.reason = reason
            for _, down in self._watchers:
                _call(down, reason)

    def _note(self, reason: str) -> None:
        """Once each, as long as there is no connection: it is tried many times."""
        self.reason = reason
        if reason not in self._logged and len(self._logged) < REASONS_LOGGED_MAX:
            self._logged.add(reason)
            logger.warning(
                "no connection to NATS, trying again every %d ms: %s",
                self._reconnect_pause_ms,
                reason,
            )


def _call(callback: Callable[[Any], None], argument: object) -> None:
    try:
        callback(argument)
    except Exception:  # it must not cost the connection
        logger.exception("what follows a change of the connection to NATS has failed")
