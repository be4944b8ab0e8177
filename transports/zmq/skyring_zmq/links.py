"""Which channel leads to whom: one for each method and receiver, shared, with bounds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, TypeAlias

from skyring_zmq.channel import Broken, Channel, Context, SocketOptions
from skyring_zmq.rules import Method, Target

__all__ = ["Limits", "Links"]

ADDRESSES_MAX = 4
"""Addresses of one host that are tried."""

Key: TypeAlias = tuple[Method, str]


class Limits(NamedTuple):
    """Bounds of all links together."""

    sockets_max: int
    reconnect_ms: int
    idle_ms: int


class _Link:
    """The way to one receiver by one method."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.users = 0
        self.channel: Channel | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.why = ""
        """Why the last try to connect has failed."""


class Links:
    """Lends channels; see `Limits` for what it keeps to.

    Args:
        context: where sockets are made.
        limits: bounds.
        options: of all sockets.
    """

    def __init__(self, context: Context, limits: Limits, options: SocketOptions) -> None:
        self._context = context
        self._limits = limits
        self._options = options
        self._links: dict[Key, _Link] = {}
        self._permits = asyncio.Semaphore(limits.sockets_max)
        self._waiting = 0
        self._open: dict[Channel, _Link] = {}
        self._idle: dict[_Link, float] = {}
        """Since when; the one that has waited longest is the first."""
        self._failed: dict[Key, tuple[float, str]] = {}
        """Until when no further try is made, and why; in order of time."""
        self._reaper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many sockets are open."""
        return len(self._open)

    @contextlib.asynccontextmanager
    async def channel(self, method: Method, target: Target) -> AsyncIterator[Channel]:
        """A channel that is connected; others may use it at the same time.

        Raises:
            Broken: none can be made.
        """
        key = (method, target.endpoint)
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = _Link(key)
        self._idle.pop(link, None)
        link.users += 1
        try:
            yield await self._connected(link, target)
        finally:
            link.users -= 1
            if not link.users:
                self._rest(link)

    def close(self) -> None:
        """Close all channels; what was pushed is still sent while the context is terminated."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for link in self._links.values():
            if link.connecting is not None:
                link.connecting.cancel()
        for channel in list(self._open):
            channel.close()

    async def _connected(self, link: _Link, target: Target) -> Channel:
        if link.channel is None:
            self._check_pause(link.key)
            if link.connecting is None:
                link.connecting = asyncio.create_task(self._connect(link, target))
            task = link.connecting
            # It goes on for the others if one that waits for it is cancelled.
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
            if link.channel is None:
                raise Broken(link.why)
        return link.channel

    def _check_pause(self, key: Key) -> None:
        """Has it failed just now?"""
        now = asyncio.get_running_loop().time()
        while self._failed:
            first = next(iter(self._failed))
            if self._failed[first][0] > now:
                break
            del self._failed[first]
        if key in self._failed:
            raise Broken(self._failed[key][1])

    async def _connect(self, link: _Link, target: Target) -> None:
        """Give the link a channel, or a reason why it has none."""
        link.why = "the connection was closed"
        try:
            for endpoint in await _endpoints(target):
                try:
                    link.channel = await self._open_channel(link, endpoint)
                except Broken as error:
                    link.why = str(error)
                else:
                    return
        except OSError as error:
            link.why = f"host name not resolved: {error.strerror or error}"
        finally:
            link.connecting = None
        until = asyncio.get_running_loop().time() + self._limits.reconnect_ms / 1000
        self._failed.pop(link.key, None)
        self._failed[link.key] = (until, link.why)

    async def _open_channel(self, link: _Link, endpoint: str) -> Channel:
        self._waiting += 1
        try:
            if self._permits.locked() and self._idle:
                self._end(next(iter(self._idle)))
            await self._permits.acquire()
        finally:
            self._waiting -= 1
        try:
            channel = Channel(self._context, link.key[0], self._options, self._closed)
        except BaseException:
            self._permits.release()
            raise
        self._open[channel] = link
        try:
            await channel.connect(endpoint)
        except BaseException:
            channel.close()
            raise
        return channel

    def _closed(self, channel: Channel) -> None:
        self._permits.release()
        link = self._open.pop(channel)
        if link.channel is channel:
            link.channel = None
            if not link.users:
                self._forget(link)

    def _rest(self, link: _Link) -> None:
        """Nobody uses it now."""
        if link.connecting is not None:
            link.connecting.cancel()
            link.connecting = None
        if link.channel is None:
            self._forget(link)
            return
        now = asyncio.get_running_loop().time()
        self._idle[link] = now
        if self._waiting:
            self._end(link)
        elif self._reaper is None:
            self._arm(now)

    def _end(self, link: _Link) -> None:
        self._idle.pop(link, None)
        if link.channel is not None:
            link.channel.close()

    def _forget(self, link: _Link) -> None:
        self._idle.pop(link, None)
        if self._links.get(link.key) is link:
            del self._links[link.key]

    def _arm(self, since: float) -> None:
        when = since + self._limits.idle_ms / 1000
        self._reaper = asyncio.get_running_loop().call_at(when, self._close_idle)

    def _close_idle(self) -> None:
        """Close what has been idle for long enough; look again when the next one has been."""
        self._reaper = None
        before = asyncio.get_running_loop().time() - self._limits.idle_ms / 1000
        while self._idle:
            link, since = next(iter(self._idle.items()))
            if since > before:
                self._arm(since)
                return
            self._end(link)


async def _endpoints(target: Target) -> Sequence[str]:
    """The addresses of a host, each as an endpoint.

    Raises:
        OSError: the name leads to none.
    """
    if not target.host:
        return [target.endpoint]
    found = await asyncio.get_running_loop().getaddrinfo(
        target.host, target.port, type=socket.SOCK_STREAM
    )
    addresses = dict.fromkeys(str(item[4][0]) for item in found)
    return [
        f"tcp://[{address}]:{target.port}" if ":" in address else f"tcp://{address}:{target.port}"
        for address in addresses
    ][:ADDRESSES_MAX]
