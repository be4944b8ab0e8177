"""A log that fails as real ones do: refuses, loses the answer, answers late, is away."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Literal, TypeAlias

from skyring.errors import Unavailable, Uncertain
from skyring.storage.log import Log, Message, SlotLog

__all__ = ["Fault", "FaultyLog"]

Fault: TypeAlias = Literal["fine", "refused", "answer lost", "request lost", "late", "then away"]


class FaultyLog(Log):
    """Stands before a log that is shared with others.

    ``faults`` says what becomes of the next appends; when it is used up, all is fine.
    """

    def __init__(self, inner: Log) -> None:
        self._inner = inner
        self.faults: deque[Fault] = deque()
        self.is_away = False
        self.appends = 0
        self._late: list[asyncio.Task[int]] = []

    async def open(self) -> None:
        pass

    async def check(self) -> None:
        pass

    @property
    def identity(self) -> str:
        return self._inner.identity

    @property
    def message_bytes_max(self) -> int:
        return self._inner.message_bytes_max

    async def append(self, slot: int, data: bytes, expected: int) -> int:
        self.appends += 1
        fault = self.faults.popleft() if self.faults else "fine"
        if self.is_away or fault == "refused":
            raise Unavailable("the log is away")
        if fault == "request lost":
            raise Uncertain("no answer")
        if fault == "late":
            self._late.append(asyncio.create_task(self._append_late(slot, data, expected)))
            raise Uncertain("no answer yet")
        sequence = await self._inner.append(slot, data, expected)
        self.is_away = fault == "then away"
        if fault in ("answer lost", "then away"):
            raise Uncertain("no answer")
        return sequence

    async def last(self, slot: int) -> Message | None:
        self._check()
        return await self._inner.last(slot)

    async def read(self, after: Mapping[int, int]) -> AsyncIterator[Message]:
        self._check()
        async for message in self._inner.read(after):
            yield message

    async def purge(self, slot: int, below: int) -> None:
        self._check()
        await self._inner.purge(slot, below)

    async def size(self, slot: int) -> SlotLog:
        return await self._inner.size(slot)

    async def close(self) -> None:
        if self._late:
            await asyncio.wait(self._late)
            for task in self._late:
                task.exception()  # refused by now, or appended
            self._late.clear()

    def _check(self) -> None:
        if self.is_away:
            raise Unavailable("the log is away")

    async def _append_late(self, slot: int, data: bytes, expected: int) -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        return await self._inner.append(slot, data, expected)
