"""What the operations on timers and their delivery share: the schedule, and who works on which id.

One id is worked on by one change or one delivery at a time. That is what makes the answer to a
cancel true: while a delivery is under way there is no cancelling, and while a cancel is under way
no delivery begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from skyring.clock import Clock
from skyring.errors import DeliveryInProgress, SkyringError
from skyring.storage.base import Storage, Write
from skyring.timers.record import Hint, Record, timer_slot
from skyring.timers.schedule import Schedule

__all__ = ["TimerState"]


class _Work:
    """A change or a delivery of one timer."""

    def __init__(self, *, delivery: bool) -> None:
        self.delivery = delivery
        self.passed_over: list[Hint] = []
        self.ended: asyncio.Event | None = None  # made when somebody waits


class TimerState:
    """Timers of the slots that this node holds.

    Args:
        storage: where they are.
        clock: what time it is.
        slots: partitions of the key space.
        scheduled_max: timers held in memory.
    """

    def __init__(self, storage: Storage, clock: Clock, slots: int, scheduled_max: int) -> None:
        self.storage = storage
        self.clock = clock
        self.slots = slots
        self.schedule = Schedule(scheduled_max)
        self.wake = asyncio.Event()
        """Set when the first due time has changed."""
        self._work: dict[str, _Work] = {}

    def slot(self, timer_id: str) -> int:
        """The slot of a timer."""
        return timer_slot(timer_id, self.slots)

    def push(self, slot: int, timer_id: str, record: Record) -> None:
        """Take note of a timer that is, or may be, in the storage as ``record``."""
        if self.schedule.is_beyond(slot, record.next_ms):
            return
        if self.schedule.push(Hint(record.next_ms, slot, timer_id, record.destination)):
            self.wake.set()

    async def store(
        self, slot: int, timer_id: str, record: Record, writes: Sequence[Write]
    ) -> None:
        """Commit what leads to ``record``, and take note of it. Errors are those of the storage."""
        try:
            await self.commit(slot, writes)
        finally:
            # Also when it failed, or nobody waits any more: if it is stored after all it has to
            # fire, and if not the hint leads nowhere.
            self.push(slot, timer_id, record)

    async def commit(self, slot: int, writes: Sequence[Write]) -> None:
        """Commit; a caller that is cancelled meanwhile goes on only when the write has ended.

        Otherwise others would read what was there before, take it for the truth, and miss what
        the write brings a moment later.
        """
        try:
            await self.storage.commit(slot, writes)
        except asyncio.CancelledError:
            with suppress(SkyringError):
                await self.storage.commit(slot, ())  # commits end in the order of their beginning
            raise

    def is_delivering(self, timer_id: str) -> bool:
        """Is a delivery of this timer under way?"""
        work = self._work.get(timer_id)
        return work is not None and work.delivery

    def is_idle(self, timer_id: str) -> bool:
        """Does nobody work on this timer?"""
        return timer_id not in self._work

    def begin_delivery(self, hint: Hint) -> bool:
        """Claim a due timer for delivery; False if it is being changed or delivered already.

        A hint that is passed over comes back when that work has ended: if the timer is still due
        then, it must not be forgotten.
        """
        work = self._work.get(hint.id)
        if work is not None:
            work.passed_over.append(hint)
            return False
        self._work[hint.id] = _Work(delivery=True)
        return True

    def end_delivery(self, timer_id: str) -> None:
        """The delivery and its bookkeeping are over."""
        self._end(timer_id)

    @asynccontextmanager
    async def changing(self, timer_id: str) -> AsyncIterator[None]:
        """Keep others away from a timer while it is changed.

        Raises:
            DeliveryInProgress: a delivery has begun.
        """
        while (work := self._work.get(timer_id)) is not None:
            if work.delivery:
                raise DeliveryInProgress(f"timer {timer_id} is being delivered")
            await self._wait(work)
        self._work[timer_id] = _Work(delivery=False)
        try:
            yield
        finally:
            self._end(timer_id)

    async def idle(self, timer_id: str) -> None:
        """Wait until nobody works on a timer."""
        while (work := self._work.get(timer_id)) is not None:
            await self._wait(work)

    async def _wait(self, work: _Work) -> None:
        if work.ended is None:
            work.ended = asyncio.Event()
        await work.ended.wait()

    def _end(self, timer_id: str) -> None:
        work = self._work.pop(timer_id)
        for hint in work.passed_over:
            self.schedule.push(hint)
            self.wake.set()
        if work.ended is not None:
            work.ended.set()
