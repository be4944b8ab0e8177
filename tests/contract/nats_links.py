"""Links to a real nats-server, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from skyring.nats import Link, Session, make_link
from skyring.settings import NatsSettings

__all__ = ["Watch", "link_to", "linked"]

WAIT_S_MAX = 30


def link_to(url: str, **settings: Any) -> Link:
    """A link that is not started yet."""
    given = {"reconnect_pause_ms": 5, "request_timeout_ms": 5_000, **settings}
    return make_link(NatsSettings(servers=(url,), **given), "test")


@asynccontextmanager
async def linked(url: str, **settings: Any) -> AsyncIterator[Link]:
    """A link that has tried to connect."""
    link = link_to(url, **settings)
    await link.start()
    try:
        yield link
    finally:
        await link.stop()


class Watch:
    """Notes the comings and goings of a connection."""

    def __init__(self, link: Link) -> None:
        self.events: list[str] = []
        self._link = link
        self._changed = asyncio.Event()
        link.watch(self._up, self._down)

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while not reached():
                self._changed.clear()
                await self._changed.wait()

    async def connected(self) -> None:
        """Wait until there is a connection."""
        await self.until(lambda: self._link.session is not None)

    async def reconnected(self) -> None:
        """Wait until there is a connection after the last loss."""
        await self.until(lambda: "down" in self.events and self.events[-1] == "up")

    async def disconnected(self) -> None:
        """Wait until there is none."""
        await self.until(lambda: self._link.session is None)

    def _up(self, session: Session) -> None:
        self.events.append("up")
        self._changed.set()

    def _down(self, reason: str) -> None:
        self.events.append("down")
        self._changed.set()
