"""The near future, held in memory: which timer is due next, and what has yet to be read.

Pure: it decides what to read and what is due; reading and delivering is done by others.

Every slot has a low-water mark, a key of its due index. What lies below it is in the heap here, is
being delivered, or is gone; what lies above is only in the storage. A hint in the heap is never
more than a hint: it may be stale or double, and the record decides when it is due.

Slots come and go, which costs next to nothing: the hints of a paused slot are put aside when they
become due, and those of a dropped one are cleared away later, all at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from skyring.timers.record import DUE_PREFIX, Hint, due_key, due_ms_of

__all__ = ["DUE_STOP", "Load", "Schedule"]

DUE_STOP = bytes([DUE_PREFIX[0], DUE_PREFIX[1] + 1])
"""The first key after the due index."""
OVERFLOW = 1.25
"""New timers may exceed the maximum by this factor before the latest are dropped again."""
ASIDE = 0.25
"""Part of the maximum that may be put aside for paused slots; what is more is read again."""


class Load(NamedTuple):
    """A part of one slot's due index to be read: ``start <= key < stop``, up to ``limit`` keys."""

    slot: int
    start: bytes
    stop: bytes
    limit: int


class Schedule:
    """A heap of hints, bounded in number.

    Args:
        scheduled_max: hints held; when there are more, the latest are left to the storage.
    """

    def __init__(self, scheduled_max: int) -> None:
        self._scheduled_max = scheduled_max
        self._heap: list[Hint] = []
        self._marks: dict[int, bytes] = {}
        self._marks_ms: dict[int, int] = {}  # the time in each mark
        self._terms: dict[int, int] = {}
        self._terms_begun = 0
        self._paused: set[int] = set()
        self._aside: list[Hint] = []  # due, in slots that are paused
        self._dropped: set[int] = set()  # slots that may have left hints behind

    def __len__(self) -> int:
        return len(self._heap) + len(self._aside)

    def serve(self, slots: Iterable[int]) -> None:
        """Begin to serve slots; nothing of them has been read yet. Others stay as they are."""
        new = {slot for slot in slots if slot not in self._marks}
        if not self._dropped.isdisjoint(new):
            self.clear_away()  # or else their hints would be held twice
        for slot in sorted(new):
            self._terms_begun += 1
            self._terms[slot] = self._terms_begun
            self._set_mark(slot, due_key(0, ""))

    def pause(self, slots: Iterable[int]) -> None:
        """Give no hints of these slots, and read no more of them, until they are resumed."""
        self._paused.update(slot for slot in slots if slot in self._marks)

    def resume(self, slots: Iterable[int]) -> None:
        """Give hints of paused slots again."""
        self._paused.difference_update(slots)
        aside, self._aside = self._aside, []
        for hint in aside:
            if hint.slot in self._paused:
                self._aside.append(hint)
            else:
                heappush(self._heap, hint)

    def drop(self, slots: Iterable[int]) -> None:
        """Serve slots no more, and forget what is known of them."""
        dropped = {slot for slot in slots if slot in self._marks}
        for slot in dropped:
            del self._marks[slot], self._marks_ms[slot], self._terms[slot]
        self._dropped |= dropped
        self._paused -= dropped
        self._aside = [hint for hint in self._aside if hint.slot not in dropped]

    def clear_away(self) -> None:
        """Forget what dropped slots have left behind. It takes a look at every hint."""
        if self._dropped:
            self._heap = [hint for hint in self._heap if hint.slot not in self._dropped]
            heapify(self._heap)
            self._dropped.clear()

    def term(self, slot: int) -> int:
        """A number that is another one each time that a slot is served anew; 0 while it is not."""
        return self._terms.get(slot, 0)

    def is_open(self, slot: int) -> bool:
        """Is a slot served, and not paused?"""
        return slot in self._marks and slot not in self._paused

    def is_beyond(self, slot: int, due_ms: int) -> bool:
        """Would `push` certainly leave this timer to the storage? A cheap look before it."""
        return due_ms > self._marks_ms.get(slot, -1)

    def push(self, hint: Hint) -> bool:
        """Take note of a timer that was stored; True if it is now the first one due."""
        mark = self._marks.get(hint.slot)
        if mark is None or due_key(hint.due_ms, hint.id) >= mark:
            return False  # it will be read from the storage in time
        heappush(self._heap, hint)
        if len(self._heap) > self._scheduled_max * OVERFLOW:
            self._drop_latest()
        return self._heap[0] is hint

    def next_due_ms(self) -> int | None:
        """When the first hint is due; None without any."""
        return self._heap[0].due_ms if self._heap else None

    def pop_due(self, now_ms: int, limit: int) -> list[Hint]:
        """Up to ``limit`` hints that are due, the earliest first; there may be more behind them."""
        due: list[Hint] = []
        heap = self._heap
        while heap and heap[0].due_ms <= now_ms and len(due) < limit:
            due.append(heappop(heap))
        if self._paused or self._dropped:
            due = [hint for hint in due if self._is_wanted(hint)]
        return due

    def _is_wanted(self, hint: Hint) -> bool:
        """Is a hint that is due to be given? If not, it is seen to."""
        if hint.slot in self._paused:
            if len(self._aside) < self._scheduled_max * ASIDE:
                self._aside.append(hint)
            else:
                self._drop([hint])
            return False
        return hint.slot not in self._dropped

    def behind(self, until_ms: int) -> list[int]:
        """Slots that have not been read up to ``until_ms``, the farthest behind first."""
        stop = due_key(until_ms, "")
        behind = ((mark, slot) for slot, mark in self._marks.items() if mark < stop)
        return [slot for _, slot in sorted(behind) if slot not in self._paused]

    def has_room(self) -> bool:
        """Is it worth while to read more?"""
        return 2 * len(self) <= self._scheduled_max

    def make_room(self, until_ms: int) -> bool:
        """If memory is full, drop what is due at ``until_ms`` or later; was there anything?

        The near goes before the far.
        """
        if len(self) < self._scheduled_max:
            return False
        kept = [hint for hint in self._heap if hint.due_ms < until_ms]
        if len(kept) == len(self._heap):
            return False
        self._drop([hint for hint in self._heap if hint.due_ms >= until_ms])
        self._heap = kept
        heapify(self._heap)
        return True

    def begin_load(self, slot: int, until_ms: int, limit: int) -> Load | None:
        """What to read next of a slot; None when it is read up to ``until_ms`` or memory is full.
        The mark rises before the reading begins, so that a timer stored meanwhile is pushed here
        and cannot fall between the reading and the mark.
        """
        start, stop = self._marks.get(slot), due_key(until_ms, "")
        if start is None or start >= stop or slot in self._paused:
            return None
        space = self._scheduled_max - len(self)
        if space <= 0:
            return None
        self._set_mark(slot, stop)
        return Load(slot, start, stop, min(space, limit))

    def end_load(self, load: Load, found: list[Hint]) -> None:
        """Take over what was read; if it was cut by the limit, the mark goes back to its end."""
        if load.slot not in self._marks:
            return
        if len(found) >= load.limit:
            last = found[-1]
            self._lower(load.slot, due_key(last.due_ms, last.id) + b"\0")
        for hint in found:
            heappush(self._heap, hint)

    def abort_load(self, load: Load) -> None:
        """The reading failed: it has to be done again."""
        if load.slot in self._marks:
            self._lower(load.slot, load.start)

    def _lower(self, slot: int, key: bytes) -> None:
        self._set_mark(slot, min(self._marks[slot], key))

    def _set_mark(self, slot: int, key: bytes) -> None:
        self._marks[slot] = key
        self._marks_ms[slot] = due_ms_of(key)

    def _drop_latest(self) -> None:
        self._heap.sort()  # a sorted list is a heap
        self._drop(self._heap[self._scheduled_max :])
        del self._heap[self._scheduled_max :]

    def _drop(self, hints: Iterable[Hint]) -> None:
        """Leave hints to the storage. There may be many: a mark is worked out once for a slot."""
        first: dict[int, Hint] = {}
        for hint in hints:
            slot = hint.slot
            if slot not in first or hint < first[slot]:
                first[slot] = hint
        for slot, hint in first.items():
            if slot in self._marks:
                self._lower(slot, due_key(hint.due_ms, hint.id))
