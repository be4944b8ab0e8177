"""The reference implementation: correct, in memory, forgotten at exit."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Awaitable, Iterable, Sequence

from skyring.errors import Fenced, Unavailable
from skyring.storage.base import Storage, Write

__all__ = ["MemoryStorage"]


class _Slot:
    """A dict and its keys in order."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.values:
            insort(self.keys, key)
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        if self.values.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


class MemoryStorage(Storage):
    """Keeps everything in dicts; the model that other backends are compared with."""

    def __init__(self) -> None:
        super().__init__()
        self._slots: dict[int, _Slot] = {}
        self._claimed: set[int] = set()
        self._open = False

    async def open(self) -> None:
        self._open = True

    async def acquire(self, slots: Iterable[int]) -> None:
        self._claimed.update(slots)

    async def release(self, slots: Iterable[int]) -> None:
        self._claimed.difference_update(slots)

    def commit(self, slot: int, writes: Sequence[Write]) -> Awaitable[None]:
        held = self._held(slot)
        for key, value in writes:
            if value is None:
                held.delete(key)
            else:
                held.put(key, value)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def get(self, slot: int, key: bytes) -> bytes | None:
        return self._held(slot).values.get(key)

    async def scan(
        self, slot: int, start: bytes, stop: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        held = self._held(slot)
        first = bisect_left(held.keys, start)
        last = min(bisect_left(held.keys, stop), first + limit)
        return [(key, held.values[key]) for key in held.keys[first:last]]

    async def close(self) -> None:
        self._open = False

    def _held(self, slot: int) -> _Slot:
        if not self._open:
            raise Unavailable("the storage is closed")
        if slot not in self._claimed:
            raise Fenced(f"slot {slot} is not held")
        return self._slots.setdefault(slot, _Slot())
