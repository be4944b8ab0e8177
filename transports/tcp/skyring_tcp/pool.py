"""Connections that are kept for the next message, with bounds for each receiver and for all."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from skyring_tcp.connection import Broken, Connection
from skyring_tcp.rules import Framing, Target, failure_reason

__all__ = ["Limits", "Pool"]

CLOSE_S = 1.0
"""How long receivers have for an orderly close of TLS before they are cut off."""


class Limits(NamedTuple):
    """Bounds of a pool."""

    connections_max: int
    connections_per_destination_max: int
    connect_timeout_ms: int
    idle_ms: int


class _Receiver:
    """What is kept for one destination.

    Whoever has a turn uses one connection; a new one is made only when none is idle. So there are
    never more connections than turns.
    """

    def __init__(self, turns: int) -> None:
        self.turn = asyncio.Semaphore(turns)
        self.users = 0
        self.idle: dict[Connection, None] = {}


class Pool:
    """Lends connections; see `Limits` for what it keeps to.

    Args:
        limits: bounds.
        framing: of all connections.
        tls: for the destinations that want it; None makes one that trusts whom the system trusts,
            when the first of them comes.
        ignores_answers: are the connections for messages without an answer?
    """

    def __init__(
        self, limits: Limits, framing: Framing, tls: ssl.SSLContext | None, ignores_answers: bool
    ) -> None:
        self._limits = limits
        self._framing = framing
        self._tls = tls
        self._tls_lock = asyncio.Lock()
        self._ignores_answers = ignores_answers
        self._receivers: dict[str, _Receiver] = {}
        self._permits = asyncio.Semaphore(limits.connections_max)
        self._waiting = 0
        self._idle: dict[Connection, tuple[str, float]] = {}
        """Destination, and since when; the one that has waited longest is the first."""
        self._open: set[Connection] = set()
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._reaper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many connections are open."""
        return len(self._open)

    @contextlib.asynccontextmanager
    async def connection(self, target: Target) -> AsyncIterator[Connection]:
        """A connection of one's own; kept afterwards, unless an exception leaves the block.

        Raises:
            Broken: none can be made.
        """
        receiver = self._receivers.get(target.destination)
        if receiver is None:
            receiver = _Receiver(self._limits.connections_per_destination_max)
            self._receivers[target.destination] = receiver
        receiver.users += 1
        try:
            async with receiver.turn:
                connection = self._take_idle(receiver) or await self._connect(target)
                try:
                    yield connection
                except BaseException:
                    connection.abort()
                    raise
                self._put_back(connection, target.destination, receiver)
        finally:
            receiver.users -= 1
            self._forget(target.destination, receiver)

    async def close(self) -> None:
        """Close all connections; if the wait for them is cancelled, at once."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        try:
            for connection in list(self._open):
                connection.close()
            await self._wait_until_gone()
        finally:
            for connection in list(self._open):
                connection.abort()
        await self._wait_until_gone()

    async def _wait_until_gone(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._all_gone.wait()

    def _take_idle(self, receiver: _Receiver) -> Connection | None:
        """The one that was used last, so that the others can come to their end."""
        while receiver.idle:
            connection, _ = receiver.idle.popitem()
            del self._idle[connection]
            if connection.is_fresh():
                return connection
            connection.abort()
        return None

    def _leave_idle(self, connection: Connection) -> None:
        destination, _ = self._idle.pop(connection, ("", 0.0))
        receiver = self._receivers.get(destination)
        if receiver is not None:
            receiver.idle.pop(connection, None)
            self._forget(destination, receiver)

    def _put_back(self, connection: Connection, destination: str, receiver: _Receiver) -> None:
        if not connection.is_usable or self._waiting:
            connection.close()
            return
        now = asyncio.get_running_loop().time()
        receiver.idle[connection] = None
        self._idle[connection] = (destination, now)
        if self._reaper is None:
            self._arm(now)

    async def _connect(self, target: Target) -> Connection:
        self._waiting += 1
        try:
            if self._permits.locked() and self._idle:
                longest = next(iter(self._idle))
                self._leave_idle(longest)
                longest.abort()
            await self._permits.acquire()
        finally:
            self._waiting -= 1
        connection = Connection(self._framing, self._lost)
        self._open.add(connection)
        self._all_gone.clear()
        try:
            await self._make(connection, target)
        except BaseException:
            connection.abort()
            # uvloop does not tell it of one that was cancelled in the moment it was made.
            self._lost(connection)
            raise
        return connection

    async def _make(self, connection: Connection, target: Target) -> None:
        timeout_ms = self._limits.connect_timeout_ms
        tls_options: dict[str, Any] = {}
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                if target.is_tls:
                    tls_options = {
                        "ssl": await self._tls_context(),
                        "server_hostname": target.host,
                        "ssl_shutdown_timeout": CLOSE_S,
                    }
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, target.host, target.port, **tls_options
                )
        except TimeoutError:
            raise Broken(f"no connection within {timeout_ms} ms") from None
        except OSError as error:
            raise Broken(failure_reason(error)) from error
        if self._ignores_answers:
            connection.ignore_answers()

    async def _tls_context(self) -> ssl.SSLContext:
        async with self._tls_lock:
            if self._tls is None:  # it takes some 40 ms
                self._tls = await asyncio.to_thread(ssl.create_default_context)
            return self._tls

    def _lost(self, connection: Connection) -> None:
        if connection not in self._open:
            return
        self._leave_idle(connection)
        self._permits.release()
        self._open.discard(connection)
        if not self._open:
            self._all_gone.set()

    def _forget(self, destination: str, receiver: _Receiver) -> None:
        if not receiver.users and not receiver.idle:
            self._receivers.pop(destination, None)

    def _arm(self, since: float) -> None:
        when = since + self._limits.idle_ms / 1000
        self._reaper = asyncio.get_running_loop().call_at(when, self._close_idle)

    def _close_idle(self) -> None:
        """Close what has been idle for long enough; look again when the next one has been."""
        self._reaper = None
        before = asyncio.get_running_loop().time() - self._limits.idle_ms / 1000
        while self._idle:
            connection, (_, since) = next(iter(self._idle.items()))
            if since > before:
                self._arm(since)
                return
            self._leave_idle(connection)
            connection.close()
