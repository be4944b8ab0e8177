"""From the schedule to the transport and back: firing, and what follows from it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from skyring.errors import Fenced, RecordUnreadable, TooLarge, Unavailable
from skyring.settings import DeliverySettings, TimerSettings
from skyring.storage.base import Write
from skyring.tasks import wait_for_event
from skyring.timers.attempt import Attempts
from skyring.timers.counts import OutcomeName
from skyring.timers.dispatch import Dispatcher
from skyring.timers.events import about
from skyring.timers.reading import ROOM_PAUSE_S, STORAGE_PAUSE_S, ReadAhead
from skyring.timers.record import (
    Hint,
    Record,
    dead_key,
    decode_record,
    due_key,
    encode_record,
    timer_key,
    writes_delete,
    writes_put,
)
from skyring.timers.retry import Dead, Gone, Rescheduled, RetryPolicy, Transition, decide
from skyring.timers.state import TimerState
from skyring.transports.base import DeliveryInfo, Outcome, Transport

__all__ = ["Delivery"]

logger = logging.getLogger(__name__)

POP_MAX = 512
"""Due timers queued in one turn of the event loop."""
WAIT_S_MAX = 0.5
"""Longest sleep, so that a wall clock set forward is noticed."""
PASSED_OVER_MAX = 100
"""Hints in turn that lead nowhere, before others get the event loop."""
OUTCOMES: dict[type[Transition], OutcomeName] = {
    Gone: "delivered",
    Rescheduled: "retried",
    Dead: "dead",
}


class Delivery:
    """Fires the timers of one node.

    Args:
        state: what is shared with the operations.
        transports: loaded transports by name.
        timers: how far to read ahead.
        delivery: limits.
        policy: retry policy of timers without one of their own.
        random: numbers 0 <= x < 1, for jitter.
    """

    def __init__(
        self,
        state: TimerState,
        transports: Mapping[str, Transport],
        timers: TimerSettings,
        delivery: DeliverySettings,
        policy: RetryPolicy,
        random: Callable[[], float],
    ) -> None:
        self._state = state
        self._storage = state.storage
        self._clock = state.clock
        self._schedule = state.schedule
        self._counts = state.counts
        self._transports = transports
        self._settings = delivery
        self._reader = ReadAhead(state, timers.window_ms)
        self._policy = policy
        self._random = random
        self._attempts = Attempts()
        self._dispatcher = Dispatcher(
            delivery.in_flight_max,
            delivery.in_flight_per_destination_max,
            timers.scheduled_max,
            delivery.backlog_delay_ms,
        )
        self._held: deque[Hint] = deque()  # due, but there is no room in the queues
        self._held_max = timers.scheduled_max
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Fire timers until `stop`, then end the deliveries under way."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reader.run(self._stopping), name="timers-read-ahead")
            group.create_task(self._fire(group), name="timers-fire")

    def stop(self) -> None:
        """Begin no further delivery."""
        self._stopping.set()
        self._state.wake.set()
        self._state.unread.set()

    @property
    def in_flight(self) -> int:
        """Deliveries under way."""
        return self._dispatcher.in_flight

    @property
    def waiting(self) -> int:
        """Timers that are due and wait for a free place."""
        return self._dispatcher.waiting + len(self._held)

    # Firing

    async def _fire(self, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        wake = self._state.wake
        while not self._stopping.is_set():
            wake.clear()
            put_off = self._queue_due()
            while (hint := self._dispatcher.take()) is not None:
                group.create_task(self._work(hint))
            if put_off:
                await asyncio.gather(*(self._put_off(hint) for hint in put_off))
            now_ms, next_ms = self._clock.now_ms(), self._schedule.next_due_ms()
            if next_ms is not None and next_ms <= now_ms and not self._is_full():
                await asyncio.sleep(0)
                continue
            wait_s = WAIT_S_MAX if next_ms is None else min(WAIT_S_MAX, (next_ms - now_ms) / 1000)
            if self._held:
                wait_s = ROOM_PAUSE_S
            alarm = loop.call_later(wait_s, wake.set)
            await wake.wait()
            alarm.cancel()

    def _queue_due(self) -> list[Hint]:
        """Queue what is due and has room; which timers are to be put off?

        What has no room is held aside, so that it does not stand in front of the others' timers.
        """
        candidates = [self._held.popleft() for _ in range(min(len(self._held), POP_MAX))]
        if not self._is_full():
            candidates += self._schedule.pop_due(self._clock.now_ms(), POP_MAX)
        monotonic_ms = self._clock.monotonic_ms()
        put_off = []
        for hint in candidates:
            verdict = self._dispatcher.add(hint, monotonic_ms)
            if verdict == "hold":
                self._held.append(hint)
            elif verdict == "put off":
                put_off.append(hint)
        return put_off

    def _is_full(self) -> bool:
        return len(self._held) >= self._held_max

    async def _work(self, first: Hint) -> None:
        """Deliver one timer after the other, as long as one may begin."""
        hint: Hint | None = first
        passed_over = 0
        while hint is not None:
            try:
                if self._state.begin_delivery(hint):
                    await self._deliver(hint)
                else:
                    passed_over += 1
            finally:
                self._dispatcher.done(hint.destination)
            if passed_over >= PASSED_OVER_MAX:  # of a slot that was dropped, for instance
                passed_over = 0
                await asyncio.sleep(0)
            hint = None if self._stopping.is_set() else self._dispatcher.take()

    async def _deliver(self, hint: Hint) -> None:
        term = self._state.term(hint.slot)
        try:
            if not self._state.may_deliver():  # asked again below, when it counts
                await self._push_back(hint)
                return
            record = await self._read(hint, term)
            if record is None:
                return
            started_ms = self._clock.now_ms()
            if started_ms < hint.due_ms:  # the wall clock was set back meanwhile
                self._state.push(hint.slot, hint.id, record)
                return
            if not self._schedule.is_open(hint.slot):  # paused or dropped meanwhile
                self._schedule.push(hint)
                return
            if not self._state.may_deliver():
                await self._push_back(hint)
                return
            late_ms = started_ms - hint.due_ms
            if record.created_ms > hint.due_ms:  # it was asked for with a time that had passed
                late_ms = max(0, started_ms - record.created_ms)
            self._counts.lateness.observe(late_ms / 1000)
            began_s = self._clock.monotonic_s()
            outcome = await self._attempt(hint.id, record, started_ms)
            self._counts.duration.observe(self._clock.monotonic_s() - began_s)
            transition = decide(record, outcome, self._clock.now_ms(), self._policy, self._random())
            if await self._conclude(hint, term, record, transition):
                self._tell(hint.id, record, transition)
        finally:
            self._state.end_delivery(hint.id)

    async def _read(self, hint: Hint, term: int) -> Record | None:
        """The record that a hint leads to; None if the hint is stale or nothing can be read."""
        try:
            value = await self._state.read(hint.slot, timer_key(hint.id))
        except (Unavailable, Fenced):
            await self._push_back(hint)
            return None
        if value is None:  # cancelled or delivered meanwhile
            await self._tidy(hint, term)
            return None
        try:
            record = decode_record(value)
        except RecordUnreadable as error:
            # It stays where it is, for the program that wrote it.
            logger.error("timer %s cannot be delivered: %s", hint.id, error)
            return None
        if record.next_ms == hint.due_ms:
            return record
        await self._tidy(hint, term)  # often there is nothing: the timer was updated
        return None

    async def _push_back(self, hint: Hint) -> None:
        """It cannot be delivered now; unless its slot is dropped, it is tried again after a pause.

        A claim that is lost for good is dropped by others; until then it may come back.
        """
        if self._schedule.is_open(hint.slot):
            await wait_for_event(self._stopping, STORAGE_PAUSE_S)
        self._schedule.push(hint)
        self._state.wake.set()

    async def _tidy(self, hint: Hint, term: int) -> None:
        """Remove a key of the due index that has no record, or that of another time: damage."""
        key = due_key(hint.due_ms, hint.id)
        record: Record | None = None
        try:
            if await self._storage.get(hint.slot, key) is None:
                return  # as usual: it was cancelled, updated or delivered meanwhile
            # The record may have come just now, with this key: it is looked at once more.
            value = await self._state.read(hint.slot, timer_key(hint.id))
            record = None if value is None else decode_record(value)
        except (Unavailable, Fenced, RecordUnreadable):
            return
        if record is not None and record.next_ms == hint.due_ms:
            self._state.push(hint.slot, hint.id, record)
            return
        if self._state.term(hint.slot) != term:
            return
        writes: list[Write] = [(key, None)]
        if record is None:
            logger.error("timer %s was due, and its record is damaged or lost", hint.id)
            self._storage.damage.slots.add(hint.slot)  # whose key it was will show
        else:
            logger.error("timer %s stood in the due index at a time of another", hint.id)
            writes.append((due_key(record.next_ms, hint.id), record.destination.encode()))
        if await self._commit(hint.slot, term, writes) and record is not None:
            self._state.push(hint.slot, hint.id, record)

    async def _attempt(self, timer_id: str, record: Record, started_ms: int) -> Outcome:
        callback = record.callback
        transport = self._transports.get(callback.transport)
        if transport is None:
            return Outcome.retry(f"the transport {callback.transport} is not loaded")
        timeout_ms = self._settings.timeout_ms
        if callback.timeout_ms is not None:
            timeout_ms = min(callback.timeout_ms, self._settings.timeout_ms_max)
        info = DeliveryInfo(
            id=timer_id,
            attempt=record.attempts + 1,
            due_ms=record.due_ms,
            started_ms=started_ms,
            timeout_ms=timeout_ms,
            content_type=record.content_type,
        )
        if self._state.events is not None:
            self._state.events("execute", about(timer_id, record, attempt=info.attempt))
        return await self._attempts.attempt(transport, callback, record.payload, info)

    async def _conclude(
        self, hint: Hint, term: int, record: Record, transition: Transition
    ) -> bool:
        """Store what became of a timer, and take note if there is more to come.

        False if its slot was lost: then others deliver it again.
        """
        writes = writes_delete(hint.id, record)
        if isinstance(transition, Rescheduled):
            writes += writes_put(hint.id, transition.record)
        elif isinstance(transition, Dead):
            writes.append((dead_key(hint.id), encode_record(transition.record)))
        if not await self._commit(hint.slot, term, writes):
            return False
        if isinstance(transition, Rescheduled):
            self._state.push(hint.slot, hint.id, transition.record)
        else:
            self._state.gone.add(hint.id, "delivery", record.mark, self._clock.monotonic_s())
        return True

    def _tell(self, timer_id: str, record: Record, transition: Transition) -> None:
        """What a delivery has come to, which is stored: it is counted, and told."""
        attempt = record.attempts + 1
        self._counts.outcomes[OUTCOMES[type(transition)]] += 1
        if isinstance(transition, Dead):
            error = transition.record.last_error
            logger.warning(
                "timer %s is a dead letter after %d attempts: %s", timer_id, attempt, error
            )
        events = self._state.events
        if events is None:
            return
        if isinstance(transition, Gone):
            events("success", about(timer_id, record, attempt=attempt))
            return
        fields = about(timer_id, record, attempt=attempt, error=transition.record.last_error)
        events("fail", {**fields, "retry": isinstance(transition, Rescheduled)})
        if isinstance(transition, Dead):
            events("dead", fields)

    async def _put_off(self, hint: Hint) -> None:
        """Make room: a destination with a long backlog gets its timer later; no attempt counts."""
        if not self._state.begin_delivery(hint):
            return
        term = self._state.term(hint.slot)
        try:
            record = await self._read(hint, term)
            if record is not None:
                delay_ms = int(self._settings.backlog_delay_ms * (1 + self._random()))
                next_ms = max(self._clock.now_ms() + delay_ms, record.due_ms)
                later = replace(record, next_ms=next_ms)
                await self._conclude(hint, term, record, Rescheduled(later))
        finally:
            self._state.end_delivery(hint.id)

    async def _commit(self, slot: int, term: int, writes: Sequence[Write]) -> bool:
        """Store what has happened already: the storage is waited for, whatever it takes.

        If it never comes back, the node stops. These writes may be repeated safely, but not when
        the slot has been lost, even if it has come back: others may have changed the timer.

        Returns:
            Is it stored? If not, whoever has the slot then delivers the timer again.
        """
        while self._state.term(slot) == term:
            try:
                await self._storage.commit(slot, writes)
            except (Unavailable, Fenced):
                await asyncio.sleep(STORAGE_PAUSE_S)
            except TooLarge as error:  # the limit of the storage has become smaller
                logger.error("what became of a timer cannot be stored: %s", error)
                return False
            else:
                return True
        return False
