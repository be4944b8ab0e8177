"""The connection to NATS, made anew whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from skyring.transports import end_tasks
from skyring_nats.access import Server
from skyring_nats.connection import Connection, told
from skyring_nats.session import Session

__all__ = ["Link"]

logger = logging.getLogger(__name__)

START_S_MAX = 5
"""A node has to start although NATS is away: other timers are waiting."""
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
        """Disconnect, and free everything. What is under way fails."""
        self.reason = "this node is stopping"
        task, self._task = self._task, None
        if task is not None:
            await end_tasks(task)

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
            self.session = session
            self._tried.set()
            return await session.run()
        finally:
            self.session = None
            await connection.dispose()

    async def _begin(self, connection: Connection) -> Session:
        await connection.establish(self._arguments)
        session = Session(
            connection,
            echo_interval_ms=self._echo_interval_ms,
            echo_timeout_ms=self._echo_timeout_ms,
        )
        await session.begin()
        return session

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
