"""What the operations on timers and their delivery share: the schedule, and who works on which id.

One id is worked on by one change or one delivery at a time. That is what makes the answer to a
cancel true: while a delivery is under way there is no cancelling, and while a cancel is under way
no delivery begins.

Slots come and go while their timers are worked on. What was read while a slot was served must not
be written when it is served anew: another node may have changed it meanwhile. Each time has its
number, the term of the slot, by which that is noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress

from skyring.clock import Clock
from skyring.errors import DeliveryInProgress, Fenced, SkyringError, TooLarge
from skyring.storage.base import Storage, Write
from skyring.timers.counts import ChangeKind, TimerCounts
from skyring.timers.events import Events, about
from skyring.timers.recent import RecentIds
from skyring.timers.record import Hint, Record, timer_slot
from skyring.timers.schedule import Schedule

__all__ = ["TimerState"]

OUTCOME_BYTES = 8_192
"""More than the outcome of a delivery adds to a record: keys again, and the last error."""


def _always() -> bool:
    return True


class _Work:
    """A change or a delivery of one timer."""

    def __init__(self, delivery_in: int | None = None) -> None:
        self.delivery_in = delivery_in
        """The slot, if it is a delivery."""
        self.passed_over: list[Hint] = []
        self.ended: asyncio.Event | None = None  # made when somebody waits


class TimerState:
    """Timers of the slots that this node holds.

    Args:
        storage: where they are.
        clock: what time it is.
        slots: partitions of the key space.
        scheduled_max: timers held in memory.
        may_deliver: may this node act on its claims now? Asked before each delivery.
        events: told what happens to timers.
        gone: remembers timers that were delivered or cancelled, if operations can be repeated.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        slots: int,
        scheduled_max: int,
        may_deliver: Callable[[], bool] = _always,
        events: Events | None = None,
        gone: RecentIds | None = None,
    ) -> None:
        self.storage = storage
        self.clock = clock
        self.slots = slots
        self.schedule = Schedule(scheduled_max)
        self.may_deliver = may_deliver
        self.events = events
        self.counts = TimerCounts()
        self.gone = RecentIds(0.0, 1) if gone is None else gone
        self.wake = asyncio.Event()
        """Set when the first due time has changed."""
        self.unread = asyncio.Event()
        """Set when there are slots that have not been read at all."""
        self._work: dict[str, _Work] = {}

    # Slots that come and go

    def serve(self, slots: Iterable[int]) -> None:
        """Begin to deliver the timers of slots that the storage has acquired.

        A slot that comes back begins afresh. One that is served already goes on as it is.
        """
        self.schedule.serve(slots)
        self.unread.set()

    def pause(self, slots: Iterable[int]) -> None:
        """Begin no further delivery in these slots; changes go on, and no timer is forgotten."""
        self.schedule.pause(slots)

    def resume(self, slots: Iterable[int]) -> None:
        """Deliver the timers of paused slots again."""
        self.schedule.resume(slots)
        self.unread.set()
        self.wake.set()

    async def drained(self, slots: Iterable[int], timeout_s: float) -> set[int]:
        """Those of some paused slots that have no delivery under way.

        Args:
            timeout_s: how long the others are waited for.
        """
        wanted = set(slots)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while under_way := self._deliveries(wanted):
                    # All events are made before the first wait, during which others may end.
                    for ended in [self._ended(work) for work in under_way]:
                        await ended.wait()
        return wanted - {work.delivery_in for work in self._deliveries(wanted)}

    def drop(self, slots: Iterable[int]) -> None:
        """Deliver the timers of these slots no more: the claims on them are lost or given back.

        Until this is called the loss of a claim is taken for passing, and its timers are tried
        again. What a delivery that is under way comes to is not written.
        """
        self.schedule.drop(slots)

    def term(self, slot: int) -> int:
        """A number that is another one each time that a slot is served anew; 0 while it is not."""
        return self.schedule.term(slot)

    def _deliveries(self, slots: set[int]) -> list[_Work]:
        return [work for work in self._work.values() if work.delivery_in in slots]

    # Storage and schedule

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

    def changed(self, kind: ChangeKind, timer_id: str, record: Record) -> None:
        """A timer was changed, and that is stored: it is counted, and told to whoever listens."""
        self.counts.changes[kind] += 1
        if self.events is not None:
            self.events(kind, about(timer_id, record))

    def commit_bytes_max(self, wanted: int) -> int:
        """Bytes in one commit, at most ``wanted``: what becomes of a timer must fit as well."""
        bytes_max = self.storage.commit_bytes_max
        return wanted if bytes_max is None else min(wanted, bytes_max - OUTCOME_BYTES)

    async def commit(self, slot: int, writes: Sequence[Write]) -> None:
        """Commit; a caller that is cancelled meanwhile goes on only when the write has ended.

        Otherwise others would read what was there before, take it for the truth, and miss what
        the write brings a moment later.
        """
        if self.storage.commit_bytes_max is not None:
            _check_size(writes, self.commit_bytes_max(self.storage.commit_bytes_max))
        try:
            await self.storage.commit(slot, writes)
        except asyncio.CancelledError:
            with suppress(SkyringError):
                await self.storage.commit(slot, ())  # commits end in the order of their beginning
            raise

    async def read(self, slot: int, key: bytes) -> bytes | None:
        """Read what a change is about to be based on; the commit must follow without a pause.

        Raises:
            Fenced: also if the slot was lost meanwhile, and has come back; or if this node may not
                act on its claim, for then others may know better.
        """
        if not self.may_deliver():
            raise Fenced(f"slot {slot} is not held any more, perhaps")
        term = self.schedule.term(slot)
        value = await self.storage.get(slot, key)
        if self.schedule.term(slot) != term:
            raise Fenced(f"slot {slot} was lost while it was read")
        return value

    # Who works on which timer

    def is_delivering(self, timer_id: str) -> bool:
        """Is a delivery of this timer under way?"""
        work = self._work.get(timer_id)
        return work is not None and work.delivery_in is not None

    def is_idle(self, timer_id: str) -> bool:
        """Does nobody work on this timer?"""
        return timer_id not in self._work

    def begin_delivery(self, hint: Hint) -> bool:
        """Claim a due timer for delivery; False if it is being changed or delivered already.

        A hint that is passed over comes back when that work has ended: if the timer is still due
        then, it must not be forgotten. That of a paused slot comes back when it is resumed.
        """
        if not self.schedule.is_open(hint.slot):
            self.schedule.push(hint)
            return False
        work = self._work.get(hint.id)
        if work is not None:
            work.passed_over.append(hint)
            return False
        self._work[hint.id] = _Work(hint.slot)
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
            if work.delivery_in is not None:
                raise DeliveryInProgress(f"timer {timer_id} is being delivered")
            await self._ended(work).wait()
        self._work[timer_id] = _Work()
        try:
            yield
        finally:
            self._end(timer_id)

    async def idle(self, timer_id: str) -> None:
        """Wait until nobody works on a timer."""
        while (work := self._work.get(timer_id)) is not None:
            await self._ended(work).wait()

    def _ended(self, work: _Work) -> asyncio.Event:
        """Set when this work, which is under way, has ended."""
        if work.ended is None:
            work.ended = asyncio.Event()
        return work.ended

    def _end(self, timer_id: str) -> None:
        work = self._work.pop(timer_id)
        for hint in work.passed_over:
            self.schedule.push(hint)
            self.wake.set()
        if work.ended is not None:
            work.ended.set()


def _check_size(writes: Sequence[Write], bytes_max: int) -> None:
    """What is stored now must fit together with what a failed delivery adds to it."""
    size = sum(len(key) + len(value or b"") for key, value in writes)
    if size > bytes_max:
        raise TooLarge(f"a timer may have {bytes_max} bytes here, not {size}")
