"""Pages over all slots in one order, and dead letters."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

from msgspec.structs import replace

from skyring.errors import InvalidRequest, NotFound
from skyring.storage.base import Storage
from skyring.timers.record import (
    DUE_PREFIX,
    dead_key,
    decode_record,
    due_key,
    split_due_key,
    timer_key,
    view,
    writes_put,
)
from skyring.timers.schedule import DUE_STOP
from skyring.timers.state import TimerState

__all__ = ["Page", "TimerPages", "merged_scan"]

READS_PER_TURN = 50
"""Records read together: the most by which a page may exceed its bytes."""
DEAD_START, DEAD_STOP = b"x/", b"x0"


class Page(NamedTuple):
    """Some timers, and where to go on; ``cursor`` is None after the last page."""

    timers: list[dict[str, Any]]
    cursor: str | None


class Found(NamedTuple):
    """A key and its value in one slot; sorts by key."""

    key: bytes
    slot: int
    value: bytes


async def merged_scan(
    storage: Storage, slots: Sequence[int], start: bytes, stop: bytes, limit: int
) -> list[Found]:
    """The first ``limit`` pairs of all slots together, in the order of their keys."""
    chunk = 2 * limit // len(slots) + 1

    async def read(slot: int, after: bytes) -> list[Found]:
        pairs = await storage.scan(slot, after, stop, chunk)
        return [Found(key, slot, value) for key, value in pairs]

    buffers: dict[int, list[Found]] = {}
    for slot, pairs in zip(
        slots, await asyncio.gather(*(read(slot, start) for slot in slots)), strict=True
    ):
        buffers[slot] = pairs[::-1]  # popped from the end
    more = {slot for slot, pairs in buffers.items() if len(pairs) == chunk}
    heads = [pairs.pop() for pairs in buffers.values() if pairs]
    heapify(heads)
    found: list[Found] = []
    while heads and len(found) < limit:
        first = heappop(heads)
        found.append(first)
        buffer = buffers[first.slot]
        if not buffer and first.slot in more:
            pairs = await read(first.slot, first.key + b"\0")
            buffers[first.slot] = buffer = pairs[::-1]
            if len(pairs) < chunk:
                more.discard(first.slot)
        if buffer:
            heappush(heads, buffer.pop())
    return found


class TimerPages:
    """Lists of pending timers and of dead letters, and what can be done with the latter.

    Args:
        state: where they are.
        page_bytes_max: records on one page; it ends early when it has more.
    """

    def __init__(self, state: TimerState, page_bytes_max: int) -> None:
        self._state = state
        self._storage = state.storage
        self._page_bytes_max = page_bytes_max

    async def pending(
        self,
        limit: int,
        cursor: str | None = None,
        due_after_ms: int | None = None,
        due_before_ms: int | None = None,
    ) -> Page:
        """A page of pending timers by the time of their next delivery.

        Args:
            due_after_ms, due_before_ms: bounds of that time, epoch milliseconds, the first
                included and the second not.

        Raises:
            InvalidRequest: the cursor is none that a page gave.
        """
        _check_limit(limit)
        start, stop = DUE_PREFIX, DUE_STOP
        if due_after_ms is not None:
            start = due_key(due_after_ms, "")
        if due_before_ms is not None:
            stop = due_key(due_before_ms, "")
        if cursor is not None:
            start = max(start, _read_cursor(cursor, DUE_PREFIX))
        found = await merged_scan(self._storage, range(self._state.slots), start, stop, limit)
        timers: list[dict[str, Any]] = []
        read_bytes = shown = 0
        while shown < len(found) and read_bytes < self._page_bytes_max:
            part = found[shown : shown + READS_PER_TURN]
            ids = [split_due_key(item.key)[1] for item in part]
            values = await asyncio.gather(
                *(
                    self._storage.get(item.slot, timer_key(timer_id))
                    for item, timer_id in zip(part, ids, strict=True)
                )
            )
            for timer_id, value in zip(ids, values, strict=True):
                if value is not None:
                    delivering = self._state.is_delivering(timer_id)
                    timers.append(
                        view(timer_id, value, "delivering" if delivering else "scheduled")
                    )
                    read_bytes += len(value)
            shown += len(part)
        return Page(timers, _cursor_after(found, shown, limit))

    async def dead_letters(self, limit: int, cursor: str | None = None) -> Page:
        """A page of dead letters by id.

        Raises:
            InvalidRequest: the cursor is none that a page gave.
        """
        _check_limit(limit)
        start = DEAD_START if cursor is None else _read_cursor(cursor, DEAD_START)
        found = await merged_scan(self._storage, range(self._state.slots), start, DEAD_STOP, limit)
        timers: list[dict[str, Any]] = []
        read_bytes = 0
        for item in found:
            if read_bytes >= self._page_bytes_max:
                break
            timers.append(view(item.key[len(DEAD_START) :].decode(), item.value, "dead"))
            read_bytes += len(item.value)
        return Page(timers, _cursor_after(found, len(timers), limit))

    async def retry_dead_letter(self, timer_id: str) -> None:
        """Make a dead letter a pending timer again, due at once, with all its attempts.

        Raises:
            NotFound: no dead letter has this id.
        """
        async with self._state.changing(timer_id):
            slot = self._state.slot(timer_id)
            record = decode_record(await self._dead(slot, timer_id))
            again = replace(record, next_ms=self._state.clock.now_ms(), attempts=0)
            writes = [(dead_key(timer_id), None), *writes_put(timer_id, again)]
            await self._state.store(slot, timer_id, again, writes)

    async def delete_dead_letter(self, timer_id: str) -> None:
        """Forget a dead letter.

        Raises:
            NotFound: no dead letter has this id.
        """
        async with self._state.changing(timer_id):
            slot = self._state.slot(timer_id)
            await self._dead(slot, timer_id)
            await self._state.commit(slot, [(dead_key(timer_id), None)])

    async def _dead(self, slot: int, timer_id: str) -> bytes:
        value = await self._storage.get(slot, dead_key(timer_id))
        if value is None:
            raise NotFound(f"no dead letter has the id {timer_id!r}")
        return value


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise InvalidRequest("must be at least 1", "limit")


def _cursor_after(found: list[Found], shown: int, limit: int) -> str | None:
    if shown == len(found) < limit:
        return None
    return urlsafe_b64encode(found[shown - 1].key + b"\0").decode().rstrip("=")


def _read_cursor(cursor: str, prefix: bytes) -> bytes:
    try:
        key = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except ValueError as error:
        raise InvalidRequest("is not a cursor of an earlier page", "cursor") from error
    if not key.startswith(prefix):
        raise InvalidRequest("is not a cursor of an earlier page", "cursor")
    return key
