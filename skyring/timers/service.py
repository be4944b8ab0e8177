"""Operations on timers: create, update, cancel, get, bulk create. HTTP and embedding share them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import UNSET

from skyring.errors import (
    Conflict,
    DeliveryInProgress,
    InvalidRequest,
    NotFound,
    SkyringError,
)
from skyring.settings import DeliverySettings, RetrySettings
from skyring.timers.ids import IdSource
from skyring.timers.record import (
    Record,
    dead_key,
    decode_record,
    timer_key,
    view,
    writes_delete,
    writes_put,
)
from skyring.timers.request import BulkEntry, TimerRequest, check_id, due_of, payload_of
from skyring.timers.retry import REASON_CHARS_MAX
from skyring.timers.state import TimerState
from skyring.transports.base import Callback, Transport

__all__ = ["Created", "TimerService"]

logger = logging.getLogger(__name__)

DESTINATION_CHARS_MAX = 1_000
"""More is no name of a receiver."""

ENTRIES_PER_TURN = 200
"""Bulk entries prepared before others get the event loop, so that no delivery is late for them."""


class Created(NamedTuple):
    """The answer to a create: the id, and whether the timer is new."""

    id: str
    new: bool


class TimerService:
    """Timers as their users see them.

    Args:
        state: what is shared with the delivery.
        transports: loaded transports by name.
        delivery: limits that a callback's own ``timeout_ms`` must keep.
        retry: limits that a callback's own ``retry`` must keep.
    """

    def __init__(
        self,
        state: TimerState,
        transports: Mapping[str, Transport],
        delivery: DeliverySettings,
        retry: RetrySettings,
    ) -> None:
        self._state = state
        self._storage = state.storage
        self._transports = transports
        self._delivery = delivery
        self._retry = retry
        self._ids = IdSource()

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
        return Created(timer_id, True)

    async def create_many(
        self, entries: Sequence[BulkEntry | SkyringError]
    ) -> list[Created | SkyringError]:
        """Store many timers with few commits; one result per entry, in order.

        An entry that could not be decoded is passed as the error, which becomes its result.
        """
        results: list[Created | SkyringError | None] = [None] * len(entries)
        slots: dict[int, list[tuple[int, str, Record]]] = {}
        for index, entry in enumerate(entries):
            if index % ENTRIES_PER_TURN == ENTRIES_PER_TURN - 1:
                await asyncio.sleep(0)
            try:
                if isinstance(entry, SkyringError):
                    raise entry
                if entry.id is not UNSET:
                    continue  # looked after below, one by one
                record = self.prepare(entry)
            except SkyringError as error:
                results[index] = error
            else:
                timer_id = self._ids.new(record.created_ms)
                slots.setdefault(self._state.slot(timer_id), []).append((index, timer_id, record))
        await asyncio.gather(*(self._store_many(*item, results) for item in slots.items()))
        for start in range(0, len(entries), ENTRIES_PER_TURN):
            await asyncio.gather(
                *(
                    self._create_entry(index, entry, results)
                    for index, entry in enumerate(entries[start : start + ENTRIES_PER_TURN], start)
                    if isinstance(entry, BulkEntry) and entry.id is not UNSET
                )
            )
        return [result for result in results if result is not None]

    async def update(self, timer_id: str, request: TimerRequest) -> None:
        """Replace a pending timer as a whole, or leave it as it was.

        Raises:
            InvalidRequest: naming the field at fault.
            NotFound: no timer with this id is pending.
            DeliveryInProgress: too late.
            Unavailable: it is as it was (Uncertain: it is either as it was or as requested).
        """
        record = self.prepare(request)
        async with self._state.changing(timer_id):
            slot, old = await self._pending(timer_id)
            writes = writes_delete(timer_id, old) + writes_put(timer_id, record)
            await self._state.store(slot, timer_id, record, writes)

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

    async def get(self, timer_id: str) -> dict[str, Any]:
        """A timer, pending or dead, as the API shows it.

        Raises:
            NotFound: there is none with this id.
        """
        slot = self._state.slot(timer_id)
        value = await self._storage.get(slot, timer_key(timer_id))
        if value is not None:
            state = "delivering" if self._state.is_delivering(timer_id) else "scheduled"
            return view(timer_id, value, state)
        value = await self._storage.get(slot, dead_key(timer_id))
        if value is not None:
            return view(timer_id, value, "dead")
        raise NotFound(f"no timer has the id {timer_id!r}")

    def prepare(self, request: TimerRequest) -> Record:
        """The record of a request, checked in every respect.

        Raises:
            InvalidRequest: naming the field at fault.
        """
        now_ms = self._state.clock.ceil_ms()
        due_ms, timeout_ms = due_of(request, now_ms)
        data_kind, payload = payload_of(request)
        callback = request.callback
        transport = self._transports.get(callback.transport)
        if transport is None:
            raise InvalidRequest(
                f"no transport of this name is loaded; there are: {', '.join(self._transports)}",
                "callback.transport",
            )
        destination = _destination(transport, callback)
        if callback.retry is not None or callback.timeout_ms is not None:
            self._check_limits(callback)
        return Record(
            created_ms=now_ms,
            due_ms=due_ms,
            next_ms=due_ms,
            timeout_ms=timeout_ms,
            data_kind=data_kind,
            payload=payload,
            callback=callback,
            destination=destination,
        )

    def _check_limits(self, callback: Callback) -> None:
        own = callback.retry
        limits = [("callback.timeout_ms", callback.timeout_ms, self._delivery.timeout_ms_max)]
        if own is not None:
            limits += [
                ("callback.retry.attempts", own.attempts, self._retry.attempts_max),
                ("callback.retry.backoff_ms", own.backoff_ms, self._retry.max_ms_max),
                ("callback.retry.max_ms", own.max_ms, self._retry.max_ms_max),
            ]
        for field, value, largest in limits:
            if value is not None and not 1 <= value <= largest:
                raise InvalidRequest(f"must be a whole number from 1 to {largest}", field)

    async def _pending(self, timer_id: str) -> tuple[int, Record]:
        slot = self._state.slot(timer_id)
        value = await self._storage.get(slot, timer_key(timer_id))
        if value is None:
            raise NotFound(f"no timer has the id {timer_id!r}")
        return slot, decode_record(value)

    async def _store_many(
        self,
        slot: int,
        timers: list[tuple[int, str, Record]],
        results: list[Created | SkyringError | None],
    ) -> None:
        writes = [write for _, timer_id, record in timers for write in writes_put(timer_id, record)]
        error: SkyringError | None = None
        try:
            await self._state.commit(slot, writes)
        except SkyringError as failure:
            error = failure
        finally:
            for _, timer_id, record in timers:
                self._state.push(slot, timer_id, record)
        for index, timer_id, _ in timers:
            results[index] = Created(timer_id, True) if error is None else error

    async def _create_entry(
        self, index: int, entry: BulkEntry, results: list[Created | SkyringError | None]
    ) -> None:
        try:
            results[index] = await self.create(entry, str(entry.id))
        except SkyringError as error:
            results[index] = error

    async def _create_named(self, timer_id: str, record: Record) -> Created:
        slot = self._state.slot(timer_id)
        while True:
            try:
                async with self._state.changing(timer_id):
                    return await self._create_once(slot, timer_id, record)
            except DeliveryInProgress:
                value = await self._storage.get(slot, timer_key(timer_id))
                if value is not None:
                    return _existing(timer_id, record, decode_record(value))
                await self._state.idle(timer_id)  # it has just been delivered

    async def _create_once(self, slot: int, timer_id: str, record: Record) -> Created:
        pending, dead = await asyncio.gather(
            self._storage.get(slot, timer_key(timer_id)),
            self._storage.get(slot, dead_key(timer_id)),
        )
        if pending is not None:
            return _existing(timer_id, record, decode_record(pending))
        if dead is not None:
            raise Conflict(f"{timer_id!r} is a dead letter; retry it or delete it first")
        await self._state.store(slot, timer_id, record, writes_put(timer_id, record))
        return Created(timer_id, True)


def _destination(transport: Transport, callback: Callback) -> str:
    """Have a callback checked by its transport, which may be anybody's code.

    Its ValueError is about the callback, as InvalidRequest is; other errors are faults of its own.
    """
    destination: object
    try:
        transport.check(callback)
        destination = transport.destination(callback)
    except SkyringError:
        raise
    except ValueError as error:
        reason = str(error)[:REASON_CHARS_MAX].encode("utf-8", "replace").decode()
        raise InvalidRequest(reason or "it cannot be used", "callback") from error
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        logger.exception("the transport %s cannot check a callback", transport.name)
        raise InvalidRequest(
            f"the transport {transport.name} cannot check it ({type(error).__name__})", "callback"
        ) from error
    if type(destination) is not str or not _can_be_kept(destination):
        raise InvalidRequest(f"the transport {transport.name} names no destination", "callback")
    if destination.startswith(transport.name):
        return destination
    return f"{transport.name}:{destination}"  # two transports may use the same words


def _can_be_kept(destination: str) -> bool:
    return len(destination) <= DESTINATION_CHARS_MAX and (
        destination.isascii() or destination.encode("utf-8", "replace").decode() == destination
    )


def _existing(timer_id: str, wanted: Record, found: Record) -> Created:
    if found.same_content(wanted):
        return Created(timer_id, False)
    raise Conflict(f"{timer_id!r} is the id of a timer with other content")
