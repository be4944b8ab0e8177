"""A transport that keeps what it is handed, and does with it what a test wants."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from skyring.errors import InvalidRequest
from skyring.transports.base import Callback, DeliveryInfo, Outcome, Transport

__all__ = ["Delivered", "Gate", "Recorder", "Script", "reject", "take"]

WAIT_S_MAX = 20
"""How long `Recorder.wait` waits before it fails."""


class Delivered(NamedTuple):
    """One delivery as the transport got it."""

    callback: Callback
    payload: bytes
    info: DeliveryInfo

    @property
    def id(self) -> str:
        return self.info.id


Script: TypeAlias = Callable[[Delivered], Awaitable[Any]]


async def take(delivery: Delivered) -> Outcome:
    return Outcome.delivered()


async def reject(delivery: Delivered) -> Outcome:
    return Outcome.rejected("not here")


class Recorder(Transport):
    """``script`` says what becomes of a delivery; ``uri`` is its destination."""

    name = "recorder"

    def __init__(self, script: Script = take) -> None:
        self.script = script
        self.begun: list[Delivered] = []
        self.events: list[str] = []
        self.under_way: Counter[str] = Counter()
        self.under_way_max: Counter[str] = Counter()
        self._changed = asyncio.Event()

    @property
    def ids(self) -> list[str]:
        """Of all deliveries that have begun, in order."""
        return [delivery.id for delivery in self.begun]

    async def wait(self, reached: Callable[[], bool]) -> None:
        """Until a delivery that begins or ends makes it true; fails if none ever does."""
        async with asyncio.timeout(WAIT_S_MAX):
            while not reached():
                self._changed.clear()
                await self._changed.wait()

    async def wait_for(self, *ids: str) -> None:
        """Until deliveries of all these timers have begun."""
        await self.wait(lambda: set(ids) <= set(self.ids))

    async def open(self) -> None:
        self.note("open")

    def check(self, callback: Callback) -> None:
        if callback.uri == "nowhere":
            raise InvalidRequest("leads nowhere", "callback.uri")

    def destination(self, callback: Callback) -> str:
        return f"recorder:{callback.uri}"

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        delivery = Delivered(callback, payload, info)
        self.begun.append(delivery)
        self.under_way[callback.uri] += 1
        for name, count in ((callback.uri, self.under_way[callback.uri]), ("", self._in_all())):
            self.under_way_max[name] = max(self.under_way_max[name], count)
        self.note("begin")
        event = "end"
        try:
            outcome: Outcome = await self.script(delivery)
        except asyncio.CancelledError:
            event = "cut"
            raise
        finally:
            self.under_way[callback.uri] -= 1
            self.note(event)
        return outcome

    async def close(self) -> None:
        self.note("close")

    def note(self, event: str) -> None:
        self.events.append(event)
        self._changed.set()

    def _in_all(self) -> int:
        return sum(self.under_way.values())


class Gate:
    """A script that lets deliveries end when it is opened."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    async def __call__(self, delivery: Delivered) -> Outcome:
        await self._open.wait()
        return Outcome.delivered()

    def open(self) -> None:
        self._open.set()
