"""Reading ahead: the near future of the due index, brought into the schedule."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from skyring.errors import DeliveryInProgress, Fenced, RecordUnreadable, Unavailable
from skyring.tasks import wait_for_event
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

__all__ = ["ROOM_PAUSE_S", "STORAGE_PAUSE_S", "ReadAhead"]

logger = logging.getLogger(__name__)

LOAD_MAX = 500
"""Keys read at once."""
STEPS_MS = (1, 3_000, 12_000)
"""How far all slots are read before any is read farther: when memory is full it holds the near."""
PAUSE_S_MAX = 1.0
"""Longest pause, so that a wall clock set forward is noticed."""
STORAGE_PAUSE_S = 0.2
"""Pause before the storage is asked again while it is unavailable."""
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
            stop: ends it, as soon as ``state.unread`` is set as well.
        """
        pause_s = min(PAUSE_S_MAX, self._window_ms / 2000)
        unread = self._state.unread
        while not stop.is_set():
            unread.clear()
            self._schedule.clear_away()
            now_ms = self._clock.now_ms()
            could_read = True
            if self._schedule.behind(now_ms + self._window_ms // 2):
                could_read = await self._load(now_ms)
            for slot in sorted(filter(self._schedule.is_open, self._storage.damage.slots)):
                if not stop.is_set() and await self._reindex(slot):
                    self._storage.damage.slots.discard(slot)
            if not could_read:
                await wait_for_event(unread, min(pause_s, STORAGE_PAUSE_S))
            elif self._schedule.behind(now_ms):  # memory is full of what is due already
                await self._wait_for_room(pause_s)
            else:
                await wait_for_event(unread, pause_s)

    async def _wait_for_room(self, pause_s: float) -> None:
        for _ in range(1 + int(pause_s / ROOM_PAUSE_S)):
            await wait_for_event(self._state.unread, ROOM_PAUSE_S)
            if self._schedule.has_room() or self._state.unread.is_set():
                return

    async def _load(self, now_ms: int) -> bool:
        """Read all slots up to the end of the window, the near future of all before the far one.

        It ends early when slots have come, whose near future goes before the far one of others.
        False if a slot could not be read.
        """
        away: set[int] = set()
        for ahead_ms in (*STEPS_MS, self._window_ms):
            until_ms = now_ms + min(ahead_ms, self._window_ms)
            while behind := [s for s in self._schedule.behind(until_ms) if s not in away]:
                for slot in behind:
                    if not await self._load_slot(slot, until_ms):
                        away.add(slot)
                    if self._state.unread.is_set():
                        return not away
                all_read = away.issuperset(self._schedule.behind(until_ms))
                if not all_read and not self._schedule.make_room(until_ms):
                    return not away  # memory is full of what is nearer
        return not away

    async def _load_slot(self, slot: int, until_ms: int) -> bool:
        while (load := self._schedule.begin_load(slot, until_ms, LOAD_MAX)) is not None:
            try:
                self._schedule.end_load(load, await self._scan(load))
            except (Unavailable, Fenced) as error:
                # A claim that is lost for good is dropped by others; until then it may come back.
                self._schedule.abort_load(load)
                logger.debug("slot %d cannot be read: %s", slot, error)
                return False
            self._state.wake.set()
        return True

    async def _reindex(self, slot: int) -> bool:
        """Write the due index of a slot anew: damage in it must not keep timers from firing.

        False if that has to be tried again.
        """
        logger.info("the due index of slot %d is written anew after damage", slot)
        start = TIMER_PREFIX
        while True:
            try:
                pairs = await self._storage.scan(slot, start, TIMER_STOP, LOAD_MAX)
                await asyncio.gather(*(self._index(slot, key) for key, _ in pairs))
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

    async def _index(self, slot: int, key: bytes) -> None:
        timer_id = key[len(TIMER_PREFIX) :].decode()
        # Whoever delivers it has found it.
        with suppress(RecordUnreadable, DeliveryInProgress):
            async with self._state.changing(timer_id):
                value = await self._state.read(slot, key)
                if value is None:
                    return
                record = decode_record(value)
                entry = (due_key(record.next_ms, timer_id), record.destination.encode())
                await self._state.store(slot, timer_id, record, [entry])
