"""A transport that keeps what it is handed and does with it what a test wants."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from skyring import Settings, Skyring
from skyring.errors import InvalidRequest, NotFound
from skyring.settings import StorageSettings
from skyring.transports.base import Callback, DeliveryInfo, Outcome, Transport

WAIT_S_MAX = 20


class Delivered(NamedTuple):
    """One delivery as the transport got it."""

    callback: Callback
    payload: bytes
    info: DeliveryInfo

    @property
    def id(self) -> str:
        return self.info.id


Script = Callable[[Delivered], Awaitable[Any]]


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


async def until(sky: Skyring, reached: Callable[[], Awaitable[bool]]) -> None:
    """Until it is true of what the node has stored; fails if it never is, or if the node fails."""
    running = asyncio.create_task(sky.wait())
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            while not await reached():
                if running.done():
                    await running
                await asyncio.sleep(0.002)  # nobody is told when something has been stored
    finally:
        running.cancel()
        await asyncio.wait([running])


async def dead_letter(sky: Skyring, timer_id: str) -> dict[str, Any]:
    """A dead letter, which comes to be a moment after its last delivery."""

    async def is_dead() -> bool:
        return bool((await sky.timers.get(timer_id))["state"] == "dead")

    await until(sky, is_dead)
    return await sky.timers.get(timer_id)


async def is_gone(sky: Skyring, timer_id: str) -> bool:
    try:
        await sky.timers.get(timer_id)
    except NotFound:
        return True
    return False


async def nothing_pending(sky: Skyring) -> bool:
    return await sky.timers.list(limit=1) == ([], None)


def to(uri: str = "here", transport: str = "recorder", **more: Any) -> dict[str, Any]:
    """A callback."""
    return {"transport": transport, "method": "give", "uri": uri, **more}


def settings_for(backend: str, path: Path, **more: Any) -> Settings:
    """Settings with this storage."""
    storage = StorageSettings.model_validate({"backend": backend, "path": path})
    return Settings(storage=storage, **{"slots": 16, **more})
