"""Reading ahead: the near future of the due index, brought into the schedule."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from skyring.errors import Fenced, RecordUnreadable, Unavailable
from skyring.timers.record import (
    TIMER_PREFIX,
    TIMER_STOP,
    Hint,
    decode_record,
    due_key,
    split_due_key,
)
from skyring.timers.schedule import Load
from skyring.timers.state import TimerState

__all__ = ["ROOM_PAUSE_S", "ReadAhead", "pause"]

logger = logging.getLogger(__name__)

LOAD_MAX = 500
"""Keys read at once."""
STEPS_MS = (1, 3_000, 12_000)
"""How far all slots are read before any is read farther: when memory is full it holds the near."""
PAUSE_S_MAX = 1.0
"""Longest pause, so that a wall clock set forward is noticed."""
ROOM_PAUSE_S = 0.02
"""Pause before it is asked again whether there is room."""


class ReadAhead:
    """Reads what is due within a window.

    Args:
        state: the storage, and the schedule that is filled.
        window_ms: how far to read.
    """

    def __init__(self, state: TimerState, window_ms: int) -> None:
        self._state = state
        self._storage = state.storage
        self._clock = state.clock
        self._schedule = state.schedule
        self._window_ms = window_ms

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the next half of the window in memory, and more when it is read anyway.

        Args:
            stop: ends it.
        """
        pause_s = min(PAUSE_S_MAX, self._window_ms / 2000)
        while not stop.is_set():
            now_ms = self._clock.now_ms()
            if self._schedule.behind(now_ms + self._window_ms // 2):
                await self._load(now_ms)
            for slot in sorted(self._storage.damage.slots):
                if not stop.is_set() and await self._reindex(slot):
                    self._storage.damage.slots.discard(slot)
            if self._schedule.behind(now_ms):  # memory is full of what is due already
                await self._wait_for_room(stop, pause_s)
            else:
                await pause(stop, pause_s)

    async def _wait_for_room(self, stop: asyncio.Event, pause_s: float) -> None:
        for _ in range(1 + int(pause_s / ROOM_PAUSE_S)):
            await pause(stop, ROOM_PAUSE_S)
            if self._schedule.has_room():
                return

    async def _load(self, now_ms: int) -> None:
        """Read all slots up to the end of the window, the near future of all before the far one."""
        for ahead_ms in (*STEPS_MS, self._window_ms):
            until_ms = now_ms + min(ahead_ms, self._window_ms)
            while behind := self._schedule.behind(until_ms):
                for slot in behind:
                    await self._load_slot(slot, until_ms)
                if self._schedule.behind(until_ms) and not self._schedule.make_room(until_ms):
                    return  # memory is full of what is nearer, or the storage is away

    async def _load_slot(self, slot: int, until_ms: int) -> None:
        while (load := self._schedule.begin_load(slot, until_ms, LOAD_MAX)) is not None:
            try:
                self._schedule.end_load(load, await self._scan(load))
            except Fenced:
                self._schedule.drop_slot(slot)
            except Unavailable as error:
                self._schedule.abort_load(load)
                logger.debug("slot %d cannot be read: %s", slot, error)
                return
            self._state.wake.set()

    async def _reindex(self, slot: int) -> bool:
        """Write the due index of a slot anew: damage in it must not keep timers from firing.

        False if that has to be tried again.
        """
        logger.info("the due index of slot %d is written anew after damage", slot)
        start = TIMER_PREFIX
        while True:
            try:
                pairs = await self._storage.scan(slot, start, TIMER_STOP, LOAD_MAX)
                await asyncio.gather(*(self._index(slot, *pair) for pair in pairs))
            except (Unavailable, Fenced) as error:
                logger.error("the due index of slot %d cannot be written anew: %s", slot, error)
                return False
            if len(pairs) < LOAD_MAX:
                return True
            start = pairs[-1][0] + b"\0"

    async def _scan(self, load: Load) -> list[Hint]:
        pairs = await self._storage.scan(load.slot, load.start, load.stop, load.limit)
        return [
            Hint(due_ms, load.slot, timer_id, destination.decode())
            for key, destination in pairs
            for due_ms, timer_id in (split_due_key(key),)
        ]

    async def _index(self, slot: int, key: bytes, value: bytes) -> None:
        timer_id = key[len(TIMER_PREFIX) :].decode()
        with suppress(RecordUnreadable):
            record = decode_record(value)
            if self._state.is_idle(timer_id):
                entry = (due_key(record.next_ms, timer_id), record.destination.encode())
                await self._state.store(slot, timer_id, record, [entry])


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, unless it is time to stop."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
