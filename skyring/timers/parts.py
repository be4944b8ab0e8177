"""Parts of a list: the timers of some slots in the order of their keys, as their holder reads them.

A page over all slots is put together of parts; on one node there is one part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Literal, NamedTuple, TypeAlias

from skyring.storage.base import Storage
from skyring.timers.record import DEAD_PREFIX, split_due_key, timer_key
from skyring.timers.state import TimerState

__all__ = ["Item", "Part", "PartKind", "merged_scan", "read_part"]

PartKind: TypeAlias = Literal["pending", "dead"]

READS_PER_TURN = 50
"""Records read together."""


class Item(NamedTuple):
    """One timer: its place in the list, and its record as it is stored."""

    key: bytes
    state: Literal["scheduled", "delivering", "dead"]
    value: bytes

    @property
    def size_bytes(self) -> int:
        """What it takes of a page."""
        return len(self.key) + len(self.value)

    @property
    def id(self) -> str:
        """The id of the timer."""
        if self.state == "dead":
            return self.key[len(DEAD_PREFIX) :].decode()
        return split_due_key(self.key)[1]


class Part(NamedTuple):
    """All timers of some slots with ``start <= key < end``."""

    items: list[Item]
    end: bytes | None
    """None: there are no more up to where it was asked for."""


class Found(NamedTuple):
    """A key and its value in one slot; sorts by key."""

    key: bytes
    slot: int
    value: bytes


async def merged_scan(
    storage: Storage, slots: Sequence[int], start: bytes, stop: bytes, limit: int
) -> list[Found]:
    """The first ``limit`` pairs of all slots together, in the order of their keys."""
    chunk = 2 * limit // max(1, len(slots)) + 1

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


async def read_part(
    state: TimerState,
    kind: PartKind,
    slots: Sequence[int],
    start: bytes,
    stop: bytes,
    limit: int,
    bytes_max: int,
) -> Part:
    """The first timers of some slots with ``start <= key < stop``.

    Args:
        limit: so many at the most.
        bytes_max: it ends before it has more, but has one timer at least.

    Raises:
        Fenced: one of the slots is not held.
        Unavailable: they cannot be read now.
    """
    found = await merged_scan(state.storage, slots, start, stop, limit)
    items: list[Item] = []
    size = 0
    for first in range(0, len(found), READS_PER_TURN):
        chunk = found[first : first + READS_PER_TURN]
        if kind == "dead":
            values: list[Item | None] = [Item(key, "dead", value) for key, _, value in chunk]
        else:
            values = await asyncio.gather(*(_pending(state, place) for place in chunk))
        for item in values:
            if item is None:
                continue  # gone meanwhile
            size += item.size_bytes
            if items and size > bytes_max:
                return Part(items, item.key)
            items.append(item)
    return Part(items, found[-1].key + b"\0" if len(found) == limit else None)


async def _pending(state: TimerState, place: Found) -> Item | None:
    timer_id = split_due_key(place.key)[1]
    value = await state.storage.get(place.slot, timer_key(timer_id))
    if value is None:
        return None
    return Item(place.key, "delivering" if state.is_delivering(timer_id) else "scheduled", value)
