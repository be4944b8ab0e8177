"""Rings of real nodes in one process, on a bus and a log in memory that can be cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from skyring.clock import SystemClock
from skyring.errors import TooLarge, Unavailable, Uncertain
from skyring.node import Node
from skyring.node_ring import RingConnection
from skyring.ring.memory_bus import MemoryBus, MemoryNetwork
from skyring.settings import RingSettings, Settings, StorageSettings
from skyring.storage.log import Log, MemoryLog, Message, SlotLog
from skyring.testing.recording import Recorder
from skyring.timers.facade import Timers
from skyring.timers.record import timer_slot

SLOTS = 32
WAIT_S_MAX = 30
POLL_S = 0.01
QUICK = RingSettings(
    heartbeat_ms=50, suspect_ms=200, dead_ms=400, lease_ms=500, request_timeout_ms=25_000
)


class CuttableLog(Log):
    """The shared log as one node reaches it, or does not."""

    def __init__(self, shared: MemoryLog) -> None:
        self._shared = shared
        self.is_cut = False

    async def open(self) -> None:
        self._check()

    async def check(self) -> None:
        self._check()

    @property
    def identity(self) -> str:
        return self._shared.identity

    @property
    def message_bytes_max(self) -> int:
        return self._shared.message_bytes_max

    async def append(self, slot: int, data: bytes, expected: int) -> int:
        self._check()
        if len(data) > self.message_bytes_max:
            raise TooLarge(f"{len(data)} bytes are more than it takes")
        await asyncio.sleep(0)
        if self.is_cut:
            raise Uncertain("cut while it was under way")
        sequence = await self._shared.append(slot, data, expected)
        await asyncio.sleep(0)
        if self.is_cut:
            raise Uncertain("cut before the answer came")
        return sequence

    async def last(self, slot: int) -> Message | None:
        self._check()
        return await self._shared.last(slot)

    async def read(self, after: Mapping[int, int]) -> AsyncIterator[Message]:
        self._check()
        async for message in self._shared.read(after):
            yield message

    async def purge(self, slot: int, below: int) -> None:
        self._check()
        await self._shared.purge(slot, below)

    async def size(self, slot: int) -> SlotLog:
        return await self._shared.size(slot)

    async def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.is_cut:
            raise Unavailable("the log cannot be reached")


class FreezingClock(SystemClock):
    """As the clocks are after this node, and it alone, has not run for a while."""

    def __init__(self) -> None:
        self.frozen_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.frozen_s


class RingNode:
    """One node, and what is needed to harm it."""

    def __init__(self, ring: LocalRing, name: str, **ring_settings: Any) -> None:
        self.name = name
        self.bus = MemoryBus(ring.network)
        self.log = CuttableLog(ring.log)
        self.clock = FreezingClock()
        self.node = Node(
            Settings(
                node=name,
                slots=SLOTS,
                storage=StorageSettings(backend="memory"),
                ring=QUICK.model_copy(update=ring_settings),
            ),
            transports=[ring.recorder],
            clock=self.clock,
            connection=RingConnection(self.bus, self.log),
        )
        self.timers = Timers(self.node.service, self.node.pages)

    @property
    def held(self) -> frozenset[int]:
        """The slots that it says it holds."""
        return frozenset(
            item["slot"] for item in self.node.ring()["slots_detail"] if item["phase"] == "held"
        )

    @property
    def may_write(self) -> frozenset[int]:
        """The slots whose timers it would deliver and change now."""
        assert self.node._ring is not None
        held = self.node._ring.storage.held()
        return frozenset(held) if self.node._ring.may_act() else frozenset()

    @property
    def lease_ms(self) -> int:
        """How long its lease still lasts."""
        return int(self.node.ring()["lease_ms"])

    def sees(self) -> dict[str, str]:
        """The members as it knows them."""
        return {member["node"]: member["state"] for member in self.node.ring()["members"]}

    def has_failed(self) -> bool:
        return self.node._task is not None and self.node._task.done()

    def cut(self) -> None:
        """No way to bus or log any more."""
        self.log.is_cut = True
        self.bus.disconnect()

    def mend(self) -> None:
        """The way is there again."""
        self.log.is_cut = False
        self.bus.connect()


class LocalRing:
    """Some nodes."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.log = MemoryLog()
        self.recorder = Recorder()
        self.nodes: dict[str, RingNode] = {}

    async def start(self, *names: str, **ring_settings: Any) -> None:
        """Start nodes; returns when all slots are where they belong."""
        for name in names:
            made = self.nodes[name] = RingNode(self, name, **ring_settings)
            await made.node.start()
        await self.settled()

    async def settled(self) -> None:
        """Until each slot is held by its owner, and all nodes know it."""
        await self.until(self._is_settled)

    async def until(self, reached: Callable[[], bool]) -> None:
        """Until it is true; fails if it never is, or if a node fails."""
        async with asyncio.timeout(WAIT_S_MAX):
            while not reached():
                await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        await asyncio.gather(*(each.node.stop() for each in self.nodes.values()))

    def epochs(self) -> dict[int, int]:
        """The epoch of each slot, as its holder says."""
        return {
            item["slot"]: item["epoch"]
            for each in self.nodes.values()
            for item in each.node.ring()["slots_detail"]
            if item["phase"] == "held"
        }

    def nobody_shares(self) -> bool:
        """Is there no slot that two nodes would write to?"""
        held = [slot for each in self.nodes.values() for slot in each.may_write]
        return len(held) == len(set(held))

    def intrude(self, slot: int, data: bytes) -> None:
        """Somebody who is no node publishes to the log of a slot."""
        self.log._sequence += 1
        self.log._slots.setdefault(slot, {})[self.log._sequence] = data

    def id_in(self, slots: Collection[int], name: str = "timer") -> str:
        """An id of one of these slots."""
        return next(
            timer_id
            for number in range(100_000)
            if timer_slot(timer_id := f"{name}-{number}", SLOTS) in slots
        )

    def _is_settled(self) -> bool:
        views = [each.node.ring() for each in self.nodes.values()]
        return all(
            view["state"] == "alive"
            and all(item["owner"] == item["holder"] is not None for item in view["slots_detail"])
            and sum(member["state"] == "alive" for member in view["members"]) == len(views)
            for view in views
        )


@asynccontextmanager
async def ring_of(*names: str, **ring_settings: Any) -> AsyncIterator[LocalRing]:
    """A ring that has settled."""
    ring = LocalRing()
    try:
        await ring.start(*names, **ring_settings)
        yield ring
    finally:
        await ring.stop()


async def eventually(reached: Callable[[], Awaitable[bool]]) -> None:
    """For what nobody tells when it is so."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not await reached():
            await asyncio.sleep(POLL_S)
