"""Two nodes that say that they hold the same slot: the log knows who is right."""

from __future__ import annotations

from collections.abc import Iterable

from skyring.ring.host import SlotHost
from skyring.ring.observer import Spawn

__all__ = ["Contest"]

SETTLED_MS = 1_000
"""So long after a claim its former holder has said that it holds the slot no more."""


class Contest:
    """Finds out which of the slots that others name are lost.

    Args:
        host: whose slots they are.
        spawn: begins tasks.
    """

    def __init__(self, host: SlotHost, spawn: Spawn) -> None:
        self._host = host
        self._spawn = spawn
        self._claimed_ms: dict[int, int] = {}
        self._is_asking = False

    def claimed(self, slots: Iterable[int], now_ms: int) -> None:
        """These were claimed here."""
        self._claimed_ms.update(dict.fromkeys(slots, now_ms))

    def forget(self, slots: Iterable[int]) -> None:
        """These are not held here any more."""
        for slot in slots:
            self._claimed_ms.pop(slot, None)

    def heard(self, said: frozenset[int], now_ms: int) -> None:
        """Another node says that it holds these slots."""
        both = [
            slot
            for slot in said.intersection(self._host.held())
            if now_ms - self._claimed_ms.get(slot, 0) > SETTLED_MS
        ]
        if both and not self._is_asking:
            self._is_asking = self._spawn(self._ask(both))

    async def _ask(self, slots: list[int]) -> None:
        try:
            await self._host.touch(slots)
        finally:
            self._is_asking = False
