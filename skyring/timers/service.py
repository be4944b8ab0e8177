"""Operations on timers: create, update, cancel, get, bulk create. HTTP and embedding share them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from os import urandom
from typing import Any, Literal, NamedTuple

from msgspec import UNSET, Struct
from msgspec.structs import replace

from skyring.errors import (
    Conflict,
    DeliveryInProgress,
    NotFound,
    RecordUnreadable,
    SkyringError,
)
from skyring.settings import DeliverySettings, RetrySettings
from skyring.storage.base import Write
from skyring.timers.ids import IdSource
from skyring.timers.preparing import Preparer
from skyring.timers.recent import Ending
from skyring.timers.record import (
    Record,
    dead_key,
    decode_record,
    timer_key,
    view,
    writes_delete,
    writes_put,
)
from skyring.timers.request import BulkEntry, TimerRequest, check_id
from skyring.timers.state import TimerState
from skyring.transports.base import Transport

__all__ = ["ENTRIES_PER_TURN", "Created", "NewTimer", "Stored", "TimerService"]

ENTRIES_PER_TURN = 200
"""Bulk entries prepared before others get the event loop, so that no delivery is late for them."""
COMMIT_BYTES_MAX = 256 << 10
"""Writes in one commit of a bulk create: a commit may have to travel in one message."""


class Created(Struct, frozen=True):
    """The answer to a create: the id, and whether the timer is new."""

    id: str
    new: bool


class NewTimer(NamedTuple):
    """A timer that is to be stored: a request that was checked."""

    id: str
    record: Record
    named: bool
    """Was the id given by the user, so that the timer may be there already?"""


class Stored(NamedTuple):
    """A timer as it is in the storage."""

    state: Literal["scheduled", "delivering", "dead"]
    value: bytes


class TimerService:
    """Timers as their users see them, those of the slots that this node holds.

    Args:
        state: what is shared with the delivery.
        transports: loaded transports by name.
        delivery: limits that a callback's own ``timeout_ms`` must keep.
        retry: limits that a callback's own ``retry`` must keep.
        random_bytes: makes so many random bytes, for ids.
    """

    def __init__(
        self,
        state: TimerState,
        transports: Mapping[str, Transport],
        delivery: DeliverySettings,
        retry: RetrySettings,
        random_bytes: Callable[[int], bytes] = urandom,
    ) -> None:
        self.clock = state.clock
        self.slots = state.slots
        self._state = state
        self._storage = state.storage
        self._ids = IdSource(random_bytes)
        self.prepare = Preparer(state.clock, transports, delivery, retry).prepare
        """The record of a request, checked in every respect; raises InvalidRequest."""

    async def create(self, request: TimerRequest, timer_id: str | None = None) -> Created:
        """Store a timer; it is durable when this returns.

        Args:
            timer_id: the user's own id, which makes the request safe to repeat.

        Raises:
            InvalidRequest: naming the field at fault.
            Conflict: the id is taken by other content, or by a dead letter.
            Unavailable: nothing is stored (Uncertain: perhaps it is).
        """
        if timer_id is not None:
            check_id(timer_id)
        record = self.prepare(request)
        if timer_id is not None:
            return await self._create_named(timer_id, record)
        timer_id = self._ids.new(record.created_ms)
        slot = self._state.slot(timer_id)
        await self._state.store(slot, timer_id, record, writes_put(timer_id, record))
        self._state.changed("create", timer_id, record)
        return Created(timer_id, True)

    async def create_many(
        self, entries: Sequence[BulkEntry | SkyringError]
    ) -> list[Created | SkyringError]:
        """Store many timers with few commits; one result per entry, in order.

        An entry that could not be decoded is passed as the error, which becomes its result.
        """
        prepared = await self.prepare_many(entries)
        news = [entry for entry in prepared if isinstance(entry, NewTimer)]
        results = iter(await self.add_many(news))
        return [next(results) if isinstance(entry, NewTimer) else entry for entry in prepared]

    async def update(self, timer_id: str, request: TimerRequest) -> None:
        """Replace a pending timer as a whole, or leave it as it was.

        Raises:
            InvalidRequest: naming the field at fault.
            NotFound: no timer with this id is pending.
            DeliveryInProgress: too late.
            Unavailable: it is as it was (Uncertain: it is either as it was or as requested).
        """
        await self.replace(timer_id, self.prepare(request))

    async def cancel(self, timer_id: str) -> None:
        """Remove a pending timer; when this returns no delivery of it can begin any more.

        Raises:
            NotFound: no timer with this id is pending.
            DeliveryInProgress: too late.
            Unavailable: it is still there (Uncertain: perhaps it is).
        """
        async with self._state.changing(timer_id):
            slot, old = await self._pending(timer_id)
            await self._state.commit(slot, writes_delete(timer_id, old))
            self._state.gone.add(timer_id, "cancel", old.mark, self.clock.monotonic_s())
        self._state.changed("cancel", timer_id, old)

    async def get(self, timer_id: str) -> dict[str, Any]:
        """A timer, pending or dead, as the API shows it.

        Raises:
            NotFound: there is none with this id.
        """
        stored = await self.find(timer_id)
        return view(timer_id, stored.value, stored.state)

    # The same with requests that have been prepared, perhaps by another node

    def slot(self, timer_id: str) -> int:
        """The slot of a timer."""
        return self._state.slot(timer_id)

    def wanted(self, request: TimerRequest, timer_id: str | None) -> NewTimer:
        """What a request to create a timer wants to have stored.

        Raises:
            InvalidRequest: naming the field at fault.
        """
        if timer_id is not None:
            check_id(timer_id)
        record = self.prepare(request)
        if timer_id is not None:
            return NewTimer(timer_id, record, True)
        return NewTimer(self._ids.new(record.created_ms), record, False)

    async def prepare_many(
        self, entries: Sequence[BulkEntry | SkyringError]
    ) -> list[NewTimer | SkyringError]:
        """What many requests want to have stored, or what is wrong with them, in order."""
        prepared: list[NewTimer | SkyringError] = []
        for index, entry in enumerate(entries):
            if index % ENTRIES_PER_TURN == ENTRIES_PER_TURN - 1:
                await asyncio.sleep(0)
            try:
                if isinstance(entry, SkyringError):
                    raise entry
                timer_id = None if entry.id is UNSET else str(entry.id)
                prepared.append(self.wanted(entry, timer_id))
            except SkyringError as error:
                prepared.append(error)
        return prepared

    async def add(self, timer: NewTimer, *, repeated: bool = False) -> Created:
        """Store a timer. Errors are those of `create`.

        Args:
            repeated: it may have been stored by the same request already.
        """
        timer_id, record, named = timer
        if repeated:
            # The first attempt may be on its way: commits end in the order of their beginning.
            await self._storage.commit(self._state.slot(timer_id), ())
        if named:
            return await self._create_named(timer_id, record, repeated=repeated)
        if repeated:
            with suppress(Conflict):  # nobody else has made this id: it is dead, or was updated
                await self._create_named(timer_id, record, repeated=True)
            return Created(timer_id, True)
        slot = self._state.slot(timer_id)
        await self._state.store(slot, timer_id, record, writes_put(timer_id, record))
        self._state.changed("create", timer_id, record)
        return Created(timer_id, True)

    async def add_many(
        self, timers: Sequence[NewTimer], *, repeated: bool = False
    ) -> list[Created | SkyringError]:
        """Store many timers with few commits; one result for each, in order.

        Args:
            repeated: they may have been stored by the same request already.
        """
        results: list[Created | SkyringError | None] = [None] * len(timers)
        slots: dict[int, list[int]] = {}
        singly: list[int] = []
        for index, timer in enumerate(timers):
            if index % ENTRIES_PER_TURN == ENTRIES_PER_TURN - 1:
                await asyncio.sleep(0)
            if timer.named or repeated:
                singly.append(index)
            else:
                slots.setdefault(self._state.slot(timer.id), []).append(index)
        await asyncio.gather(
            *(self._store_many(slot, timers, chosen, results) for slot, chosen in slots.items())
        )
        for start in range(0, len(singly), ENTRIES_PER_TURN):
            chosen = singly[start : start + ENTRIES_PER_TURN]
            await asyncio.gather(
                *(self._add_to(results, index, timers[index], repeated) for index in chosen)
            )
        return [result for result in results if result is not None]

    async def replace(self, timer_id: str, record: Record) -> None:
        """Put a record in the place of a pending timer's. Errors are those of `update`."""
        async with self._state.changing(timer_id):
            slot, old = await self._pending(timer_id)
            record = replace(record, mark=old.mark)  # who created it is the same
            writes = writes_delete(timer_id, old) + writes_put(timer_id, record)
            await self._state.store(slot, timer_id, record, writes)
        self._state.changed("update", timer_id, record)

    async def find(self, timer_id: str) -> Stored:
        """A timer, pending or dead, as it is stored.

        Raises:
            NotFound: there is none with this id.
        """
        slot = self._state.slot(timer_id)
        value = await self._storage.get(slot, timer_key(timer_id))
        if value is not None:
            return Stored(
                "delivering" if self._state.is_delivering(timer_id) else "scheduled", value
            )
        value = await self._storage.get(slot, dead_key(timer_id))
        if value is not None:
            return Stored("dead", value)
        raise NotFound(f"no timer has the id {timer_id!r}")

    def went_by(self, timer_id: str) -> Ending | None:
        """What a timer went by a short while ago; None if that is not known."""
        return self._state.gone.ending(timer_id)

    async def _pending(self, timer_id: str) -> tuple[int, Record]:
        slot = self._state.slot(timer_id)
        value = await self._state.read(slot, timer_key(timer_id))
        if value is None:
            raise NotFound(f"no timer has the id {timer_id!r}")
        return slot, decode_record(value)

    async def _store_many(
        self,
        slot: int,
        timers: Sequence[NewTimer],
        chosen: list[int],
        results: list[Created | SkyringError | None],
    ) -> None:
        """Store timers of one slot, with one commit unless they are large."""
        commits = []
        batch: list[int] = []
        writes: list[Write] = []
        size, bytes_max = 0, self._state.commit_bytes_max(COMMIT_BYTES_MAX)
        for index in chosen:
            more = writes_put(timers[index].id, timers[index].record)
            more_bytes = sum(len(key) + len(value or b"") for key, value in more)
            if batch and size + more_bytes > bytes_max:
                commits.append(self._store_batch(slot, timers, batch, writes, results))
                batch, writes, size = [], [], 0
            batch.append(index)
            writes += more
            size += more_bytes
        last = self._store_batch(slot, timers, batch, writes, results)
        if commits:
            await asyncio.gather(*commits, last)
        else:
            await last

    async def _store_batch(
        self,
        slot: int,
        timers: Sequence[NewTimer],
        batch: list[int],
        writes: list[Write],
        results: list[Created | SkyringError | None],
    ) -> None:
        error: SkyringError | None = None
        try:
            await self._state.commit(slot, writes)
        except SkyringError as failure:
            error = failure
        finally:
            for index in batch:
                self._state.push(slot, timers[index].id, timers[index].record)
        for index in batch:
            timer = timers[index]
            results[index] = Created(timer.id, True) if error is None else error
            if error is None:
                self._state.changed("create", timer.id, timer.record)

    async def _add_to(
        self,
        results: list[Created | SkyringError | None],
        index: int,
        timer: NewTimer,
        repeated: bool,
    ) -> None:
        try:
            results[index] = await self.add(timer, repeated=repeated)
        except SkyringError as error:
            results[index] = error

    async def _create_named(
        self, timer_id: str, record: Record, *, repeated: bool = False
    ) -> Created:
        slot = self._state.slot(timer_id)
        while True:
            try:
                async with self._state.changing(timer_id):
                    return await self._create_once(slot, timer_id, record, repeated)
            except DeliveryInProgress:
                value = await self._storage.get(slot, timer_key(timer_id))
                if value is not None:
                    return _existing(timer_id, record, decode_record(value))
                await self._state.idle(timer_id)  # it has just been delivered

    async def _create_once(
        self, slot: int, timer_id: str, record: Record, repeated: bool
    ) -> Created:
        pending, dead = await asyncio.gather(
            self._state.read(slot, timer_key(timer_id)),
            self._state.read(slot, dead_key(timer_id)),
        )
        if repeated and (_was_made_by(pending, record.mark) or _was_made_by(dead, record.mark)):
            return Created(timer_id, True)
        if pending is not None:
            return _existing(timer_id, record, decode_record(pending))
        if dead is not None:
            raise Conflict(f"{timer_id!r} is a dead letter; retry it or delete it first")
        if repeated and self._state.gone.was_made_by(timer_id, record.mark):
            return Created(timer_id, True)  # it was stored, and is delivered or cancelled already
        await self._state.store(slot, timer_id, record, writes_put(timer_id, record))
        self._state.changed("create", timer_id, record)
        return Created(timer_id, True)


def _was_made_by(value: bytes | None, mark: int) -> bool:
    """Is this the record of a timer that the request with this mark has created?"""
    if value is None or not mark:
        return False
    with suppress(RecordUnreadable):
        return decode_record(value).mark == mark
    return False


def _existing(timer_id: str, wanted: Record, found: Record) -> Created:
    if found.same_content(wanted):
        return Created(timer_id, False)
    raise Conflict(f"{timer_id!r} is the id of a timer with other content")
