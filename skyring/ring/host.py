"""What the ring needs of those who keep the slots: the storage and the timers of this node."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

__all__ = ["SlotHost"]


class SlotHost(Protocol):
    """The slots of this node, as the ring moves them."""

    async def verify(self) -> None:
        """Is what the slots are kept in still there? Called after each new connection.

        Raises:
            Unavailable: it cannot be told now.
            StorageError: it is not; this node cannot go on.
        """

    async def inform(self) -> None:
        """Find out what is good to know, and not needed to go on. Called after each connection."""

    async def follow(self, slots: Iterable[int]) -> None:
        """Read on what others have written, so that a claim is quick.

        Raises:
            Unavailable: it cannot be read now.
            StorageError: something was lost; this node cannot go on.
        """

    async def claim(self, slots: Iterable[int]) -> None:
        """Begin an epoch of each slot, and serve it. Errors as in `follow`."""

    async def release(self, slots: Iterable[int], within_s: float | None = None) -> frozenset[int]:
        """End what is under way in these slots, and hold them no more; which are released?

        Args:
            within_s: then all of them, although deliveries are under way, which others will
                repeat. None: those that do not come to rest soon are kept.
        """

    def drop(self, slots: Iterable[int]) -> None:
        """Hold these slots no more, at once: others may have them."""

    async def touch(self, slots: Iterable[int]) -> None:
        """Write to these slots: if another node has claimed them, it shows, and they are lost."""

    def held(self) -> Collection[int]:
        """The slots that are held."""

    def epoch(self, slot: int) -> int:
        """Number of the last claim of a slot that is known here."""

    def timers(self) -> int:
        """Timers in memory."""
