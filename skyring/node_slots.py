"""The slots of a node in a ring: its storage and its timers, moved together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress

from skyring.clock import Clock
from skyring.errors import SkyringError
from skyring.ring.host import SlotHost
from skyring.storage.replicated import ReplicatedStorage
from skyring.timers.state import TimerState

__all__ = ["NodeSlots"]

DRAIN_S = 0.03
"""How long the deliveries of a slot are waited for before it is given away later."""
PATIENCE_MS = 10_000
"""A slot that was asked for so long ago begins no delivery any more until it is given away."""
FORGET_MS = 3_000
"""A slot that nobody has asked for again after this time is delivered as before."""


class NodeSlots(SlotHost):
    """Keeps storage and timers of the slots together.

    Args:
        storage: claims slots.
        state: delivers their timers.
        inform: finds out what is good to know.
        clock: for waits.
        lost: called with slots that are held no more and were not released.
    """

    def __init__(
        self,
        storage: ReplicatedStorage,
        state: TimerState,
        inform: Callable[[], Awaitable[None]],
        clock: Clock,
        lost: Callable[[Iterable[int]], None],
    ) -> None:
        self._storage = storage
        self._state = state
        self._inform = inform
        self._clock = clock
        self._lost = lost
        self._asked_ms: dict[int, tuple[int, int]] = {}
        """When slots that could not be given away were asked for: first and last."""

    async def verify(self) -> None:
        await self._storage.verify()

    async def inform(self) -> None:
        await self._inform()

    async def follow(self, slots: Iterable[int]) -> None:
        await self._storage.follow(slots)

    async def claim(self, slots: Iterable[int]) -> None:
        slots = list(slots)
        try:
            await self._storage.acquire(slots)
        finally:
            held = self._storage.held()
            self._state.serve(slot for slot in slots if slot in held)

    async def release(self, slots: Iterable[int], within_s: float | None = None) -> frozenset[int]:
        wanted = set(slots)
        self._state.pause(wanted)
        released = await self._state.drained(wanted, DRAIN_S if within_s is None else within_s)
        if within_s is None:
            self._keep(wanted - released)
        else:
            released = wanted
        await self._storage.release(released)
        self._state.drop(released)
        for slot in released:
            self._asked_ms.pop(slot, None)
        return frozenset(released)

    def drop(self, slots: Iterable[int]) -> None:
        slots = list(slots)
        self._storage.drop(slots)
        self.fenced(slots)

    def fenced(self, slots: Iterable[int]) -> None:
        """The storage holds these slots no more."""
        slots = list(slots)
        if not slots:
            return
        self._state.drop(slots)
        for slot in slots:
            self._asked_ms.pop(slot, None)
        self._lost(slots)

    async def touch(self, slots: Iterable[int]) -> None:
        for slot in slots:
            with suppress(SkyringError):
                await self._storage.commit(slot, ())

    def held(self) -> Collection[int]:
        return self._storage.held()

    def epoch(self, slot: int) -> int:
        return self._storage.epoch(slot)

    def timers(self) -> int:
        return len(self._state.schedule)

    def _keep(self, slots: set[int]) -> None:
        """These have deliveries under way that take their time; they are asked for again.

        For a while they go on as before. When they never come to rest by themselves, nothing more
        begins in them until what is under way has ended.
        """
        now_ms = self._clock.monotonic_ms()
        goes_on = set()
        for slot in slots:
            first_ms, last_ms = self._asked_ms.get(slot, (now_ms, now_ms))
            if now_ms - last_ms > FORGET_MS:
                first_ms = now_ms
            self._asked_ms[slot] = (first_ms, now_ms)
            if now_ms - first_ms < PATIENCE_MS:
                goes_on.add(slot)
        self._state.resume(goes_on)
        rest = slots - goes_on
        if rest:
            asyncio.get_running_loop().call_later(FORGET_MS / 1000, self._go_on, rest)

    def _go_on(self, slots: set[int]) -> None:
        """Whoever wanted them may be gone."""
        now_ms = self._clock.monotonic_ms()
        forgotten = {
            slot
            for slot in slots
            if slot in self._asked_ms and now_ms - self._asked_ms[slot][1] >= FORGET_MS - 100
        }
        for slot in forgotten:
            del self._asked_ms[slot]
        self._state.resume(forgotten)
