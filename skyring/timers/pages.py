"""Pages over all slots in one order, and dead letters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from msgspec.structs import replace

from skyring.errors import InvalidRequest, NotFound
from skyring.timers.events import about
from skyring.timers.parts import Part, PartKind, read_part
from skyring.timers.record import (
    DEAD_PREFIX,
    DEAD_STOP,
    DUE_PREFIX,
    dead_key,
    decode_record,
    due_key,
    view,
    writes_put,
)
from skyring.timers.schedule import DUE_STOP
from skyring.timers.state import TimerState

__all__ = ["Page", "Pages", "TimerPages"]


class Page(NamedTuple):
    """Some timers, and where to go on; ``cursor`` is None after the last page."""

    timers: list[dict[str, Any]]
    cursor: str | None


class Pages(ABC):
    """Lists of timers, put together of parts, and what can be done with dead letters.

    Args:
        page_bytes_max: records on one page; it ends early when it would have more.
        part_bytes_max: records in one part; None for as many as on the page.
        part_entries_max: their number, likewise.
    """

    def __init__(
        self,
        page_bytes_max: int,
        part_bytes_max: int | None = None,
        part_entries_max: int | None = None,
    ) -> None:
        self.page_bytes_max = page_bytes_max
        self._part_bytes_max = part_bytes_max
        self._part_entries_max = part_entries_max

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
            Unavailable: they cannot all be read now.
        """
        start, stop = DUE_PREFIX, DUE_STOP
        if due_after_ms is not None:
            start = due_key(due_after_ms, "")
        if due_before_ms is not None:
            stop = due_key(due_before_ms, "")
        if cursor is not None:
            start = max(start, _read_cursor(cursor, DUE_PREFIX))
        return await self._page("pending", start, stop, limit)

    async def dead_letters(self, limit: int, cursor: str | None = None) -> Page:
        """A page of dead letters by id.

        Raises:
            InvalidRequest: the cursor is none that a page gave.
            Unavailable: they cannot all be read now.
        """
        start = DEAD_PREFIX if cursor is None else _read_cursor(cursor, DEAD_PREFIX)
        return await self._page("dead", start, DEAD_STOP, limit)

    @abstractmethod
    async def retry_dead_letter(self, timer_id: str) -> None:
        """Make a dead letter a pending timer again, due at once, with all its attempts.

        Raises:
            NotFound: no dead letter has this id.
        """

    @abstractmethod
    async def delete_dead_letter(self, timer_id: str) -> None:
        """Forget a dead letter.

        Raises:
            NotFound: no dead letter has this id.
        """

    @abstractmethod
    async def _parts(
        self, kind: PartKind, start: bytes, stop: bytes, limit: int, bytes_max: int
    ) -> Sequence[Part]:
        """Parts that together have every slot once, each with up to ``limit`` timers."""

    async def _page(self, kind: PartKind, start: bytes, stop: bytes, limit: int) -> Page:
        if limit < 1:
            raise InvalidRequest("must be at least 1", "limit")
        timers: list[dict[str, Any]] = []
        left = self.page_bytes_max
        while start < stop:
            entries_max = _least(limit - len(timers), self._part_entries_max)
            bytes_max = _least(left, self._part_bytes_max)
            parts = await self._parts(kind, start, stop, entries_max, bytes_max)
            # Behind the end of the shortest part another one may have more than it shows.
            end = min((part.end for part in parts if part.end is not None), default=None)
            for item in sorted(chain(*(part.items for part in parts)), key=attrgetter("key")):
                if end is not None and item.key >= end:
                    break
                if timers and item.size_bytes > left:
                    return Page(timers, _cursor(item.key))
                timers.append(view(item.id, item.value, item.state))
                left = max(0, left - item.size_bytes)
                if len(timers) == limit:
                    return Page(timers, _cursor(item.key + b"\0"))
            if end is None:
                return Page(timers, None)
            start = end
        return Page(timers, None)


class TimerPages(Pages):
    """The lists of one node that serves all slots, and its dead letters.

    Args:
        state: where they are.
        page_bytes_max: records on one page; it ends early when it would have more.
    """

    def __init__(self, state: TimerState, page_bytes_max: int) -> None:
        super().__init__(page_bytes_max)
        self.clock = state.clock
        self.slots = state.slots
        self.slot = state.slot
        self._state = state

    async def retry_dead_letter(self, timer_id: str) -> None:
        async with self._state.changing(timer_id):
            slot = self._state.slot(timer_id)
            record = decode_record(await self._dead(slot, timer_id))
            # Without the last error: what was as large as can be must fit once more.
            now_ms = self._state.clock.now_ms()
            again = replace(record, next_ms=now_ms, attempts=0, last_error=None)
            writes = [(dead_key(timer_id), None), *writes_put(timer_id, again)]
            await self._state.store(slot, timer_id, again, writes)
            self._state.gone.add(timer_id, "retry", again.mark, self.clock.monotonic_s())
        if self._state.events is not None:
            self._state.events("retry", about(timer_id, again))

    async def delete_dead_letter(self, timer_id: str) -> None:
        async with self._state.changing(timer_id):
            slot = self._state.slot(timer_id)
            await self._dead(slot, timer_id)
            await self._state.commit(slot, [(dead_key(timer_id), None)])
            self._state.gone.add(timer_id, "delete", 0, self.clock.monotonic_s())
        if self._state.events is not None:
            self._state.events("delete", {"id": timer_id})

    async def part(
        self,
        kind: PartKind,
        slots: Sequence[int],
        start: bytes,
        stop: bytes,
        limit: int,
        bytes_max: int,
    ) -> Part:
        """The part of a page that is read here. Arguments and errors as of `read_part`."""
        return await read_part(self._state, kind, slots, start, stop, limit, bytes_max)

    async def _parts(
        self, kind: PartKind, start: bytes, stop: bytes, limit: int, bytes_max: int
    ) -> Sequence[Part]:
        slots = range(self._state.slots)
        return [await self.part(kind, slots, start, stop, limit, bytes_max)]

    async def _dead(self, slot: int, timer_id: str) -> bytes:
        value = await self._state.read(slot, dead_key(timer_id))
        if value is None:
            raise NotFound(f"no dead letter has the id {timer_id!r}")
        return value


def _least(number: int, bound: int | None) -> int:
    return number if bound is None else min(number, bound)


def _cursor(key: bytes) -> str:
    return urlsafe_b64encode(key).decode().rstrip("=")


def _read_cursor(cursor: str, prefix: bytes) -> bytes:
    try:
        key = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except ValueError as error:
        raise InvalidRequest("is not a cursor of an earlier page", "cursor") from error
    if not key.startswith(prefix):
        raise InvalidRequest("is not a cursor of an earlier page", "cursor")
    return key
