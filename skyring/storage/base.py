"""The storage contract, on which every primitive is built.

Ordered key/value per slot: keys are bytes, sorted as bytes, and those of one slot are never mixed
with another's. A commit is atomic within its slot, and durable when it returns.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Sequence
from typing import TypeAlias

__all__ = ["Damage", "Storage", "Write"]

Write: TypeAlias = tuple[bytes, bytes | None]
"""``(key, value)`` puts, ``(key, None)`` deletes. Of two writes to one key the later wins."""


class Damage:
    """What could not be read back, counted since the storage was opened."""

    def __init__(self) -> None:
        self.records = 0
        """Records whose checksum was wrong; each was put aside and is served no more."""
        self.opens = 0
        """Times that the files were found damaged when they were opened."""
        self.slots: set[int] = set()
        """Slots in which something was lost; whoever has looked after one takes it out."""


class Storage(ABC):
    """One node's store. Everything but `open` and `close` may be called concurrently.

    Errors:
        Unavailable: nothing was read or written; try again later.
        Uncertain: a commit failed half-way, it may or may not be there.
        Fenced: the claim on the slot is lost.
    """

    def __init__(self) -> None:
        self.damage = Damage()

    @abstractmethod
    async def open(self) -> None:
        """Make ready; raises StorageError (StorageLocked) if that is not possible."""

    @abstractmethod
    async def acquire(self, slots: Iterable[int]) -> None:
        """Claim slots: complete and fenced when it returns."""

    @abstractmethod
    async def release(self, slots: Iterable[int]) -> None:
        """Give claims back; later calls for these slots raise Fenced."""

    @abstractmethod
    def commit(self, slot: int, writes: Sequence[Write]) -> Awaitable[None]:
        """Apply writes atomically; durable when the awaitable is done.

        The call itself hands the writes over: commits of one slot take effect in the order of the
        calls, and one whose awaitable is cancelled is applied all the same.
        """

    @abstractmethod
    def get(self, slot: int, key: bytes) -> Awaitable[bytes | None]:
        """The value of a key, or None."""

    @abstractmethod
    async def scan(
        self, slot: int, start: bytes, stop: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Up to ``limit`` pairs with ``start <= key < stop``, in the order of their keys."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was accepted and let go of the files. May be called twice."""

    @property
    def commit_bytes_max(self) -> int | None:
        """Keys and values of one commit, as far as is known now; None: any."""
        return None

    def not_ready(self) -> str | None:
        """Why nothing can be read or written now; None if it can."""
        return None

    async def failed(self) -> None:
        """Wait until the storage is beyond repair, then raise StorageError: the node has to stop.

        A storage that cannot fail in this way waits for ever.
        """
        await asyncio.get_running_loop().create_future()
